"""Measures what training makes of its machine: CPUs, memory and GPU, between optimizer steps."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import torch

from gauntlet.serving.cpu import CpuWait, usable_cpus
from gauntlet.trainer.usage import Sample

SECONDS_BETWEEN_SAMPLES = 2.0
GB = 1e9
PROCESS_STATUS = Path("/proc/self/status")


class Sampler:
    """Counts steps, and measures what they took. Costs some milliseconds a sample, and no thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._cpu_wait = CpuWait()
        self._taken: float | None = None
        self._start_over()

    def count(self, rows: int, seconds: float) -> None:
        """Count optimizer steps."""
        self._rows += rows
        self._step_seconds += seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a sample: after the first step, then every few seconds."""
        return self._taken is None or time.monotonic() - self._taken >= SECONDS_BETWEEN_SAMPLES

    def take(self) -> Sample:
        """What was measured since the last sample."""
        self._taken = time.monotonic()
        seconds = max(self._taken - self._began, 1e-9)
        processes = self._processes()
        cpu_seconds = sum(map(_cpu_seconds, processes)) - self._cpu_seconds_before
        others = sum(map(_resident, processes[1:]))
        sample = Sample(
            seconds=seconds,
            rows=self._rows,
            step_seconds=self._step_seconds,
            # The CPU time of a process that has ended is missing until its parent has waited for it, and the
            # system counts in hundredths of a second.
            cpu_utilisation=min(max(cpu_seconds / (seconds * usable_cpus()), 0.0), 1.0),
            memory_gb=(_resident(self._process) + others) / GB,
            peak_memory_gb=(_peak_resident(self._process) + others) / GB,
            cpu_wait=self._cpu_wait.since().share_waited,
            gpu_utilisation=_gpu_utilisation(self._device),
            **_gpu_memory(self._device),
        )
        self._start_over()
        return sample

    def _start_over(self) -> None:
        self._began = time.monotonic()
        self._rows, self._step_seconds = 0, 0.0
        self._cpu_seconds_before = sum(map(_cpu_seconds, self._processes()))

    def _processes(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process, and of those of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _peak_resident(process: psutil.Process) -> int:
    """The most that this process has held since its start, where Linux tells, else what it holds now."""
    try:
        lines = PROCESS_STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return _resident(process)
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return max([_resident(process), *peaks])


def _gpu_utilisation(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # NVML has an error for each way of not telling: no driver library, a slice of a GPU
        return None


def _gpu_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {
        "gpu_memory_gb": torch.cuda.memory_reserved(device) / GB,
        "peak_gpu_memory_gb": torch.cuda.max_memory_reserved(device) / GB,
    }
