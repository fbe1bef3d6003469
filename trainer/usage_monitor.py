"""Measures how training uses its machine's CPUs, memory and GPU, between optimizer steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from gauntlet.contracts.training import Usage
from gauntlet.serving.cpu import CpuWait, usable_cpus

SECONDS_BETWEEN_SAMPLES = 2.0
GB = 1e9
PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Sample:
    """A measurement over the last `seconds`. GB are 10⁹ bytes.

    Attributes:
        rows: Rows trained on.
        step_seconds: Time spent in optimizer steps.
        cpu_utilisation: CPU time of training as a share of the usable CPUs' time.
        memory_gb: Resident memory of this process and its descendants.
        peak_memory_gb: The peak of this process since its start, plus the descendants' memory now.
        cpu_wait: Share of their time that this process's threads waited for a CPU while others ran.
        gpu_utilisation: Share of the time in which a kernel of any process ran on the GPU.
        gpu_memory_gb: Reserved by torch.
        peak_gpu_memory_gb: The peak of that.
    """

    seconds: float
    rows: int
    step_seconds: float
    cpu_utilisation: float
    memory_gb: float
    peak_memory_gb: float
    cpu_wait: float | None = None
    gpu_utilisation: float | None = None
    gpu_memory_gb: float | None = None
    peak_gpu_memory_gb: float | None = None

    def metrics(self) -> dict[str, float]:
        """The figures that the machine reports, by their names in a tracker."""
        figures = {
            "step/examples_per_second": self.rows / self.step_seconds if self.step_seconds else None,
            "system/cpu_utilisation": self.cpu_utilisation,
            "system/cpu_wait": self.cpu_wait,
            "system/memory_gb": self.memory_gb,
            "system/gpu_utilisation": self.gpu_utilisation,
            "system/gpu_memory_gb": self.gpu_memory_gb,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}


class UsageMonitor:
    """Counts steps, and measures what they used. A sample costs some milliseconds; there is no thread."""

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
        """Measure since the last sample."""
        self._taken = time.monotonic()
        seconds = max(self._taken - self._began, 1e-9)
        processes = self._processes()
        cpu_seconds = sum(map(_cpu_seconds, processes)) - self._cpu_seconds_before
        others = sum(map(_resident, processes[1:]))
        sample = Sample(
            seconds=seconds,
            rows=self._rows,
            step_seconds=self._step_seconds,
            # The CPU time of a process that ended is missing until its parent has waited for it, and the
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


def with_sample(usage: Usage, sample: Sample) -> Usage:
    """The usage, one sample later."""
    rows, step_seconds = usage.rows + sample.rows, usage.step_seconds + sample.step_seconds

    def mean(before: float | None, now: float | None) -> float | None:
        if before is None or now is None:
            return now if before is None else before
        total = usage.seconds + sample.seconds
        return (before * usage.seconds + now * sample.seconds) / total if total else now

    return Usage(
        seconds=usage.seconds + sample.seconds,
        rows=rows,
        step_seconds=step_seconds,
        examples_per_second=rows / step_seconds if step_seconds else None,
        cpu_utilisation=mean(usage.cpu_utilisation, sample.cpu_utilisation),
        cpu_wait=mean(usage.cpu_wait, sample.cpu_wait),
        peak_memory_gb=_larger(usage.peak_memory_gb, sample.peak_memory_gb),
        gpu_utilisation=mean(usage.gpu_utilisation, sample.gpu_utilisation),
        peak_gpu_memory_gb=_larger(usage.peak_gpu_memory_gb, sample.peak_gpu_memory_gb),
    )


def _larger(before: float | None, now: float | None) -> float | None:
    return max((figure for figure in (before, now) if figure is not None), default=None)


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its children that have ended."""
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
    """The peak of this process since its start; what it holds now if the system reports no peak."""
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
    except Exception:  # NVML raises many errors: no driver library, a slice of a GPU
        return None


def _gpu_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {
        "gpu_memory_gb": torch.cuda.memory_reserved(device) / GB,
        "peak_gpu_memory_gb": torch.cuda.max_memory_reserved(device) / GB,
    }
