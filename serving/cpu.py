"""The CPU that this process runs on: its class, how much of it the process may use, and how long it waits."""

from __future__ import annotations

import math
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU_FILE = Path("/proc/cpuinfo")
CPU_CLASSES = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp")
"""What ONNX Runtime chooses its int8 kernels by, the first that a CPU has: flags of /proc/cpuinfo."""
SATURATING_CLASSES = ("avx512bw", "avx2")
"""Where a sum of two products u8 x s8 is held in 16 bits and saturates (`vpmaddubsw`)."""

TASKS = Path("/proc/self/task")
NANOSECONDS = 1e9

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota or max> <period>", microseconds


def usable_cpus(quota_file: Path = CGROUP_QUOTA) -> int:
    """CPUs that this process may run on: its affinity, limited by the container's quota, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):
        return cpus
    if quota == "max":
        return cpus
    return max(1, min(cpus, math.ceil(int(quota) / int(period))))


def cpu_class(cpu_file: Path = CPU_FILE) -> str:
    """The first of `CPU_CLASSES` that this CPU has; the bare architecture where the system does not say."""
    fields = cpu_fields(cpu_file)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return next((name for name in CPU_CLASSES if name in flags), platform.machine())


def cpu_fields(cpu_file: Path = CPU_FILE) -> dict[str, str]:
    """What the system says about the last CPU, by field; empty if there is no such file."""
    try:
        lines = cpu_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


@dataclass(frozen=True)
class ThreadTime:
    """Seconds that threads ran, and that they waited for a CPU while others ran; neither counts sleep."""

    running: float
    waiting: float

    @property
    def share_waited(self) -> float | None:
        """The share of its time that a process waited; None where that is not known, or it only slept."""
        total = self.running + self.waiting
        return self.waiting / total if total else None


class CpuWait:
    """How long the threads of this process run and wait for a CPU."""

    def __init__(self, tasks: Path = TASKS) -> None:
        self._tasks = tasks
        self._before = self._read()

    def since(self) -> ThreadTime:
        """The time of all threads since the last call, together; zeros where the system does not say."""
        now = self._read()
        seen = [thread for thread in now if thread in self._before]
        running, waiting = (
            sum(now[thread][field] - self._before[thread][field] for thread in seen) for field in (0, 1)
        )
        self._before = now
        return ThreadTime(running / NANOSECONDS, waiting / NANOSECONDS)

    def _read(self) -> dict[str, tuple[int, int]]:
        """Nanoseconds that each thread ran and waited to run, since it was started: Linux's schedstat."""
        times: dict[str, tuple[int, int]] = {}
        if not self._tasks.is_dir():  # not Linux
            return times
        for thread in self._tasks.iterdir():
            with suppress(OSError, ValueError):  # it has ended; a kernel without schedstat
                running, waiting, _ = (thread / "schedstat").read_text().split()
                times[thread.name] = (int(running), int(waiting))
        return times
