"""The monitoring DAG is compiled and scheduled as trainings are, and its jobs do not count as trainings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.backends.google.location import VertexLocation
from gauntlet.contracts.training_request import CLOUD_EVENT, TrainingRequest, decision_event
from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.monitoring import local_jobs, take_request
from gauntlet.pipelines.monitoring import compile_monitoring, monitoring_job
from gauntlet.pipelines.platforms import Platform
from gauntlet.pipelines.terminal import console
from gauntlet.pipelines.trigger.receiver import read_delivery
from tests.fakes.cloud import FakeCloud
from tests.pipelines.test_cli import SAMPLE, gauntlet
from tests.pipelines.test_vertex_schedules import there

LOG = ["monitoring.log=gs://bucket/log", "monitoring.labels=gs://bucket/labels"]


def compiled(tmp_path: Path, platform: Platform) -> dict[str, Any]:
    compile_monitoring(load_manifest(SAMPLE, LOG), tmp_path / "monitoring.yaml", platform)
    spec = next(iter(yaml.safe_load_all((tmp_path / "monitoring.yaml").read_text())))
    return dict(spec)


@pytest.mark.parametrize("platform", ["vertex", "kubeflow"])
def test_the_window_is_that_of_the_scheduled_time_and_no_step_is_cached(
    tmp_path: Path, platform: Platform
) -> None:
    spec = compiled(tmp_path, platform)
    tasks = spec["root"]["dag"]["tasks"]
    assert list(tasks) == ["collect-window", "detect-drift", "request-training"]
    assert not any(task.get("cachingOptions", {}).get("enableCache") for task in tasks.values())
    given = tasks["collect-window"]["inputs"]["parameters"]["scheduled"]["runtimeValue"]["constant"]
    assert given == "{{$.pipeline_job_schedule_time_utc}}"
    assert "scheduled" not in spec["root"]["inputDefinitions"]["parameters"]
    commands = [one["container"]["command"] for one in spec["deploymentSpec"]["executors"].values()]
    assert all("exec python3" in command[-1] or "exec python3" in str(command) for command in commands)


def test_a_runs_own_copy_of_a_manifest_is_the_same(tmp_path: Path) -> None:
    for overrides in ([], LOG):
        manifest = load_manifest(SAMPLE, overrides)
        save_manifest(manifest, tmp_path / "manifest.yaml")
        kept = load_manifest(tmp_path / "manifest.yaml")
        assert (kept.monitoring, kept.sha256) == (manifest.monitoring, manifest.sha256)
    with pytest.raises(ManifestError, match="log is missing"):
        load_manifest(SAMPLE, ["monitoring.window_hours=1"])


def test_a_manifest_without_a_log_has_no_monitoring() -> None:
    with pytest.raises(UsageError, match=r"monitoring\.log: found none"):
        monitoring_job(load_manifest(SAMPLE), {}, "gs://bucket/root", "", None)


def test_compile_writes_the_monitoring_beside_the_training(tmp_path: Path) -> None:
    assert gauntlet("compile", SAMPLE, "--set", LOG[0], "--output", str(tmp_path / "sample.yaml")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "emotion_sample.monitoring.yaml",
        "sample.yaml",
    ]


def test_a_platform_moves_no_requests_back(tmp_path: Path) -> None:
    manifest = load_manifest(SAMPLE, [*LOG, "monitoring.roll_back=automatic"])
    compile_monitoring(manifest, tmp_path / "local.yaml", "local")
    with pytest.raises(UsageError, match="found automatic, expected ask: on vertex"):
        compile_monitoring(manifest, tmp_path / "vertex.yaml", "vertex")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    schedule = {
        "name": "emotion-monitoring",
        "manifest": str(SAMPLE),
        "pipeline": "monitoring",
        "cron": "10 0 * * *",
        "set": LOG,
    }
    path = tmp_path / "schedules.yaml"
    path.write_text(yaml.safe_dump({"schedules": [schedule]}))
    return path


def test_a_scheduled_monitoring_has_a_label_of_its_own(
    place: FakeCloud, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("schedule", "apply", str(file)) == 0
    [made] = there(place)
    job = made.create_pipeline_job_request.pipeline_job
    assert job.labels["monitored"] == "emotion_sample"
    assert "system" not in job.labels
    assert job.runtime_config.parameter_values["monitoring"]["log"] == "gs://bucket/log"
    capsys.readouterr()
    assert gauntlet("schedule", "apply", str(file), "--diff") == 0
    assert capsys.readouterr().out == "nothing would change\n"

    location = VertexLocation("demo", place.LOCATION)
    jobs = PipelineJobs(location)
    jobs.create(type(job).to_dict(job), "monitoring-1")
    assert jobs.of_system("emotion_sample", since=datetime.now(UTC) - timedelta(days=1)) == []


def test_a_log_on_this_machine_cannot_be_monitored_elsewhere(
    place: FakeCloud, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace("gs://bucket/log", "/var/log/gauntlet"))
    assert gauntlet("schedule", "apply", str(file)) == 2
    assert "monitoring.log: found /var/log/gauntlet" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def home(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("GAUNTLET_TRIGGER_RUNS_PER_DAY", "1")
    monkeypatch.setenv("GAUNTLET_TRIGGER_COOL_DOWN_HOURS", "0")
    own_home.mkdir()
    yield Home(own_home)


def test_runs_on_this_machine_count_for_the_same_limits(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    record = home.create_run("emotion_sample")
    (home.run_folder(record.run_id) / "manifest.yaml").write_text(Path(SAMPLE).read_text())
    now = datetime.now(UTC)
    [job] = local_jobs(home, "emotion_sample", now)
    assert job.max_cost_usd == 1.0
    request = TrainingRequest(manifest="emotion_sample", reason="drift", detail="150 of 600")
    event = decision_event(request, "episode", "emotion_sample", "2", now)
    before = len(home.runs())
    assert take_request(event, Path(SAMPLE), (), home, console) == "skipped"
    assert "daily cap: 1 runs in 24 hours" in " ".join(capsys.readouterr().out.split())
    assert len(home.runs()) == before
    assert json.loads((home.folder / "monitoring" / "emotion_sample.json").read_text())["episode"] is None


def test_a_request_that_made_a_run_makes_no_second_one(home: Home) -> None:
    request = TrainingRequest(manifest="emotion_sample", reason="drift")
    event = decision_event(request, "episode", "emotion_sample", "2", datetime.now(UTC))
    delivery = read_delivery({"content-type": CLOUD_EVENT}, json.dumps(event).encode())
    mark = home.folder / "monitoring" / "emotion_sample" / "requests" / f"{delivery.job_id}.json"
    mark.parent.mkdir(parents=True)
    mark.write_text("{}")
    assert take_request(event, Path(SAMPLE), (), home, console) == "duplicate"
    assert home.runs() == []
