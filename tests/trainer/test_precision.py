from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Training
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.device import choose_format, require_compiler
from tests.trainer.test_loop import build_replica, train

CPU = torch.device("cpu")


@pytest.fixture
def section(tiny_encoder: Path) -> Training:
    return TextTraining(
        encoder=str(tiny_encoder),
        epochs=2,
        batch_size=8,
        learning_rate=3e-3,
        max_length=16,
        dropout=0.0,
        precision="fp32",
    )


def test_a_cpu_trains_in_bf16_if_it_has_it_unless_the_manifest_says_otherwise() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_format(Training(), CPU) == ("bf16" if native else "fp32")
    assert choose_format(Training(precision="bf16"), CPU) == "bf16"
    assert choose_format(Training(precision="fp32"), CPU) == "fp32"


def test_tf32_on_a_cpu_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"training\.precision: found tf32, but .* CPU"):
        choose_format(Training(precision="tf32"), CPU)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_formats_follow_the_curve_of_fp32_and_keep_fp32_weights(
    section: Training, tiny_splits: Path, precision: str
) -> None:
    expected = train(section, tiny_splits)[0]
    history, weights, *_ = train(section.model_copy(update={"precision": precision}), tiny_splits)
    losses = [step.loss for step in history.steps]
    assert losses != [step.loss for step in expected.steps]  # it is another format
    assert losses == pytest.approx([step.loss for step in expected.steps], rel=0.05)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_fp16_scales_its_loss_and_the_scale_is_part_of_the_state(
    section: Training, tiny_splits: Path
) -> None:
    replica = build_replica(section.model_copy(update={"precision": "fp16"}), tiny_splits)
    replica.set_scaler_state({**replica.scaler_state(), "scale": 1024.0, "_growth_tracker": 7})
    assert replica.scaler_state()["scale"] == 1024.0
    assert replica.scaler_state()["_growth_tracker"] == 7
    assert build_replica(section, tiny_splits).scaler_state() == {}


def test_recomputing_activations_changes_no_weight(section: Training, tiny_splits: Path) -> None:
    plain = train(section, tiny_splits)[1]
    recomputed = train(section.model_copy(update={"gradient_checkpointing": True}), tiny_splits)[1]
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_preparing_batches_ahead_changes_no_weight(section: Training, tiny_splits: Path) -> None:
    plain = train(section, tiny_splits)[1]
    ahead = train(section.model_copy(update={"prefetch_batches": 3}), tiny_splits)[1]
    assert all(torch.equal(plain[name], ahead[name]) for name in plain)


def test_compiling_without_a_compiler_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    require_compiler(Training())
    with pytest.raises(UsageError, match=r"training\.compile: .*C\+\+ compiler"):
        require_compiler(Training(compile=True))


@pytest.mark.acceptance
def test_a_compiled_model_follows_the_curve_of_an_uncompiled_one(
    section: Training, tiny_splits: Path
) -> None:
    compiled = section.model_copy(update={"compile": True})
    try:
        require_compiler(compiled)
    except UsageError as error:
        pytest.skip(str(error))
    losses = [[step.loss for step in train(each, tiny_splits)[0].steps] for each in (section, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
