"""Where training runs, and what makes it repeatable there."""

from __future__ import annotations

import os

import torch

from manifests.errors import UsageError
from manifests.schema import Training
from serving.cpu import usable_cpus


def choose_device(target: str) -> torch.device:
    """The device of a manifest's `training.compute_target`.

    Raises:
        UsageError: A GPU is asked for and there is none.
    """
    if target == "cpu" or (target == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"training.compute_target: found {target}, but torch sees no GPU on this machine. "
            "Set it to cpu or auto, or run on a machine with a GPU and a CUDA build of torch."
        )
    return torch.device("cuda")


def make_deterministic(seed: int) -> None:
    """Seed torch and choose algorithms whose results do not depend on timing."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS is repeatable only with a fixed workspace
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(usable_cpus())


def describe(device: torch.device, section: Training) -> str:
    """The device in words, for logs and the report."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {section.precision}"
    return f"CPU, {torch.get_num_threads()} threads, {section.precision}"
