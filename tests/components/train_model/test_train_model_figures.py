"""train-model where its numbers are not what it expects: a loss that diverged, a seed that is a float."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from gauntlet.components.train_model.component import train_model
from gauntlet.manifests.schema import section_of
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.saved_model import read_record
from tests.conftest import LABELS

Logged = dict[str, float]


def run_step(folder: Path, splits: Path, seed: float, **settings: object) -> Logged:
    """The component itself, with its outputs in a folder; returns the metrics that it logs."""
    logged: Logged = {}
    outputs = {name: SimpleNamespace(path=str(folder / name)) for name in ("checkpoint", "history", "curves")}
    train_model.python_func(
        training=TextTraining(**settings).model_dump(mode="json", exclude_none=True),
        name="tiny",
        task="text_classification",
        seed=seed,
        tracking_uri="",
        splits_sha256="f" * 64,
        splits=SimpleNamespace(path=str(splits)),
        metrics=SimpleNamespace(log_metric=logged.__setitem__),
        **outputs,
    )
    return logged


def test_a_training_that_diverged_leaves_its_history_and_metrics_as_json(
    tiny_encoder: Path, tiny_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverged = Path(shutil.copytree(tiny_encoder, tmp_path / "diverged"))
    weights = load_file(diverged / "model.safetensors")
    save_file({name: tensor * math.nan for name, tensor in weights.items()}, diverged / "model.safetensors")
    logged = run_step(tmp_path / "step", tiny_splits, 1, encoder=str(diverged), epochs=1, batch_size=8)
    text = (tmp_path / "step" / "history").read_text()
    history = json.loads(text, parse_constant=lambda found: pytest.fail(f"the history holds {found}"))
    assert history["epochs"][0]["validation"]["loss"] is None
    # NaN for every class: the first one is predicted, and its F1 is 2 * (1/3) / (1 + 1/3) = 1/2.
    assert logged["validation_macro_f1"] == pytest.approx(0.5 / len(LABELS))
    assert all(math.isfinite(value) for value in logged.values())
    assert "validation_loss is nan, so it is not logged" in capsys.readouterr().err
    assert "<svg" in (tmp_path / "step" / "curves").read_text()


def test_whole_numbers_that_come_as_floats_are_whole_numbers(
    tiny_encoder: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    content = {"encoder": "x", "epochs": 3.0, "batch_size": 32.0}
    section = section_of("text_classification", "training", content)
    assert [(value, type(value)) for value in (section.epochs, section.batch_size)] == [(3, int), (32, int)]
    run_step(tmp_path / "step", tiny_splits, 7.0, encoder=str(tiny_encoder), epochs=1, batch_size=8)
    seed = read_record(tmp_path / "step" / "checkpoint").seed
    assert (seed, type(seed)) == (7, int)
