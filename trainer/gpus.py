"""The machine's GPUs as the driver and torch see them, and why torch cannot use them when it cannot.

If the driver is too old for torch's CUDA, torch sees no GPU, and `compute_target: auto` would train on the
CPU of a machine that was bought for its GPU. Platforms choose the driver:
https://github.com/kubeflow/pipelines/issues/10508
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pynvml
import torch

from gauntlet.manifests.accelerators import BOUGHT_GPUS_VARIABLE
from gauntlet.manifests.errors import UsageError

OLDEST_DRIVERS = {12: 525, 13: 580}
"""By CUDA's major version, of which a driver runs every minor one:
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"""


@dataclass(frozen=True)
class GpuStack:
    """What torch, CUDA and the driver report about a machine.

    Attributes:
        torch: torch's version.
        torch_cuda: The CUDA that torch was built for, such as `13.0`; None: torch for CPUs.
        driver: The driver's version; None: NVML finds no driver.
        driver_cuda: The newest CUDA that the driver runs, such as `12.2`.
        present: The names of the GPUs that the driver sees.
        visible: How many GPUs torch can use.
        error: Why CUDA did not start; empty if it did.
    """

    torch: str
    torch_cuda: str | None
    driver: str | None
    driver_cuda: str | None
    present: tuple[str, ...]
    visible: int
    error: str = ""

    def __str__(self) -> str:
        cuda = f"CUDA {self.torch_cuda}" if self.torch_cuda else "CPUs"
        driver = f"driver {self.driver} (CUDA {self.driver_cuda})" if self.driver else "no driver found"
        present = f"{len(self.present)} ({', '.join(self.present)})" if self.present else "0"
        return (
            f"torch {self.torch} for {cuda}, {driver}; "
            f"GPUs that the driver sees: {present}, that torch can use: {self.visible}"
        )

    @property
    def cause(self) -> str:
        """Why torch can use no GPU, or fewer than expected."""
        return self.explained[0]

    @property
    def explained(self) -> tuple[str, str]:
        """The cause, and what to do about it if the machine was bought for a training."""
        if self.torch_cuda is None:
            return (
                f"torch {self.torch} is built for CPUs",
                "Name an image of trainer/Dockerfile with PyPI's torch by GAUNTLET_TRAINER_IMAGE",
            )
        reported = f": {self.error}" if self.error else ""
        if self.driver is None:
            return (
                f"no NVIDIA driver is found{reported}",
                "Check that the machine has a GPU and that the platform installs the driver",
            )
        needed, offered = _major(self.torch_cuda), _major(self.driver_cuda or "0")
        if offered < needed:
            oldest = OLDEST_DRIVERS.get(needed)
            return (
                f"driver {self.driver} is too old: it runs CUDA {self.driver_cuda} at most, and torch is "
                f"built for CUDA {self.torch_cuda}"
                + (f", which needs driver {oldest} or newer" if oldest else ""),
                "Take a machine type or a region with a newer driver, or build the trainer image with a "
                f"torch for CUDA {offered}",
            )
        return (
            f"the driver sees {len(self.present)}{reported}",
            "Check CUDA_VISIBLE_DEVICES, and the machine that was bought",
        )


def look_at_gpus() -> GpuStack:
    """Ask torch, CUDA and the driver."""
    driver = _ask_driver()
    visible = visible_gpus()
    error = "" if visible else _cuda_error()
    return GpuStack(torch.__version__, torch.version.cuda, *driver, visible, error)


def visible_gpus() -> int:
    """How many GPUs torch can use. `device_count` alone also counts those whose driver is too old."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def require_bought_gpus() -> None:
    """Print the GPUs and refuse a machine that was bought with more GPUs than torch can use.

    On a machine that was not bought for this training, such as a laptop, nothing is checked.

    Raises:
        UsageError: Training would use fewer GPUs than are paid for.
    """
    bought = bought_gpus()
    if not bought and not torch.cuda.is_available():
        return
    stack = look_at_gpus()
    print(stack, flush=True)
    if stack.visible < bought:
        cause, remedy = stack.explained
        raise UsageError(
            f"training.resources.accelerator_count: {bought} bought for this machine, but torch can use "
            f"{stack.visible}: {cause}. {remedy}. To train without a GPU, leave accelerator_type out."
        )


def bought_gpus() -> int:
    """How many GPUs this machine was bought with for this training, else 0; a `UsageError` if unclear."""
    value = os.environ.get(BOUGHT_GPUS_VARIABLE, "0")
    if not value.isdigit():
        raise UsageError(
            f"{BOUGHT_GPUS_VARIABLE}: found {value!r}, expected the number of GPUs that this machine was "
            "bought with. `gauntlet compile` sets it in the training's job; unset it elsewhere."
        )
    return int(value)


def gpu_fault() -> str | None:
    """Why torch cannot use this machine's first GPU; None if it can."""
    stack = look_at_gpus()
    return kernel_fault(torch.device("cuda", 0)) if stack.visible else stack.cause


def kernel_fault(device: torch.device) -> str | None:
    """Why this torch cannot compute on a GPU that it sees; None if it has kernels for it."""
    capability = torch.cuda.get_device_capability(device)
    built_for = torch.cuda.get_arch_list()
    if not built_for or torch.version.cuda is None or has_kernels(capability, built_for):
        return None
    name, (major, minor) = torch.cuda.get_device_name(device), capability
    return (
        f"torch {torch.__version__} has no kernels for {name} (compute capability {major}.{minor}), only for "
        f"{', '.join(built_for)}"
    )


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether code built for these architectures runs on a GPU of that compute capability.

    Binary code (`sm_80`) runs on its own major version from its minor version on, PTX (`compute_80`) on
    everything newer, and what is built for one architecture alone (`sm_90a`) on that one:
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility
    """
    found = capability[0] * 10 + capability[1]
    for architecture in built_for:
        match = re.fullmatch(r"(sm|compute)_(\d+)([af]?)", architecture)
        if match is None:
            continue
        number, same_major = int(match[2]), int(match[2]) // 10 == capability[0]
        if match[3] == "a":
            runs = found == number
        else:
            runs = found >= number and (same_major or (match[1] == "compute" and not match[3]))
        if runs:
            return True
    return False


def _ask_driver() -> tuple[str | None, str | None, tuple[str, ...]]:
    """The driver's version, the newest CUDA that it runs, and the names of the GPUs that it sees."""
    try:
        pynvml.nvmlInit()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13010 is 13.1
        handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
        names = tuple(pynvml.nvmlDeviceGetName(handle) for handle in handles)
        return pynvml.nvmlSystemGetDriverVersion(), f"{cuda // 1000}.{cuda % 1000 // 10}", names
    except pynvml.NVMLError:  # CUDA's own error gives the reason
        return None, None, ()


def _cuda_error() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])
