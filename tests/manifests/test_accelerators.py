from __future__ import annotations

import pytest
import torch
from google.cloud.aiplatform_v1.types import AcceleratorType

from gauntlet.backends.prices import BUILT_IN
from gauntlet.manifests.accelerators import GPUS, OLDEST_CAPABILITY, accelerator_fault, usable_gpus
from gauntlet.manifests.training import Resources
from gauntlet.pipelines.vertex.lint import ATTACHED_TO_N1, machine_fault


@pytest.mark.parametrize("cuda", ["13.0", "13.2"])
def test_a_gpu_is_usable_where_torch_itself_says_that_its_wheels_have_kernels_for_it(cuda: str) -> None:
    built_for = torch.cuda.PYTORCH_RELEASES_CODE_CC[cuda]["x86_64"]
    for name, gpu in GPUS.items():
        runs = any(gpu.capability in torch.cuda.DEVICE_REQUIREMENT[code] for code in built_for)
        assert runs == (gpu.capability >= OLDEST_CAPABILITY), name


def test_every_accelerator_of_vertex_is_either_usable_or_refused_with_a_reason() -> None:
    names = {kind.name for kind in AcceleratorType if kind.value}
    refused = {name: fault for name in names if (fault := accelerator_fault(name))}
    assert refused.keys() | set(usable_gpus()) == names
    assert {name for name in refused if not name.startswith("TPU_")} == {
        "NVIDIA_TESLA_K80",
        "NVIDIA_TESLA_P4",
        "NVIDIA_TESLA_P100",
        "NVIDIA_TESLA_V100",
        "NVIDIA_GB200",
    }
    assert "Arm CPUs" in refused["NVIDIA_GB200"]


def test_every_usable_gpu_has_a_machine_that_takes_it() -> None:
    machines = {("n1-standard-8", name, count) for name, counts in ATTACHED_TO_N1.items() for count in counts}
    machines |= {(machine, name, count) for machine, (name, count) in BUILT_IN.items()}
    assert {name for _, name, _ in machines} == set(usable_gpus())
    assert [machine_fault(*one) for one in machines] == [None] * len(machines)


@pytest.mark.parametrize(
    ("name", "capability"),
    [("NVIDIA_TESLA_V100", "7.0"), ("NVIDIA_TESLA_P100", "6.0"), ("NVIDIA_TESLA_P4", "6.1")],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_refused_before_its_machine_is_bought(
    name: str, capability: str
) -> None:
    """https://github.com/pytorch/pytorch/issues/172352, https://github.com/pytorch/pytorch/issues/190385,
    https://github.com/unslothai/unsloth/issues/5876: CUDA 13 wheels have no kernels for Pascal and Volta."""
    words = rf"{name} is a \w+ GPU \(compute capability {capability}\).*Use one of NVIDIA_TESLA_T4"
    with pytest.raises(ValueError, match=words):
        Resources(machine_type="n1-standard-8", accelerator_type=name, accelerator_count=1)
    assert name in str(machine_fault("n1-standard-8", name, 1))
