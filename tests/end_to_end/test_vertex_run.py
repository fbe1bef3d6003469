"""Whole runs by `gauntlet submit --wait` on data from a bucket: there, and here where a quota is used up."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.cloud import aiplatform
from google.cloud.aiplatform_v1.types import PipelineJob

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.registry import ModelVersion
from gauntlet.pipelines.vertex import follow
from gauntlet.serving.bundle import read_info
from gauntlet.tasks.image_classification.tiny import write_files
from tests.drawn_images import FILES, draw
from tests.end_to_end.test_images import manifest_content
from tests.fakes.cloud import FakeCloud
from tests.fakes.execution import Execution
from tests.fakes.google_api import Failure
from tests.pipelines.test_cli import gauntlet

pytestmark = pytest.mark.usefixtures("warm_processes")
REUSABLE = {"validate-data", "train-model", "convert-to-onnx"}
PLACE = f"projects/demo/locations/{FakeCloud.LOCATION}"
REGISTRY = f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/gauntlet"
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
    content["gates"] |= {"non_inferiority_margin": 0.5, "max_class_f1_drop": 1.0}
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


class Executions:
    """The jobs that Vertex is sent, each really run, with one cache for all."""

    def __init__(self, cloud: FakeCloud, folder: Path) -> None:
        self._cloud = cloud
        self._folder = folder
        self._all: list[Execution] = []
        cloud.pipelines.on_create, cloud.pipelines.is_done = self._start, self._is_done

    def _start(self, job: PipelineJob) -> None:
        folder = self._folder / f"execution-{len(self._all)}"
        self._all.append(Execution(folder, self._cloud.bucket, self._folder / "cache"))
        self.last.start(job)

    def _is_done(self) -> bool:
        return self.last.is_done()

    @property
    def last(self) -> Execution:
        return self._all[-1]

    @property
    def log(self) -> str:
        return (self.last.folder / "log").read_text()

    def sunday(self, day: int) -> tuple[set[str], str]:
        """The schedule is due: which steps ran, and the headline of the run's page."""
        [schedule] = self._cloud.resources.of_location(PLACE, "schedules")
        self._cloud.schedules.fire(schedule, f"shapes-2026-12-{day:02}")
        self.last.wait()
        pages = [uri for uri in self._cloud.bucket.objects if f"/shapes-2026-12-{day:02}/write-report" in uri]
        [page] = [uri for uri in pages if uri.endswith("/report")] or pytest.fail(self.log)
        found = re.search(r"<h1>(.*?)</h1>", self._cloud.bucket.objects[page].decode())
        assert found is not None
        return self.last.ran, found[1]


@pytest.mark.timeout(1800)  # twenty-five processes that each import a framework
def test_a_submitted_job_registers_what_the_bucket_holds_and_a_schedule_trains_when_that_has_changed(
    place: FakeCloud, shapes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executions = Executions(place, tmp_path)

    code = gauntlet("submit", shapes, "--wait")

    assert code == 0, executions.log
    assert "Promoted as version 1" in capsys.readouterr().out
    assert executions.last.ran >= REUSABLE
    version, model = champion()
    [request] = place.api.requests("CreatePipelineJob")
    given = request.pipeline_job.runtime_config.parameter_values
    assert version.tags["manifest_sha256"] == given["manifest_sha256"]
    job = f"{PLACE}/pipelineJobs/{request.pipeline_job_id}"
    assert model.pipeline_job == job
    run = training_run(place)
    assert [one.resource_name for one in run.get_logged_pipeline_jobs()] == [job]
    assert run.get_metrics()["validation_accuracy"] > 0.5

    file = tmp_path / "schedules.yaml"
    file.write_text(yaml.safe_dump({"schedules": [{"name": "w", "manifest": shapes, "cron": "0 2 * * 0"}]}))
    assert gauntlet("schedule", "apply", str(file)) == 0

    ran, headline = executions.sunday(6)
    assert not ran & REUSABLE and ran >= {"fingerprint-data", "evaluate-model", "register-model"}
    assert headline == "Unchanged: version 1 is still the champion"

    others = write_files(tmp_path / "others", draw(100, seed=3), draw(40, seed=2))
    for name in (FILES["train_images"], FILES["train_labels"]):
        place.bucket.objects[f"gs://bucket/drawn/{name}"] = (others / name).read_bytes()
    ran, headline = executions.sunday(13)
    assert ran >= REUSABLE
    assert headline == "Promoted as version 2"

    ran, headline = executions.sunday(20)
    assert not ran & REUSABLE
    assert headline == "Unchanged: version 2 is still the champion"

    for name in FILES.values():  # uploaded again, packed by another program
        packed = place.bucket.objects[f"gs://bucket/drawn/{name}"]
        place.bucket.objects[f"gs://bucket/drawn/{name}"] = gzip.compress(gzip.decompress(packed), 9)
    ran, headline = executions.sunday(27)
    assert ran & REUSABLE == {"validate-data"}
    assert headline == "Unchanged: version 2 is still the champion"

    registry = open_registry(REGISTRY)
    runs = [one.tags["run_id"] for one in registry.versions("shapes")]
    assert runs == ["shapes-2026-12-13", request.pipeline_job_id]
    assert registry.rollback("shapes").champion.tags["run_id"] == request.pipeline_job_id


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
