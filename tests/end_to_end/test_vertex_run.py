"""Whole runs by `gauntlet submit --wait` on data from a bucket: there, and here where a quota is used up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.cloud import aiplatform

from backends.registry import ModelVersion, bundle_folder, open_registry
from pipelines.vertex import follow
from serving.bundle import read_info
from tests.drawn_images import FILES, draw, write_files
from tests.end_to_end.test_images import manifest_content
from tests.fakes.cloud import FakeCloud
from tests.fakes.execution import Execution
from tests.fakes.google_api import Failure
from tests.pipelines.test_cli import gauntlet

PLACE = f"projects/demo/locations/{FakeCloud.LOCATION}"
REGISTRY = (
    f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/gauntlet"
    f"&serving_image=europe-docker.pkg.dev/demo/gauntlet/server@sha256:{'a' * 64}"
)
QUOTA = (
    "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus"
)


@pytest.fixture
def shapes(place: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A manifest whose data lie in the bucket, to be registered in Vertex AI Model Registry."""
    monkeypatch.setattr(follow, "SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setenv("GAUNTLET_REGISTRY", REGISTRY)
    drawn = write_files(tmp_path / "drawn", draw(100, seed=1), draw(40, seed=2))
    for name in FILES.values():
        place.bucket.objects[f"gs://bucket/drawn/{name}"] = (drawn / name).read_bytes()
    content = manifest_content(drawn)
    content["dataset"]["uri"] = "gs://bucket/drawn"
    content["conversion"]["candidates"] = ["plain"]
    manifest = tmp_path / "shapes.yaml"
    manifest.write_text(yaml.safe_dump(content))
    return str(manifest)


def champion() -> tuple[ModelVersion, Any]:
    """The version that was promoted, as the registry has it and as Google's own class does."""
    version = open_registry(REGISTRY).champion("shapes")
    assert version is not None
    assert version.aliases == ("champion", "default")
    with bundle_folder(version) as copy:
        assert read_info(copy, version.tags["bundle_sha256"]).task == "image_classification"
    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    model = aiplatform.Model("shapes@champion")
    [evaluation] = model.list_model_evaluations()
    assert len(evaluation.metrics["confusionMatrix"]["rows"]) == 3
    return version, model.gca_resource


def training_run(cloud: FakeCloud) -> Any:
    """The training as Vertex AI Experiments has it."""
    contexts = cloud.resources.below(f"{PLACE}/metadataStores/default", "contexts")
    [context] = [one for one in contexts if one.schema_title == "system.ExperimentRun"]
    return aiplatform.ExperimentRun(context.display_name, "shapes-training")


def test_a_submitted_job_trains_proves_and_registers_what_the_bucket_holds(
    place: FakeCloud, shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = Execution(tmp_path / "execution", place.bucket)
    place.pipelines.on_create, place.pipelines.is_done = execution.start, execution.is_done

    code = gauntlet("submit", shapes, "--wait")

    assert code == 0, (execution.folder / "log").read_text()
    assert "Promoted as version 1" in capsys.readouterr().out
    version, model = champion()
    [request] = place.api.requests("CreatePipelineJob")
    given = request.pipeline_job.runtime_config.parameter_values
    assert version.tags["manifest_sha256"] == given["manifest_sha256"]
    job = f"{PLACE}/pipelineJobs/{request.pipeline_job_id}"
    assert model.pipeline_job == job
    run = training_run(place)
    assert [one.resource_name for one in run.get_logged_pipeline_jobs()] == [job]
    assert run.get_metrics()["validation_accuracy"] > 0.5


def test_refused_for_a_quota_it_is_trained_here_and_registered_as_it_would_have_been(
    place: FakeCloud, shapes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place.api.failures["CreatePipelineJob"] = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA)]

    assert gauntlet("submit", shapes, "--wait", "--fallback-local") == 0

    output = capsys.readouterr()
    assert "the quota aiplatform.googleapis.com/custom_model_training_cpus is used up" in output.err
    assert "Promoted as version 1" in output.out
    version, model = champion()
    assert version.bundle_uri.startswith("gs://bucket/gauntlet/models/shapes/")
    assert model.pipeline_job == ""  # none made it
    assert training_run(place).get_state() == "COMPLETE"
    [refused] = place.api.requests("CreatePipelineJob")
    given = refused.pipeline_job.runtime_config.parameter_values
    assert version.tags["manifest_sha256"] == given["manifest_sha256"]
