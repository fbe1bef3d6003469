"""Number formats of training: what `training.precision` means on a device."""

from __future__ import annotations

import shutil
from typing import Literal

import torch

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Training

Format = Literal["fp32", "tf32", "bf16", "fp16"]

AUTOCAST: dict[Format, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILERS = ("g++", "clang++", "c++")


def choose_format(section: Training, device: torch.device) -> Format:
    """The format of a manifest's `training.precision` there; `auto` is bf16 where it is native, else fp32.

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
    """Let fp32 matrix products and convolutions on a GPU use TensorFloat-32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = number_format == "tf32"
    torch.backends.cudnn.allow_tf32 = number_format == "tf32"


def require_compiler(section: Training) -> None:
    """Look for what `torch.compile` builds its kernels with.

    Raises:
        UsageError: `training.compile` is set, and there is no C++ compiler.
    """
    if section.compile and not any(map(shutil.which, COMPILERS)):
        raise UsageError(
            "training.compile: found true, but torch.compile needs a C++ compiler, and this machine has none "
            f"of {', '.join(COMPILERS)}. Set it to false, or install g++."
        )
