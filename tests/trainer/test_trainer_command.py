from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from gauntlet.trainer.__main__ import main
from gauntlet.trainer.saved_model import load_model, read_record

pytestmark = pytest.mark.usefixtures("warm_processes")


@pytest.fixture
def manifest(tiny_encoder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    content = {
        "name": "tiny",
        "description": "Three classes",
        "task": "text_classification",
        "dataset": {"name": "tiny", "version": "1", "uri": "data.csv", "labels": ["calm", "angry", "glad"]},
        "training": {"encoder": str(tiny_encoder), "epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "gates": {"min_macro_f1": 0.5},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def trainer(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gauntlet.trainer", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_training_alone_leaves_a_checkpoint_that_can_be_loaded(
    manifest: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    done = trainer("--manifest", str(manifest), "--splits", str(tiny_splits), "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2 done" in done.stdout
    history = json.loads((output / "history.json").read_text())
    record = read_record(output)
    assert (record.labels, record.epoch) == (("calm", "angry", "glad"), history["best_epoch"])
    assert history["cost_usd"] == pytest.approx(history["usd_per_hour"] * history["seconds"] / 3600)
    logits = load_model(output)(torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.int64))
    assert logits.shape == (1, 3)


def test_the_option_of_earlier_releases_is_refused_with_its_new_name(
    manifest: Path, tiny_splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--manifest", str(manifest), "--splits", str(tiny_splits), "--checkpoints", "states"]
    assert main([*arguments, "--output", "model"]) == 2
    error = "error: --checkpoints: this option was renamed to --resume-dir. Use that name.\n"
    assert capsys.readouterr().err == error


def test_the_folders_that_vertex_names_are_honoured_and_the_weights_are_the_same_bytes(
    manifest: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    hashes = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        done = trainer(
            "--manifest",
            str(manifest),
            "--splits",
            str(tiny_splits),
            AIP_MODEL_DIR=str(folder / "model"),
            AIP_CHECKPOINT_DIR=str(folder / "checkpoint"),
            AIP_TENSORBOARD_LOG_DIR=str(folder / "logs"),
        )
        assert done.returncode == 0, done.stderr
        weights = (folder / "model" / "model.safetensors").read_bytes()
        best = json.loads((folder / "model" / "history.json").read_text())["best_epoch"]
        state = folder / "checkpoint" / f"epoch-{best + 1:04d}-batch-000000"
        assert (state / "model.safetensors").is_file()
        assert list((folder / "logs").glob("events.out.tfevents.*"))
        hashes.append(hashlib.sha256(weights).hexdigest())
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.encoder=/no/such/folder", "training.encoder"),
        ("training.compute_target=gpu_single", "accelerator_count"),
        ("training.epoch=3", "training.epoch"),
    ],
)
def test_a_mistake_gives_one_message_and_leaves_nothing(
    manifest: Path, tiny_splits: Path, tmp_path: Path, override: str, message: str
) -> None:
    output = tmp_path / "model"
    done = trainer(
        "--manifest",
        str(manifest),
        "--splits",
        str(tiny_splits),
        "--output",
        str(output),
        "--set",
        override,
        HF_HUB_OFFLINE="1",
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


def test_splits_that_were_never_validated_are_refused(manifest: Path, tmp_path: Path) -> None:
    done = trainer(
        "--manifest", str(manifest), "--splits", str(tmp_path), "--output", str(tmp_path / "model")
    )
    assert done.returncode == 2
    assert "validate-data" in done.stderr
