"""A whole training with a tracker: a real MLflow database, and Vertex AI's real clients."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.cloud import aiplatform

from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.manifests.training import Resources, Tracking
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.run import TrainingRun, run_name, train
from tests.conftest import LABELS
from tests.fakes.cloud import FakeCloud


@pytest.fixture
def training_run(tiny_encoder: Path, tiny_splits: Path, tmp_path: Path) -> TrainingRun:
    return TrainingRun(
        section=TextTraining(encoder=str(tiny_encoder), epochs=2, batch_size=8),
        name="moods",
        task="text_classification",
        seed=11,
        splits=tiny_splits,
        checkpoint=tmp_path / "checkpoint",
        tracking_uri=f"sqlite:///{tmp_path}/gauntlet.db",
    )


def test_a_tracked_training_leaves_its_steps_epochs_system_metrics_and_files(
    training_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = train(training_run)
    assert "warning" not in capsys.readouterr().err
    client: Any = open_client(tmp_path / "gauntlet.db")
    [run] = client.search_runs([client.get_experiment_by_name("moods").experiment_id])
    assert re.fullmatch(r"moods-tiny-encoder\d*-\d{8}-\d{6}", run.info.run_name)
    assert run.info.status == "FINISHED"
    assert run.data.params["tracking.run_name"] == "{name}-{arch}-{timestamp}"

    def points(name: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))

    assert points("step/loss") == [(step["step"], step["loss"]) for step in document["steps"]]
    assert points("validation_macro_f1") == [
        (e["epoch"], e["validation"]["macro_f1"]) for e in document["epochs"]
    ]
    best = document["epochs"][document["best_epoch"] - 1]
    assert (best["epoch"], best["training"]["accuracy"]) in points("train_accuracy")
    class_f1 = [points(f"validation_f1.{label}") for label in LABELS]
    assert [step for [(step, _)] in class_f1] == [document["best_epoch"]] * len(LABELS)
    assert np.mean([value for [(_, value)] in class_f1]) == pytest.approx(best["validation"]["macro_f1"])
    assert points("system/memory_gb")[-1][0] == 18
    assert points("step/cost_usd")[-1][1] == pytest.approx(document["cost_usd"], rel=0.2)
    [history] = (tmp_path / "artifacts" / "moods").rglob("history.json")
    assert json.loads(history.read_text()) == document
    [classes] = (tmp_path / "artifacts" / "moods").rglob("classes.txt")
    assert all(label in classes.read_text() for label in LABELS)
    [curves] = (tmp_path / "artifacts" / "moods").rglob("curves.svg")
    assert curves.read_text().startswith("<svg")


def test_a_training_is_tracked_on_vertex_by_its_uri_alone(
    training_run: TrainingRun, cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"projects/demo/locations/{cloud.LOCATION}"
    cloud.resources.add(place, "tensorboards", "42", aiplatform.gapic.Tensorboard())
    uri = f"vertex://demo/{cloud.LOCATION}?tensorboard=42&staging=gs://bucket/runs"
    section = training_run.section.model_copy(update={"tracking": Tracking(run_name="{name}-{seed}")})
    document = train(TrainingRun(**{**vars(training_run), "section": section, "tracking_uri": uri}))

    assert "warning" not in capsys.readouterr().err
    aiplatform.init(project="demo", location=cloud.LOCATION)
    run = aiplatform.ExperimentRun("moods-11", "moods-training")
    assert run.get_state() == "COMPLETE"
    assert run.get_params()["seed"] == "11"
    assert run.get_metrics()["validation_macro_f1"] == document["epochs"][-1]["validation"]["macro_f1"]
    frame = run.get_time_series_data_frame()
    losses = [(row.step, row["step/loss"]) for _, row in frame.iterrows() if row["step/loss"] > 0]
    assert losses == [(step["step"], step["loss"]) for step in document["steps"]]
    assert (
        json.loads(cloud.bucket.objects["gs://bucket/runs/moods-training/moods-11/history.json"]) == document
    )


def test_the_history_holds_the_bill(training_run: TrainingRun) -> None:
    resources = Resources(machine_type="e2-standard-8", max_hours=3, max_cost_usd=2)
    section = training_run.section.model_copy(update={"resources": resources, "epochs": 1})
    document = train(TrainingRun(**{**vars(training_run), "section": section, "tracking_uri": ""}))
    assert document["machine"] == "e2-standard-8"
    assert document["usd_per_hour"] == pytest.approx(0.268046 * 1.15, abs=1e-6)
    assert document["cost_usd"] == pytest.approx(0.268046 * 1.15 * document["seconds"] / 3600, rel=1e-5)
    assert (document["max_hours"], document["max_cost_usd"]) == (3, 2)
    assert document["usage"]["rows"] == 72


def test_a_run_is_called_what_the_manifests_pattern_says(training_run: TrainingRun) -> None:
    tracking = Tracking(run_name="{seed}/{arch}/{name}")
    section = TextTraining(encoder="sentence-transformers/all-MiniLM-L6-v2", tracking=tracking)
    named = TrainingRun(**{**vars(training_run), "section": section})
    assert run_name(named) == "11/all-MiniLM-L6-v2/moods"
