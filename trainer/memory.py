"""The memory that a manifest allows: the GPU's, which torch keeps to, and the system's, which is watched."""

from __future__ import annotations

import torch

from gauntlet.manifests.training import Resources
from gauntlet.trainer.sampler import GB


def limit_gpu_memory(resources: Resources, device: torch.device) -> None:
    """Let torch reserve at most `max_gpu_memory_gb` on the GPU; what would need more runs out of memory."""
    if device.type != "cuda" or resources.max_gpu_memory_gb is None:
        return
    share = resources.max_gpu_memory_gb * GB / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)


def over_memory(resources: Resources, found_gb: float, step: int) -> str | None:
    """What to say of a training that took more memory than `max_memory_gb`; none when it did not."""
    limit = resources.max_memory_gb
    if limit is None or found_gb <= limit:
        return None
    return (
        f"training: by step {step} it had taken {found_gb:.2f} GB of memory, and "
        f"training.resources.max_memory_gb is {limit:g}. Lower training.batch_size or raise "
        f"training.gradient_accumulation, which begins anew, or raise max_memory_gb."
    )
