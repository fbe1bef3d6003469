"""The CPU that this process runs on: its class, and how much of it the process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

CPU_FILE = Path("/proc/cpuinfo")
CPU_CLASSES = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "i8mm", "asimddp")
"""What ONNX Runtime chooses its int8 kernels by, the first that a CPU has: flags of /proc/cpuinfo."""
SATURATING_CLASSES = ("avx512bw", "avx2")
"""Where a sum of two products u8 x s8 is held in 16 bits and saturates (`vpmaddubsw`)."""

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "<quota or max> <period>", microseconds


def usable_cpus(quota_file: Path = CGROUP_QUOTA) -> int:
    """CPUs this process may run on: its affinity, cut down to the container's quota, at least 1."""
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
    """What the system says of the last CPU, by field; nothing where there is no such file."""
    try:
        lines = cpu_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
