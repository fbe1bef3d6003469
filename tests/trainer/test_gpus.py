"""What is said of GPUs that torch cannot use. This machine has none: the driver's answers are given."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from gauntlet.manifests.accelerators import BOUGHT_GPUS_VARIABLE
from gauntlet.manifests.errors import UsageError
from gauntlet.trainer.gpus import GpuStack, bought_gpus, has_kernels, look_at_gpus
from tests.trainer.conftest import Trainings

# A wheel of PyPI on a machine whose driver is older than its CUDA.
OLD_DRIVER = GpuStack(
    torch="2.13.0+cu130",
    torch_cuda="13.0",
    driver="535.183.01",
    driver_cuda="12.2",
    present=("NVIDIA L4",),
    visible=0,
    error="The NVIDIA driver on your system is too old (found version 12020).",
)
T4 = "training.resources={machine_type: n1-standard-8, accelerator_type: NVIDIA_TESLA_T4, "
T4 += "accelerator_count: 1}"
WHEEL = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")  # torch's x86-64 wheels for CUDA 13


def train(trainings: Trainings, monkeypatch: pytest.MonkeyPatch, bought: str) -> tuple[int, str, str]:
    monkeypatch.setenv(BOUGHT_GPUS_VARIABLE, bought)
    attempt = trainings.attempt("model", "", 0, T4, "training.epochs=1", states="")
    done = subprocess.run(
        [sys.executable, "-m", "gauntlet.trainer", *attempt["arguments"]],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_machine_whose_bought_gpus_torch_does_not_see_is_refused_before_it_trains_on_its_cpu(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/kubeflow/pipelines/issues/10508: custom jobs had an older driver than plain tasks,
    torch saw no GPU, and the CPU trained."""
    code, output, errors = train(trainings, monkeypatch, bought="99")
    assert code == 2
    assert f"{look_at_gpus()}\n" in output
    assert "99 bought for this machine, but torch can use" in errors
    assert "Traceback" not in errors
    assert not (trainings.folder / "model").exists()


def test_the_same_manifest_trains_on_a_machine_that_was_not_bought_for_it(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, errors = train(trainings, monkeypatch, bought="0")
    assert code == 0, errors
    assert (trainings.folder / "model" / "history.json").is_file()


def test_a_number_of_bought_gpus_that_is_none_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BOUGHT_GPUS_VARIABLE, "two")
    with pytest.raises(UsageError, match="GAUNTLET_BOUGHT_GPUS: found 'two', expected the number"):
        bought_gpus()


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (
            OLD_DRIVER,
            "driver 535.183.01 is too old: it runs CUDA 12.2 at most, and torch is built for CUDA 13.0, "
            "which needs driver 580 or newer",
        ),
        (replace(OLD_DRIVER, torch="2.13.0+cpu", torch_cuda=None), "torch 2.13.0+cpu is built for CPUs"),
        (
            replace(OLD_DRIVER, driver=None, driver_cuda=None, present=(), error="Found no NVIDIA driver"),
            "no NVIDIA driver is found: Found no NVIDIA driver",
        ),
        (
            replace(OLD_DRIVER, driver="580.65.06", driver_cuda="13.0", error="CUDA error 802"),
            "the driver sees 1: CUDA error 802",
        ),
        (
            replace(OLD_DRIVER, driver="580.65.06", driver_cuda="13.0", visible=1, error=""),
            "the driver sees 1",
        ),
    ],
)
def test_why_torch_cannot_use_the_gpus_is_told_from_the_versions(stack: GpuStack, words: str) -> None:
    assert stack.cause == words


def test_the_versions_are_printed_in_one_line() -> None:
    assert str(OLD_DRIVER) == (
        "torch 2.13.0+cu130 for CUDA 13.0, driver 535.183.01 (CUDA 12.2); "
        "GPUs that the driver sees: 1 (NVIDIA L4), that torch can use: 0"
    )


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((6, 0), WHEEL, False),  # P100
        ((6, 1), WHEEL, False),  # P4
        ((7, 0), WHEEL, False),  # V100
        ((7, 5), WHEEL, True),  # T4
        ((8, 0), WHEEL, True),  # A100
        ((8, 9), WHEEL, True),  # L4, with the code for 8.6
        ((9, 0), WHEEL, True),  # H100, H200
        ((10, 0), WHEEL, True),  # B200
        ((12, 0), WHEEL, True),  # RTX PRO 6000
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 0), ("sm_90a", "sm_100f"), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("sm_90", "compute_90"), True),  # the driver compiles PTX for what is newer
        ((7, 0), ("compute_75",), False),
    ],
)
def test_code_runs_on_its_own_major_version_and_ptx_on_what_is_newer(
    capability: tuple[int, int], built_for: tuple[str, ...], runs: bool
) -> None:
    assert has_kernels(capability, built_for) is runs
