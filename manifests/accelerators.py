"""Which of Google Cloud's accelerators training can use.

Training computes with the kernels that the pinned torch was built with. Its wheels are built for CUDA 13,
which has dropped Maxwell, Pascal and Volta: the oldest kernels are those of compute capability 7.5.

- https://github.com/pytorch/pytorch/issues/172352, https://github.com/pytorch/pytorch/issues/190385
- https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/index.html
- https://developer.nvidia.com/cuda-gpus: the compute capability of each GPU
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU's architecture and its compute capability: 75 is 7.5."""

    architecture: str
    capability: int


OLDEST_CAPABILITY = 75
"""The oldest that the pinned torch has kernels for."""

GPUS = {
    "NVIDIA_TESLA_K80": Gpu("Kepler", 37),
    "NVIDIA_TESLA_P100": Gpu("Pascal", 60),
    "NVIDIA_TESLA_P4": Gpu("Pascal", 61),
    "NVIDIA_TESLA_V100": Gpu("Volta", 70),
    "NVIDIA_TESLA_T4": Gpu("Turing", 75),
    "NVIDIA_TESLA_A100": Gpu("Ampere", 80),
    "NVIDIA_A100_80GB": Gpu("Ampere", 80),
    "NVIDIA_L4": Gpu("Ada", 89),
    "NVIDIA_H100_80GB": Gpu("Hopper", 90),
    "NVIDIA_H100_MEGA_80GB": Gpu("Hopper", 90),
    "NVIDIA_H200_141GB": Gpu("Hopper", 90),
    "NVIDIA_B200": Gpu("Blackwell", 100),
    "NVIDIA_GB200": Gpu("Blackwell", 100),
    "NVIDIA_RTX_PRO_6000": Gpu("Blackwell", 120),
}
"""The NVIDIA GPUs of Vertex AI's `AcceleratorType`."""

ON_ARM = "NVIDIA_GB200"
"""The GPU whose machines have Arm CPUs; the project's images are for x86-64."""

BOUGHT_GPUS_VARIABLE = "GAUNTLET_BOUGHT_GPUS"
"""How many GPUs a training's machine was bought with; set by what compiles the job."""


def bought_gpus_environment(count: int) -> dict[str, str]:
    """The environment of a training that runs on a machine bought with so many GPUs."""
    return {BOUGHT_GPUS_VARIABLE: str(count)} if count else {}


def accelerator_fault(name: str) -> str | None:
    """Why training could not use an accelerator; none for one that it can use and for an unknown one."""
    if name.startswith("TPU_"):
        return f"{name} is a TPU, and training runs on NVIDIA GPUs and CPUs only"
    gpu = GPUS.get(name)
    if gpu is not None and gpu.capability < OLDEST_CAPABILITY:
        return (
            f"{name} is a {gpu.architecture} GPU (compute capability {gpu.capability / 10:.1f}), and the "
            f"pinned torch, built for CUDA 13, has kernels for {OLDEST_CAPABILITY / 10:.1f} and newer only: "
            f"training would fail after the machine is bought. Use one of {', '.join(usable_gpus())}"
        )
    if name == ON_ARM:
        return f"the machines of {name} have Arm CPUs, and the images are built for x86-64"
    return None


def usable_gpus() -> tuple[str, ...]:
    """The GPUs that training can use."""
    return tuple(name for name, gpu in GPUS.items() if gpu.capability >= OLDEST_CAPABILITY and name != ON_ARM)
