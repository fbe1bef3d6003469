"""Which accelerators Vertex AI has and which machines take them.

The names are the API's own enum. The pairs are of
https://cloud.google.com/vertex-ai/docs/training/configure-compute, of 2026-10-07.
"""

from __future__ import annotations

from google.cloud.aiplatform_v1.types import AcceleratorType

from manifests.training import Resources

ACCELERATORS = tuple(kind.name for kind in AcceleratorType if kind.value)

ATTACHED_TO_N1 = {
    "NVIDIA_TESLA_T4": (1, 2, 4),
    "NVIDIA_TESLA_P4": (1, 2, 4),
    "NVIDIA_TESLA_P100": (1, 2, 4),
    "NVIDIA_TESLA_V100": (1, 2, 4, 8),
}
"""How many of each an N1 machine takes."""

BUILT_IN = {
    "g2-standard-4": ("NVIDIA_L4", 1),
    "g2-standard-8": ("NVIDIA_L4", 1),
    "g2-standard-12": ("NVIDIA_L4", 1),
    "g2-standard-16": ("NVIDIA_L4", 1),
    "g2-standard-24": ("NVIDIA_L4", 2),
    "g2-standard-32": ("NVIDIA_L4", 1),
    "g2-standard-48": ("NVIDIA_L4", 4),
    "g2-standard-96": ("NVIDIA_L4", 8),
    **{f"a2-highgpu-{count}g": ("NVIDIA_TESLA_A100", count) for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{count}g": ("NVIDIA_A100_80GB", count) for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": ("NVIDIA_H100_80GB", count) for count in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
}
"""Machines that come with accelerators, which a job has to ask for nevertheless, exactly so many."""

ACCELERATED_FAMILIES = ("g2-", "a2-", "a3-")

QUOTA_NAMES = {
    "NVIDIA_TESLA_T4": "nvidia_t4_gpus",
    "NVIDIA_TESLA_P4": "nvidia_p4_gpus",
    "NVIDIA_TESLA_P100": "nvidia_p100_gpus",
    "NVIDIA_TESLA_V100": "nvidia_v100_gpus",
    "NVIDIA_TESLA_A100": "nvidia_a100_gpus",
    "NVIDIA_A100_80GB": "nvidia_a100_80gb_gpus",
    "NVIDIA_L4": "nvidia_l4_gpus",
    "NVIDIA_H100_80GB": "nvidia_h100_gpus",
}
"""As https://cloud.google.com/vertex-ai/docs/quotas names them, after what they are for."""


def needed_quota(resources: Resources) -> tuple[str, int] | None:
    """The quota that a training uses, and how much of it; none where its name is not known here."""
    purpose = "aiplatform.googleapis.com/custom_model_training_"
    if resources.strategy == "spot":
        purpose += "preemptible_"
    if resources.accelerator_type is None:
        cpus = resources.machine_type.rpartition("-")[2]
        return (f"{purpose}cpus", int(cpus) * resources.replica_count) if cpus.isdigit() else None
    name = QUOTA_NAMES.get(resources.accelerator_type)
    return (f"{purpose}{name}", resources.accelerator_count * resources.replica_count) if name else None


def machine_fault(machine: str, accelerator: str | None, count: int) -> str | None:
    """Why Vertex AI would refuse the pair, if it would. Machines without accelerators are not looked up."""
    if accelerator is not None and accelerator not in ACCELERATORS:
        return f"accelerator {accelerator} is none of {', '.join(ACCELERATORS)}"
    if machine.startswith(ACCELERATED_FAMILIES):
        if machine not in BUILT_IN:
            return f"machine type {machine} is none of {', '.join(BUILT_IN)}"
        kind, number = BUILT_IN[machine]
        if (accelerator, count) != (kind, number):
            return f"{machine} comes with {number} × {kind} and was asked for {count} × {accelerator}"
    elif accelerator is not None and not machine.startswith("n1-"):
        return f"{machine} takes no accelerators: only n1 machines have them attached"
    elif accelerator is not None and count not in ATTACHED_TO_N1.get(accelerator, ()):
        return f"{machine} does not take {count} × {accelerator}"
    return None
