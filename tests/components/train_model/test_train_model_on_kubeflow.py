"""What train-model reads of the pod that it runs in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.components.train_model.run import free_volume, placed
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.run import TrainingRun
from tests.components.train_model.test_train_model_interruption import COMPONENT

pytestmark = pytest.mark.usefixtures("warm_processes")
UNINTERRUPTED = COMPONENT.replace("register_optimizer_step_post_hook(lambda", "(lambda *_: None)(lambda")


def training_run(checkpoint: Path) -> TrainingRun:
    section = TextTraining(encoder="encoder", epochs=1)
    return TrainingRun(section, "emotion", "text_classification", 1, checkpoint, checkpoint)


def test_the_run_of_the_pipeline_is_named_by_the_pod_and_elsewhere_by_the_outputs_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_vertex = Path("/gcs/bucket/root/123/emotion-20261130/train-model_45/checkpoint")
    assert placed(training_run(on_vertex)).pipeline_run == "emotion-20261130"

    monkeypatch.setenv("GAUNTLET_RUN_ID", "0cf1-77")
    in_a_pod = Path("/minio/mlpipeline/v2/artifacts/emotion/0cf1-77/train-model/17e5/checkpoint")
    assert placed(training_run(in_a_pod)).pipeline_run == "0cf1-77"
    assert placed(training_run(in_a_pod)).resume_dir == ""
    monkeypatch.setenv("GAUNTLET_STATES", "/mnt/gauntlet")
    assert placed(training_run(in_a_pod)).resume_dir == "/mnt/gauntlet/0cf1-77"


def test_a_training_whose_pod_was_lost_resumes_on_the_volume_and_frees_it_of_finished_runs(
    tiny_encoder: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    volume, step = tmp_path / "volume", tmp_path / "step"
    for other in ("finished-run", "failed-run"):
        (volume / other / "epoch-0002-batch-000000").mkdir(parents=True)
    (volume / "finished-run" / "finished").touch()
    section = TextTraining(encoder=str(tiny_encoder), epochs=2, batch_size=8)

    def pod(program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                str(step),
                str(tiny_splits),
                section.model_dump_json(exclude_none=True),
            ],
            env=os.environ | {"GAUNTLET_RUN_ID": "this-run", "GAUNTLET_STATES": str(volume)},
            capture_output=True,
            text=True,
            check=False,
        )

    lost = pod(COMPONENT)
    assert lost.returncode == 143, lost.stderr
    assert {path.name for path in volume.iterdir()} == {"failed-run", "this-run"}
    assert not (volume / "this-run" / "finished").exists()

    again = pod(UNINTERRUPTED)
    assert again.returncode == 0, again.stderr
    assert "resumed after step 1 from" in again.stdout
    assert (volume / "this-run" / "finished").exists()
    assert len(json.loads((step / "history").read_text())["epochs"]) == 2


def test_without_a_volume_nothing_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "finished").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAUNTLET_RUN_ID", "this-run")
    free_volume()
    assert (tmp_path / "run" / "finished").exists()
