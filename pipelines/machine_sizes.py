"""How many CPUs and how much memory the machine types of Compute Engine have.

https://cloud.google.com/compute/docs/machine-resource, of 2026-10-07.
"""

from __future__ import annotations

from dataclasses import dataclass

GB_PER_CPU = {
    "n1-standard": 3.75,
    "n1-highmem": 6.5,
    "e2-standard": 4.0,
    "g2-standard": 4.0,
}
"""Families whose last number is the CPUs."""

SIZES = {
    "a2-highgpu-1g": (12, 85),
    "a2-highgpu-2g": (24, 170),
    "a2-highgpu-4g": (48, 340),
    "a2-highgpu-8g": (96, 680),
    "a2-megagpu-16g": (96, 1360),
    "a2-ultragpu-1g": (12, 170),
    "a2-ultragpu-2g": (24, 340),
    "a2-ultragpu-4g": (48, 680),
    "a2-ultragpu-8g": (96, 1360),
    "a3-highgpu-1g": (26, 234),
    "a3-highgpu-2g": (52, 468),
    "a3-highgpu-4g": (104, 936),
    "a3-highgpu-8g": (208, 1872),
    "a3-megagpu-8g": (208, 1872),
    "a3-ultragpu-8g": (224, 2952),
}
"""CPUs and GB of the types whose last number is the accelerators."""


@dataclass(frozen=True)
class MachineSize:
    """What a machine has, or a pod asks for."""

    cpus: int
    memory_gb: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs and {self.memory_gb} GB"


def machine_size(machine_type: str) -> MachineSize | None:
    """The size of a machine type; none where it is not known here."""
    if machine_type in SIZES:
        return MachineSize(*SIZES[machine_type])
    family, _, cpus = machine_type.rpartition("-")
    if family not in GB_PER_CPU or not cpus.isdecimal():
        return None
    return MachineSize(int(cpus), int(int(cpus) * GB_PER_CPU[family]))
