"""Where training runs, and what makes it repeatable there."""

from __future__ import annotations

import os

import torch

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Training
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.gpus import kernel_fault
from gauntlet.trainer.precision import choose_format
from gauntlet.trainer.ranks import World


def choose_device(target: str, world: World) -> torch.device:
    """This rank's device for a manifest's `training.compute_target`.

    Raises:
        UsageError: A GPU is asked for and there is none, or torch has no kernels for the one that there is.
    """
    if target == "cpu" or (target == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"training.compute_target: found {target}, but torch sees no GPU on this machine. "
            "Set it to cpu or auto, or run on a machine with a GPU and a CUDA build of torch."
        )
    if world.local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"training: {world.local_size} processes on this machine, but torch sees "
            f"{torch.cuda.device_count()} GPUs. Use as many, or set training.compute_target to cpu."
        )
    device = torch.device("cuda", world.local_rank)
    if fault := kernel_fault(device):
        raise UsageError(
            f"training.compute_target: found {target}, but {fault}. Set it to cpu, or train on a newer GPU."
        )
    torch.cuda.set_device(device)
    return device


def make_deterministic(seed: int, processes: int = 1) -> None:
    """Seed torch and choose algorithms whose results do not depend on timing.

    The CPUs are divided among this machine's `processes`.
    """
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS is repeatable only with a fixed workspace
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Filling memory that is about to be written is for code that reads it before, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    use_threads(max(1, usable_cpus() // processes))


def use_threads(threads: int) -> None:
    """Let torch compute with so many threads, unless OMP_NUM_THREADS, which torch has read, says how many.

    Fewer than CPUs can be faster: two may be the threads of one core, and a virtual machine need not say so.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)


def describe(device: torch.device, section: Training, world: World) -> str:
    """The devices in words, for logs and the report."""
    threads = torch.get_num_threads()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {threads} thread{'s' * (threads > 1)}"
    )
    several = f"{world.size} × " if world.size > 1 else ""
    how = f", {section.distribution}" if world.size > 1 else ""
    return f"{several}{name}, {choose_format(section, device)}{how}"
