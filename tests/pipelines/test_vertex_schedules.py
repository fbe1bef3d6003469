"""Schedules, from their file to Vertex AI and to Cloud Scheduler."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.cloud import aiplatform_v1 as vertex
from google.cloud import scheduler_v1
from google.protobuf import json_format

from gauntlet.backends.google import calls
from gauntlet.backends.google.jobs import PipelineSchedules
from gauntlet.backends.google.location import VertexLocation
from gauntlet.components.gate_model.component import gate_model
from gauntlet.manifests.errors import GauntletError
from gauntlet.pipelines.vertex.schedules import cron_fault, read_schedules
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure
from tests.fakes.web import REPOSITORY
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet
from tests.pipelines.test_vertex_submit import cached_tasks

State = vertex.Schedule.State
ACCOUNT = "trainer@demo.iam.gserviceaccount.com"
TRAINING_ACCOUNT = "training@demo.iam.gserviceaccount.com"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "SECONDS_TO_ANSWER", 2.0)
    monkeypatch.setattr(calls, "SECONDS_OF_RETRIES", 3.0)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """A file of one schedule, with these keys over the usual ones; None leaves one out."""

    def write(**keys: Any) -> str:
        usual = {"name": "emotion", "manifest": SAMPLE, "cron": "0 2 * * 0", "time_zone": "Europe/Amsterdam"}
        schedule = {key: value for key, value in (usual | keys).items() if value is not None}
        path = tmp_path / "schedules.yaml"
        path.write_text(yaml.safe_dump({"schedules": [schedule]}))
        return str(path)

    return write


def there(cloud: FakeCloud) -> list[vertex.Schedule]:
    return cloud.resources.of_location(f"projects/demo/locations/{cloud.LOCATION}", "schedules")


def apply(path: str, *options: str) -> int:
    return gauntlet("schedule", "apply", path, *options)


def test_the_shipped_file_runs_the_emotion_system_on_sundays_at_two() -> None:
    [schedule] = read_schedules(ROOT / "schedules.yaml")
    assert schedule.vertex_cron == "TZ=Europe/Amsterdam 0 2 * * 0"
    assert schedule.manifest == str(ROOT / "manifests" / "emotion.yaml")


def test_applying_makes_a_schedule_and_applying_again_changes_nothing(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(start="2027-01-01T00:00:00+01:00", end="2027-12-31T00:00:00+01:00")
    assert apply(path, "--diff", "--json") == 0
    [change] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (change["key"], change["found"]) == ("schedule", "none")
    assert there(place) == []
    assert apply(path) == 0
    [made] = there(place)
    assert made.cron == "TZ=Europe/Amsterdam 0 2 * * 0"
    assert made.state == State.ACTIVE
    assert (made.max_concurrent_run_count, made.max_concurrent_active_run_count) == (1, 1)
    assert made.allow_queueing is False
    assert made.start_time.isoformat() == "2026-12-31T23:00:00+00:00"
    job = made.create_pipeline_job_request.pipeline_job
    assert "training_account" not in job.runtime_config.parameter_values
    assert job.runtime_config.gcs_output_directory == "gs://bucket/root"
    assert "run_id" not in job.runtime_config.parameter_values  # each run's own id is its name

    place.api.calls.clear()
    capsys.readouterr()
    assert apply(path, "--diff") == 0
    assert capsys.readouterr().out == "nothing would change\n"
    assert apply(path) == 0
    assert {method for method, _ in place.api.calls} == {"ListSchedules"}


def test_training_has_its_own_account_where_one_is_named(
    place: FakeCloud, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAUNTLET_TRAINING_ACCOUNT", TRAINING_ACCOUNT)
    assert apply(write(), "--service-account", ACCOUNT) == 0
    job = there(place)[0].create_pipeline_job_request.pipeline_job
    given = job.runtime_config.parameter_values["training_account"]
    assert (job.service_account, given) == (ACCOUNT, TRAINING_ACCOUNT)


def test_a_change_updates_what_is_there_and_nothing_else(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(write()) == 0
    before = there(place)[0].name
    capsys.readouterr()
    changed = write(cron="30 4 * * 1-5", set=["training.epochs=7"])
    assert apply(changed, "--diff") == 0
    shown = capsys.readouterr().out
    assert "TZ=Europe/Amsterdam 0 2 * * 0" in shown and "TZ=Europe/Amsterdam 30 4 * * 1-5" in shown
    assert "nothing was changed" in shown
    assert place.api.requests("UpdateSchedule") == []

    assert apply(changed) == 0
    [schedule] = there(place)
    assert (schedule.name, schedule.cron) == (before, "TZ=Europe/Amsterdam 30 4 * * 1-5")
    values = schedule.create_pipeline_job_request.pipeline_job.runtime_config.parameter_values
    assert values["training"]["epochs"] == 7
    [update] = place.api.requests("UpdateSchedule")
    assert set(update.update_mask.paths) == {"cron", "create_pipeline_job_request"}


def test_a_schedule_that_is_applied_again_after_a_new_image_runs_that_image(
    place: FakeCloud, write: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/kubeflow/pipelines/issues/1365, https://github.com/kubeflow/pipelines/issues/6087:
    a schedule could not be given another pipeline, only deleted and made anew."""
    assert apply(write()) == 0
    before = there(place)[0].name
    newer = f"registry.example/components@sha256:{'3' * 64}"
    monkeypatch.setattr(gate_model.component_spec.implementation.container, "image", newer)
    assert apply(write()) == 0
    [schedule] = there(place)
    assert schedule.name == before
    spec = json_format.MessageToDict(
        vertex.PipelineJob.pb(schedule.create_pipeline_job_request.pipeline_job).pipeline_spec
    )
    assert spec["deploymentSpec"]["executors"]["exec-gate-model"]["container"]["image"] == newer
    assert place.api.requests("DeleteSchedule") == []


def test_the_cache_is_switched_off_and_on_again_by_applying_the_file(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    def cached() -> set[str]:
        return cached_tasks(there(place)[0].create_pipeline_job_request.pipeline_job)

    assert apply(write(cache=False)) == 0
    assert cached() == set()
    capsys.readouterr()
    assert apply(write(), "--diff") == 0
    assert "pipeline" in capsys.readouterr().out
    assert apply(write(cache=True)) == 0
    assert {"validate-data", "train-model", "convert-to-onnx"} <= cached()
    place.api.calls.clear()
    assert apply(write()) == 0  # true is what is meant without the key
    assert place.api.requests("UpdateSchedule") == []


def test_pausing_and_resuming_make_up_for_no_run_that_was_missed(
    place: FakeCloud, write: Callable[..., str]
) -> None:
    assert apply(write(paused=True)) == 0
    assert there(place)[0].state == State.PAUSED
    assert apply(write(paused=True)) == 0
    assert len(place.api.requests("PauseSchedule")) == 1
    assert apply(write()) == 0
    assert there(place)[0].state == State.ACTIVE
    assert place.schedules.catch_ups == [False]
    assert apply(write(paused=True)) == 0
    assert there(place)[0].state == State.PAUSED


@pytest.mark.parametrize("written", [True, False])
def test_an_answer_to_pausing_or_resuming_that_is_lost_is_asked_for_again(
    place: FakeCloud, write: Callable[..., str], written: bool
) -> None:
    assert apply(write()) == 0
    lost = Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=written)
    for method, paused, state in (
        ("PauseSchedule", True, State.PAUSED),
        ("ResumeSchedule", False, State.ACTIVE),
    ):
        place.api.failures[method] = [lost]
        assert apply(write(paused=paused)) == 0
        assert there(place)[0].state == state
        assert len(place.api.requests(method)) == 2


def test_an_answer_that_is_lost_after_a_schedule_was_made_makes_no_second_one(
    place: FakeCloud, write: Callable[..., str]
) -> None:
    place.api.failures["CreateSchedule"] = [Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)]
    assert apply(write(paused=True)) == 0
    assert [schedule.state for schedule in there(place)] == [State.PAUSED]


def test_a_schedule_that_was_not_made_is_made_by_a_retry(place: FakeCloud, write: Callable[..., str]) -> None:
    place.api.failures["CreateSchedule"] = [Failure(grpc.StatusCode.UNAVAILABLE)]
    assert apply(write()) == 0
    assert len(there(place)) == 1


def test_a_service_that_stays_down_makes_no_schedule_and_says_so(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    place.api.failures["CreateSchedule"] = [Failure(grpc.StatusCode.UNAVAILABLE)] * 100
    assert apply(write()) == 1
    assert "cannot be reached (told to fail)" in capsys.readouterr().err
    place.api.failures.clear()
    assert there(place) == []
    assert apply(write()) == 0


def test_an_update_whose_answer_is_lost_is_done_again(place: FakeCloud, write: Callable[..., str]) -> None:
    assert apply(write()) == 0
    place.api.failures["UpdateSchedule"] = [Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)]
    assert apply(write(cron="0 3 * * 0")) == 0
    assert [schedule.cron for schedule in there(place)] == ["TZ=Europe/Amsterdam 0 3 * * 0"]


def test_what_cannot_be_made_of_what_is_there_is_refused_and_changes_nothing(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(write(end="2027-12-31T00:00:00Z")) == 0
    assert apply(write()) == 2
    assert "cannot remove an end" in capsys.readouterr().err
    there(place)[0].state = State.COMPLETED
    assert apply(write(end="2027-12-31T00:00:00Z")) == 2
    assert "cannot be restarted" in capsys.readouterr().err
    assert place.api.requests("UpdateSchedule") == []


def test_several_schedules_of_one_name_and_those_not_in_the_file_are_named(
    place: FakeCloud, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(write()) == 0
    capsys.readouterr()
    assert apply(write(name="other")) == 0
    assert "emotion is not in the file, and was not changed" in capsys.readouterr().out
    there(place)[1].display_name = "emotion"
    assert apply(write()) == 2
    assert "there are several of that name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"cron": "0 25 * * *"}, "hour '25'"),
        ({"cron": "every day"}, "five fields are expected"),
        ({"time_zone": "Mars/Olympus"}, "a time zone such as Europe/Amsterdam"),
        ({"start": "2027-01-02T00:00:00Z", "end": "2027-01-01T00:00:00Z"}, "end must be after start"),
        ({"start": "2027-01-02T00:00:00"}, "timezone"),
        ({"manifest": None}, "one of manifest and template"),
        ({"when": "now"}, "when"),
        ({"cache": "often"}, "schedules.0.cache"),
        ({"set": ["training.epochs=three"]}, "training.epochs"),
        ({"manifest": "absent.yaml"}, "no such file"),
    ],
)
def test_a_file_with_faults_is_refused(
    keys: dict[str, Any],
    words: str,
    place: FakeCloud,
    write: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert apply(write(**keys)) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message
    assert there(place) == []


@pytest.mark.parametrize(
    "cron", ["* * * * *", "*/15 0-6 1,15 JAN-MAR SUN", "59 23 31 12 7", "0 9-17/2 * * MON-FRI"]
)
def test_cron_expressions_of_five_fields_are_taken(cron: str) -> None:
    assert cron_fault(cron) is None


@pytest.mark.parametrize(
    "cron",
    [
        "60 * * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "*-5 * * * *",
        "a * * * *",
    ],
)
def test_cron_expressions_that_are_none_are_not(cron: str) -> None:
    assert cron_fault(cron) is not None


def test_a_schedule_that_ended_in_between_is_not_said_to_be_paused(
    place: FakeCloud, write: Callable[..., str]
) -> None:
    assert apply(write()) == 0
    schedules = PipelineSchedules(VertexLocation("demo", place.LOCATION))
    there(place)[0].state = State.COMPLETED
    with pytest.raises(GauntletError, match="is COMPLETED"):
        schedules.pause(there(place)[0].name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cron": "0 25 * * *"}, "25 is not within 0 to 23"),
        ({"cron": "TZ=Nowhere 0 2 * * *"}, "time zone"),
        ({"display_name": ""}, "display_name"),
        ({"max_concurrent_run_count": 0}, "max_concurrent_run_count"),
    ],
)
def test_the_service_refuses_a_schedule_that_is_none(
    change: dict[str, Any], words: str, place: FakeCloud, write: Callable[..., str]
) -> None:
    assert apply(write()) == 0
    schedules = PipelineSchedules(VertexLocation("demo", place.LOCATION))
    good = vertex.Schedule.to_dict(there(place)[0])
    kept = ("display_name", "cron", "max_concurrent_run_count", "create_pipeline_job_request")
    with pytest.raises(GauntletError, match=words):
        schedules.create({key: good[key] for key in kept} | {"display_name": "another"} | change)


def test_a_schedule_of_a_template_is_rendered_for_cloud_scheduler(
    place: FakeCloud, write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(compiled)) == 0
    capsys.readouterr()
    assert gauntlet("upload", str(compiled), "--repository", REPOSITORY, "--tag", "v1") == 0
    template = capsys.readouterr().out.strip()
    path = write(manifest=None, template=template, set=["training.epochs=2"])
    out = tmp_path / "jobs"
    options = ("--output", str(out), "--service-account", ACCOUNT, "--training-account", TRAINING_ACCOUNT)
    assert gauntlet("schedule", "render", path, *options) == 0

    content = json.loads((out / "emotion.json").read_text())
    job = scheduler_v1.Job.wrap(json_format.ParseDict(content, scheduler_v1.Job.pb()()))
    assert (job.schedule, job.time_zone) == ("0 2 * * 0", "Europe/Amsterdam")
    assert job.retry_config.retry_count == 0
    target = job.http_target
    assert target.uri == (
        "https://europe-west4-aiplatform.googleapis.com/v1/projects/demo/locations/europe-west4/pipelineJobs"
    )
    assert target.http_method == scheduler_v1.HttpMethod.POST
    assert target.oauth_token.service_account_email == ACCOUNT
    body = json_format.Parse(target.body, vertex.PipelineJob.pb()())  # an unknown key is refused
    assert body.template_uri == template.replace("/v1@", "/")
    assert body.service_account == ACCOUNT
    assert body.runtime_config.parameter_values["training"].struct_value["epochs"] == 2
    assert body.runtime_config.parameter_values["training_account"].string_value == TRAINING_ACCOUNT
    assert base64.b64decode(content["httpTarget"]["body"]) == target.body


@pytest.mark.usefixtures("place")
def test_what_cloud_scheduler_cannot_send_is_refused(
    write: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", str(tmp_path / "jobs"))
    assert gauntlet("schedule", "render", write(), *out, "--service-account", ACCOUNT) == 2
    assert "found no template" in capsys.readouterr().err
    template = f"{REPOSITORY}/x@sha256:{'0' * 64}"
    assert gauntlet("schedule", "render", write(manifest=None, template=template), *out) == 2
    assert "--service-account: found none" in capsys.readouterr().err
    uncached = write(manifest=None, template=template, cache=False)
    assert gauntlet("schedule", "render", uncached, *out, "--service-account", ACCOUNT) == 2
    assert "cache: found false, expected true: Cloud Scheduler" in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()
