"""Which accelerators Vertex AI has and which machines can have them.

The names are those of the API. What is built into a machine is in `backends.prices`, with its price.
https://cloud.google.com/vertex-ai/docs/training/configure-compute, of 2026-10-07.
"""

from __future__ import annotations

from google.cloud.aiplatform_v1.types import AcceleratorType

from gauntlet.backends.prices import ATTACHES_ACCELERATORS, BUILT_IN
from gauntlet.manifests.accelerators import accelerator_fault
from gauntlet.manifests.training import Resources

ACCELERATORS = tuple(kind.name for kind in AcceleratorType if kind.value)

ATTACHED_TO_N1 = {"NVIDIA_TESLA_T4": (1, 2, 4)}
"""How many of each an N1 machine can have."""

ACCELERATED_FAMILIES = ("g2-", "g4-", "a2-", "a3-", "a4-")

FLEX_START_GPUS = (
    "NVIDIA_L4",
    "NVIDIA_TESLA_A100",
    "NVIDIA_A100_80GB",
    "NVIDIA_H100_80GB",
    "NVIDIA_H100_MEGA_80GB",
    "NVIDIA_H200_141GB",
    "NVIDIA_B200",
)
FLEX_START_SECONDS = 7 * 24 * 3600
"""The GPUs that `flex_start` is for, and the longest job:
https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws"""

GPU_QUOTAS = {
    "NVIDIA_TESLA_T4": "nvidia_t4_gpus",
    "NVIDIA_TESLA_A100": "nvidia_a100_gpus",
    "NVIDIA_A100_80GB": "nvidia_a100_80gb_gpus",
    "NVIDIA_L4": "nvidia_l4_gpus",
    "NVIDIA_H100_80GB": "nvidia_h100_gpus",
}
CPU_QUOTAS = {"n1": "cpus", "e2": "cpus", "n2": "n2_cpus", "c2": "c2_cpus"}
"""CPUs by machine family. Names are of https://cloud.google.com/vertex-ai/docs/quotas."""

STANDARD_QUOTA = "aiplatform.googleapis.com/custom_model_training_"
PREEMPTIBLE_QUOTA = f"{STANDARD_QUOTA}preemptible_"


def needed_quotas(resources: Resources, cpus_of_a_step: int) -> dict[str, int]:
    """The quotas that a run uses and how much of each: the machines of the training, and one step beside it.

    A plain step runs on a machine of Vertex AI's choice and uses the quota for N1 and E2 CPUs, as
    https://github.com/GoogleCloudPlatform/vertex-ai-samples/issues/3479 shows. Spot and flex-start machines
    use the preemptible quota: https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws#quota. A
    persistent resource has its machines already. What has no known quota name is left out.
    """
    needed = {f"{STANDARD_QUOTA}cpus": cpus_of_a_step}
    if resources.persistent_resource is not None:
        return needed
    prefix = STANDARD_QUOTA if resources.strategy == "standard" else PREEMPTIBLE_QUOTA
    family, cpus = resources.machine_type.partition("-")[0], resources.machine_type.rpartition("-")[2]
    if family in CPU_QUOTAS and cpus.isdigit():
        metric, amount = f"{prefix}{CPU_QUOTAS[family]}", int(cpus) * resources.replica_count
        needed[metric] = max(amount, needed.get(metric, 0))
    gpus = GPU_QUOTAS.get(resources.accelerator_type or "")
    if gpus is not None:
        needed[f"{prefix}{gpus}"] = resources.accelerator_count * resources.replica_count
    return needed


def flex_start_fault(accelerator: str | None, timeout_seconds: float) -> str | None:
    """Why `flex_start` is not possible for a job; None if it is."""
    if accelerator not in FLEX_START_GPUS:
        return (
            f"strategy flex_start is for {', '.join(FLEX_START_GPUS)}, not for {accelerator or 'CPUs alone'}"
        )
    if timeout_seconds > FLEX_START_SECONDS:
        return f"strategy flex_start is for 7 days at most, and the job's timeout is {timeout_seconds:.0f} s"
    return None


def machine_fault(machine: str, accelerator: str | None, count: int) -> str | None:
    """Why Vertex AI would refuse the pair, or training could not use it; None if it is valid or unknown."""
    if accelerator is not None and accelerator not in ACCELERATORS:
        return f"accelerator {accelerator} is none of {', '.join(ACCELERATORS)}"
    if accelerator is not None and (fault := accelerator_fault(accelerator)):
        return f"accelerator {fault}"
    if machine.startswith(ACCELERATED_FAMILIES):
        return _built_in_fault(machine, accelerator, count)
    if accelerator is not None and not machine.startswith(ATTACHES_ACCELERATORS):
        return f"{machine} takes no accelerators: only n1 machines have them attached"
    if accelerator is not None and count not in ATTACHED_TO_N1.get(accelerator, ()):
        return f"{machine} does not take {count} × {accelerator}"
    return None


def _built_in_fault(machine: str, accelerator: str | None, count: int) -> str | None:
    if machine not in BUILT_IN:
        return f"machine type {machine} is none of {', '.join(BUILT_IN)}"
    kind, number = BUILT_IN[machine]
    if (accelerator, count) != (kind, number):
        return f"{machine} comes with {number} × {kind} and was asked for {count} × {accelerator}"
    return None
