"""The processor that figures were taken on, in words."""

from __future__ import annotations

import platform
from pathlib import Path

CPU_FILE = Path("/proc/cpuinfo")
# What makes int8 fast. Without one of them int8 products are slower, and their sums may saturate.
INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")


def describe_processor(cpu_file: Path = CPU_FILE) -> str:
    """The model's name and its int8 instructions; the bare architecture where the system tells no more."""
    fields = _fields(cpu_file)
    if not fields:
        return platform.machine()
    name = fields.get("model name", platform.machine())
    return f"{name} ({', '.join(int8_instructions(cpu_file)) or 'no int8 instructions'})"


def int8_instructions(cpu_file: Path = CPU_FILE) -> tuple[str, ...]:
    """Which of `INT8_INSTRUCTIONS` the processor has; none where the system does not tell."""
    fields = _fields(cpu_file)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return tuple(instruction for instruction in INT8_INSTRUCTIONS if instruction in flags)


def _fields(cpu_file: Path) -> dict[str, str]:
    try:
        lines = cpu_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields
