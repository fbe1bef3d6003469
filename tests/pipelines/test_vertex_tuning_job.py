"""The tuning job for Vertex AI, held against Google's own message types, and a trial of it run as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, StudySpec

from gauntlet.components.container_images import TRAINER_IMAGE
from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.tuning.run import search_space
from gauntlet.pipelines.tuning.vertex import compile_tuning_job, tuning_job
from gauntlet.tasks.text_classification.manifest import TextTraining

ROOT = Path(__file__).parents[2]
SEARCH: dict[str, Any] = {
    "learning_rate": {"low": 5e-5, "high": 5e-4, "log": True},
    "epochs": {"low": 2, "high": 6},
    "batch_size": {"choices": [32, 16]},
    "dropout": {"low": 0.0, "high": 0.3},
    "max_length": {"low": 32, "high": 64, "step": 16},
    "schedule": {"choices": ["linear", "cosine"]},
}
Scale = StudySpec.ParameterSpec.ScaleType


@pytest.fixture
def manifest() -> Manifest:
    path = ROOT / "manifests" / "emotion.yaml"
    return load_manifest(
        path,
        [
            f"training.search={json.dumps(SEARCH)}",
            "training.resources={machine_type: n1-standard-8, accelerator_type: NVIDIA_TESLA_T4, "
            "accelerator_count: 1, max_hours: 2}",
        ],
    )


def job(manifest: Manifest, trials: int = 20, jobs: int = 4) -> HyperparameterTuningJob:
    """The spec as Google's library reads it; an unknown key or a value of another type is refused there."""
    spec = tuning_job(manifest, search_space(manifest, Path("x.yaml")), trials, jobs, "gs://bucket/tuning")
    message = HyperparameterTuningJob.from_json(json.dumps(spec))
    assert isinstance(message, HyperparameterTuningJob)
    return message


def test_the_space_is_what_the_manifest_says(manifest: Manifest) -> None:
    parameters = {spec.parameter_id: spec for spec in job(manifest).study_spec.parameters}
    assert set(parameters) == set(SEARCH)
    rate = parameters["learning_rate"]
    assert (rate.double_value_spec.min_value, rate.double_value_spec.max_value) == (5e-5, 5e-4)
    assert rate.scale_type == Scale.UNIT_LOG_SCALE
    assert parameters["dropout"].scale_type == Scale.UNIT_LINEAR_SCALE
    epochs = parameters["epochs"].integer_value_spec
    assert (epochs.min_value, epochs.max_value) == (2, 6)
    assert list(parameters["batch_size"].discrete_value_spec.values) == [16, 32]
    assert list(parameters["max_length"].discrete_value_spec.values) == [32, 48, 64]
    assert list(parameters["schedule"].categorical_value_spec.values) == ["linear", "cosine"]


def test_the_job_buys_what_the_manifest_says_and_looks_for_its_metric(manifest: Manifest) -> None:
    message = job(manifest)
    assert (message.max_trial_count, message.parallel_trial_count) == (20, 4)
    [metric] = message.study_spec.metrics
    assert (metric.metric_id, metric.goal) == ("macro_f1", StudySpec.MetricSpec.GoalType.MAXIMIZE)
    assert (
        message.study_spec.measurement_selection_type == StudySpec.MeasurementSelectionType.BEST_MEASUREMENT
    )
    assert "median_automated_stopping_spec" in message.study_spec
    [pool] = message.trial_job_spec.worker_pool_specs
    assert (pool.machine_spec.machine_type, pool.replica_count) == ("n1-standard-8", 1)
    assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert pool.machine_spec.accelerator_count == 1
    assert pool.container_spec.image_uri == TRAINER_IMAGE
    assert [(one.name, one.value) for one in pool.container_spec.env] == [("GAUNTLET_BOUGHT_GPUS", "1")]
    assert message.trial_job_spec.base_output_directory.output_uri_prefix == "gs://bucket/tuning/trials"
    # Five rounds of four trials, each with its two hours and the half hour around them.
    assert message.trial_job_spec.scheduling.timeout.total_seconds() == 5 * 2.5 * 3600


def test_a_loss_is_minimised(manifest: Manifest) -> None:
    stopping = manifest.training.early_stopping.model_copy(update={"metric": "loss"})
    training = manifest.training.model_copy(update={"early_stopping": stopping})
    [metric] = job(manifest.model_copy(update={"training": training})).study_spec.metrics
    assert (metric.metric_id, metric.goal) == ("loss", StudySpec.MetricSpec.GoalType.MINIMIZE)


def test_a_trial_trains_as_its_command_line_says_and_reports_every_epoch(
    tiny_encoder: Path, tiny_splits: Path, tmp_path: Path, manifest: Manifest
) -> None:
    (tiny_splits / "test.parquet").unlink()
    small = TextTraining.model_validate(
        {
            "encoder": str(tiny_encoder),
            "epochs": 4,
            "batch_size": 8,
            "early_stopping": {"metric": "loss"},
            "search": {key: SEARCH[key] for key in ("learning_rate", "epochs", "batch_size", "schedule")},
        }
    )
    read_by = {"tokenizer": small.encoder, "max_tokens": small.max_length}
    tuned = manifest.model_copy(
        update={"training": small, "dataset": manifest.dataset.model_copy(update=read_by)}
    )
    container = job(tuned).trial_job_spec.worker_pool_specs[0]
    command = [*container.container_spec.command, *container.container_spec.args]
    assert command[0] == "python"
    command[0] = sys.executable
    # What Vertex AI adds: whole numbers of a list may come as 16.0.
    flags = ["--learning_rate=0.0005", "--epochs=2", "--batch_size=16.0", "--schedule=cosine"]
    metrics = tmp_path / "output.metrics"
    done = subprocess.run(
        [part.replace("gs://bucket/tuning/splits", tiny_splits.as_uri()) for part in command] + flags,
        env=os.environ
        | {
            "AIP_MODEL_DIR": str(tmp_path / "model"),
            "AIP_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
            "CLOUD_ML_TRIAL_ID": "7",
            "CLOUD_ML_HP_METRIC_FILE": str(metrics),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    history = json.loads((tmp_path / "model" / "history.json").read_text())
    assert not (tmp_path / "checkpoints").exists()  # another job's trial 7 would go on from there
    assert len(history["epochs"]) == 2
    assert len(history["steps"]) == 2 * 5  # 72 rows in batches of 16
    assert max(step["learning_rate"] for step in history["steps"]) <= 0.0005
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    reported = [(line["trial"], line["global_step"], float(line["loss"])) for line in lines]
    assert reported == [("7", str(e["epoch"]), e["validation"]["loss"]) for e in history["epochs"]]


def test_the_file_is_the_spec_and_a_trial_takes_splits_from_anywhere(
    manifest: Manifest, tmp_path: Path
) -> None:
    from gauntlet.trainer.__main__ import _splits

    search = search_space(manifest, Path("x.yaml"))
    compile_tuning_job(manifest, search, 3, 1, "gs://bucket/tuning/", tmp_path / "job.yaml")
    assert yaml.safe_load((tmp_path / "job.yaml").read_text()) == tuning_job(
        manifest, search, 3, 1, "gs://bucket/tuning"
    )
    with fsspec.open("memory://bucket/splits/statistics.json", "w") as file:
        file.write("{}")
    assert (_splits("memory://bucket/splits", tmp_path) / "statistics.json").read_text() == "{}"


def test_what_vertex_ai_could_not_reach_is_refused(
    manifest: Manifest, tiny_encoder: Path, tmp_path: Path
) -> None:
    search = search_space(manifest, Path("x.yaml"))
    with pytest.raises(UsageError, match="--staging"):
        compile_tuning_job(manifest, search, 3, 1, str(tmp_path), tmp_path / "job.yaml")
    training = manifest.training.model_copy(update={"encoder": str(tiny_encoder)})
    local = manifest.model_copy(update={"training": training})
    with pytest.raises(UsageError, match=r"training\.encoder"):
        compile_tuning_job(local, search, 3, 1, "gs://bucket", tmp_path / "job.yaml")
    assert list(tmp_path.glob("*.yaml")) == []


def test_what_no_trial_would_read_is_not_searched() -> None:
    path = ROOT / "manifests" / "lora_lm.yaml"
    with pytest.raises(ManifestError, match="lora_r, lora_alpha, lora_dropout"):
        search_space(load_manifest(path, ["training.method=full"]), path)
    assert "lora_r" in search_space(load_manifest(path), path).dimensions()
