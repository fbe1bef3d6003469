"""Where training runs: the device, its number format, and what makes results repeatable there."""

from __future__ import annotations

import os
import shutil
from typing import Literal

import torch

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Training
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.gpus import kernel_fault
from gauntlet.trainer.ranks import World

Format = Literal["fp32", "tf32", "bf16", "fp16"]

AUTOCAST: dict[Format, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILERS = ("g++", "clang++", "c++")


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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is repeatable with a fixed one only
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # It fills new memory in case code reads it before it writes it; no code here does, and it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    use_threads(max(1, usable_cpus() // processes))


def use_threads(threads: int) -> None:
    """Set torch's number of threads, unless OMP_NUM_THREADS sets it.

    Fewer threads than CPUs can be faster: two CPUs may be one core's hyperthreads, which a virtual machine
    may hide.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)


def describe(device: torch.device, section: Training, world: World) -> str:
    """The devices in words, for logs and the run report."""
    threads = torch.get_num_threads()
    name = f"CPU, {threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    several = f"{world.size} × " if world.size > 1 else ""
    how = f", {section.distribution}" if world.size > 1 else ""
    return f"{several}{name}, {choose_format(section, device)}{how}"


def choose_format(section: Training, device: torch.device) -> Format:
    """The format that `training.precision` means on a device; `auto` is bf16 if it is native, else fp32.

    Raises:
        UsageError: The device does not have the format.
    """
    if section.precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if section.precision == "tf32" and device.type != "cuda":
        raise UsageError(
            f"training.precision: found tf32, but training runs on the {device.type.upper()}, and only "
            "NVIDIA GPUs have TensorFloat-32. Set it to auto, fp32 or bf16."
        )
    return section.precision


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices, and does not only store them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def apply_format(number_format: Format) -> None:
    """Set whether fp32 matrix products and convolutions on a GPU use TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = number_format == "tf32"
    torch.backends.cudnn.allow_tf32 = number_format == "tf32"


def require_compiler(section: Training) -> None:
    """Raise a `UsageError` if `training.compile` is set and there is no C++ compiler."""
    if section.compile and not any(map(shutil.which, COMPILERS)):
        raise UsageError(
            "training.compile: found true, but torch.compile needs a C++ compiler, and this machine has none "
            f"of {', '.join(COMPILERS)}. Set it to false, or install g++."
        )
