"""The receiver of events: a real HTTP server in front, real clients of Vertex AI behind."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import grpc
import pytest
import yaml
from google.api_core.exceptions import InvalidArgument
from google.cloud import aiplatform

from gauntlet import manifests
from gauntlet.backends.google import calls
from gauntlet.backends.google.jobs import ListedJob
from gauntlet.contracts.training_request import TrainingRequest
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.trigger import receiver
from gauntlet.pipelines.trigger.receiver import Limits, Receiver, read_delivery
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure
from tests.fakes.pubsub import PubSub, emulator

PLACE = f"projects/demo/locations/{FakeCloud.LOCATION}"
IMAGE = f"europe-docker.pkg.dev/demo/gauntlet/IMAGE@sha256:{'a' * 64}"
SETTINGS = {
    "GAUNTLET_PROJECT": "demo",
    "GAUNTLET_REGION": FakeCloud.LOCATION,
    "GAUNTLET_ROOT": "gs://bucket/runs",
    "GAUNTLET_REGISTRY": f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/x",
}
ACCOUNTS = ("release@demo.iam.gserviceaccount.com", "trainer@demo.iam.gserviceaccount.com")
SETTINGS |= dict(zip(("GAUNTLET_SERVICE_ACCOUNT", "GAUNTLET_TRAINING_ACCOUNT"), ACCOUNTS, strict=True))
DRIFT = {"manifest": "emotion_sample", "reason": "drift", "detail": "PSI 0.31"}
BY_HAND = DRIFT | {"reason": "manual"}
# printf 'event-1' | sha256sum
DRIFT_JOB = f"{PLACE}/pipelineJobs/emotion-sample-drift-ce36863f51b6baf9"


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(cloud: FakeCloud, pushed_images: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the receiver listens."""
    for key, value in SETTINGS.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.01)
    monkeypatch.setattr(calls, "SECONDS_OF_RETRIES", 0.3)
    server = make_server("127.0.0.1", 0, receiver.create(), handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pushed(event: Mapping[str, Any], message_id: str = "event-1") -> bytes:
    """What a Pub/Sub push subscription sends."""
    message = {
        "data": base64.b64encode(json.dumps(event).encode()).decode(),
        "messageId": message_id,
        "publishTime": "2026-11-21T10:00:00Z",
    }
    return json.dumps({"message": message, "subscription": "projects/demo/subscriptions/s"}).encode()


def send(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """The status and the answer."""
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": "application/json", **(headers or {})}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def aged(cloud: FakeCloud, job: str, hours: float) -> None:
    """Let a job have been made some hours ago."""
    cloud.resources.get(job).create_time = datetime.now(UTC) - timedelta(hours=hours)


def created(cloud: FakeCloud) -> list[str]:
    return [request.pipeline_job_id for request in cloud.api.requests("CreatePipelineJob")]


# --- what starts a run ---


def test_an_event_makes_a_job_of_its_manifest_whose_id_is_derived_from_the_event(
    url: str, cloud: FakeCloud
) -> None:
    status, answer = send(url, pushed(DRIFT))

    assert (status, answer["outcome"], answer["job"]) == (200, "submitted", DRIFT_JOB)
    job = cloud.resources.get(DRIFT_JOB)
    assert job.labels["system"] == "emotion_sample"
    assert job.labels["reason"] == "drift"
    given = job.runtime_config.parameter_values
    assert given["name"] == "emotion_sample"
    assert given["registry_uri"] == SETTINGS["GAUNTLET_REGISTRY"]
    assert (job.service_account, given["training_account"]) == ACCOUNTS


@pytest.fixture
def rooted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver's manifests, with a folder where new data may lie."""
    content = yaml.safe_load((Path(manifests.__path__[0]) / "emotion_sample.yaml").read_text())
    content["dataset"]["roots"] = ["gs://bucket/2026-11"]
    (tmp_path / "emotion_sample.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(manifests, "__path__", [str(tmp_path), *manifests.__path__])


def test_new_data_is_what_the_run_validates(url: str, cloud: FakeCloud, rooted: None) -> None:
    event = {
        "manifest": "emotion_sample",
        "reason": "new_data",
        "dataset_uri": "gs://bucket/2026-11/rows.csv",
        "dataset_version": "2026-11",
    }

    status, answer = send(url, pushed(event))

    assert status == 200
    dataset = cloud.resources.get(answer["job"]).runtime_config.parameter_values["dataset"]
    assert (dataset["uri"], dataset["version"]) == ("gs://bucket/2026-11/rows.csv", "2026-11")


@pytest.mark.parametrize(
    "uri",
    [
        "gs://bucket/2026-11/../private/rows.csv",
        "gs://bucket/2026-112/rows.csv",
        "https://169.254.169.254/rows.csv",
        "gs://bucket/2026-11/rows.csv::https://127.0.0.1/",
    ],
)
def test_an_event_names_no_data_that_the_manifest_does_not_allow(
    url: str, cloud: FakeCloud, rooted: None, uri: str
) -> None:
    status, answer = send(url, pushed(DRIFT | {"dataset_uri": uri}))
    assert (status, answer["outcome"]) == (400, "refused")
    assert f"dataset_uri: found '{uri}'" in answer["message"]
    assert "dataset.roots" in answer["message"]
    assert cloud.api.calls == []


@pytest.mark.parametrize("written", [True, False])
def test_a_redelivery_makes_no_second_job_even_when_the_first_answer_was_lost(
    url: str, cloud: FakeCloud, written: bool
) -> None:
    lost = Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=written)
    cloud.api.failures["CreatePipelineJob"] = [lost] * 20

    assert send(url, pushed(DRIFT))[0] == (200 if written else 503)
    cloud.api.failures.clear()
    status, answer = send(url, pushed(DRIFT))

    assert (status, answer["outcome"]) == (200, "duplicate" if written else "submitted")
    assert len(cloud.resources.of_location(PLACE, "pipelineJobs")) == 1


def test_an_event_that_is_published_twice_with_one_id_of_its_own_makes_one_job(
    url: str, cloud: FakeCloud
) -> None:
    first, second = (send(url, pushed(BY_HAND | {"id": "rows-7"}, message))[1] for message in ("1", "2"))

    assert (first["outcome"], second["outcome"]) == ("submitted", "duplicate")
    assert first["job"] == second["job"]


@pytest.mark.parametrize("form", ["headers", "body", "base64", "pubsub"])
def test_a_cloud_event_is_the_same_event_in_every_form(url: str, cloud: FakeCloud, form: str) -> None:
    attributes = {"specversion": "1.0", "id": "7", "source": "//monitoring", "type": "gauntlet.run"}
    in_headers = {f"ce-{key}": value for key, value in attributes.items()}
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    encoded = base64.b64encode(json.dumps(DRIFT).encode()).decode()
    headers, body = {
        "headers": (in_headers, json.dumps(DRIFT).encode()),
        "body": (structured, json.dumps(attributes | {"data": DRIFT}).encode()),
        "base64": (structured, json.dumps(attributes | {"data_base64": encoded}).encode()),
        "pubsub": (in_headers, pushed(DRIFT, "//monitoring 7")),  # through Eventarc
    }[form]

    status, answer = send(url, body, headers)

    assert (status, answer["outcome"]) == (200, "submitted")
    # printf '//monitoring 7' | sha256sum
    assert answer["job"].endswith("-drift-95c8bf49c0e4d745")


@pytest.mark.skipif(emulator() is None, reason="no Java, or no Pub/Sub emulator of the Cloud SDK")
def test_pubsub_itself_pushes_an_event_until_it_is_taken_and_that_makes_one_job(
    url: str, cloud: FakeCloud
) -> None:
    made = threading.Event()
    cloud.pipelines.on_create = lambda _: made.set()
    cloud.api.failures["CreatePipelineJob"] = [Failure(grpc.StatusCode.UNAVAILABLE)] * 8
    program = emulator()
    assert program is not None
    pubsub = PubSub(program, push_to=url)
    try:
        pubsub.publish(json.dumps(DRIFT).encode())
        assert made.wait(timeout=60)
    finally:
        pubsub.close()

    assert len(cloud.api.requests("ListPipelineJobs")) >= 2  # once for every push
    [job] = cloud.resources.of_location(PLACE, "pipelineJobs")
    assert re.fullmatch(rf"{PLACE}/pipelineJobs/emotion-sample-drift-[0-9a-f]{{16}}", job.name)


# --- limits, held against the jobs that Vertex lists ---


def test_the_cool_down_holds_until_it_has_passed_but_not_for_a_person(url: str, cloud: FakeCloud) -> None:
    first = send(url, pushed(DRIFT))[1]["job"]

    status, answer = send(url, pushed(DRIFT, "2"))
    assert (status, answer["outcome"]) == (200, "skipped")
    assert answer["message"].startswith("cool-down: the last run began ")
    by_hand = send(url, pushed(BY_HAND, "3"))[1]
    assert by_hand["outcome"] == "submitted"

    for job in (first, by_hand["job"]):
        aged(cloud, job, hours=6.1)
    assert send(url, pushed(DRIFT, "4"))[1]["outcome"] == "submitted"


def test_the_daily_cap_counts_every_job_of_the_system_of_the_last_day_and_no_other(
    url: str, cloud: FakeCloud
) -> None:
    jobs = [send(url, pushed(BY_HAND, str(number)))[1]["job"] for number in range(3)]
    cloud.resources.get(jobs[0]).state = 5  # failed: it counts as well

    status, answer = send(url, pushed(BY_HAND, "3"))
    assert (status, answer["outcome"]) == (200, "skipped")
    assert answer["message"] == "daily cap: 3 runs in 24 hours, 3 are allowed"

    cloud.resources.get(jobs[1]).labels["system"] = "another"
    assert send(url, pushed(BY_HAND, "4"))[1]["outcome"] == "submitted"


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of emotion_sample may cost 1 USD."""
    monkeypatch.setenv("GAUNTLET_TRIGGER_BUDGET_USD", "2.5")


@pytest.mark.usefixtures("small_budget")
def test_the_budget_is_of_thirty_days(url: str, cloud: FakeCloud) -> None:
    jobs = [send(url, pushed(BY_HAND, str(number)))[1]["job"] for number in range(2)]

    status, answer = send(url, pushed(BY_HAND, "2"))
    assert (status, answer["outcome"]) == (200, "skipped")
    assert answer["message"] == (
        "budget: runs of the last 30 days may cost 2.00 USD, and this one 1.00, which is more than 2.50"
    )

    aged(cloud, jobs[0], hours=30 * 24 + 1)
    assert send(url, pushed(BY_HAND, "3"))[1]["outcome"] == "submitted"


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def made(hours: float, usd: float = 1.0) -> ListedJob:
    return ListedJob("job", NOW - timedelta(hours=hours), usd)


@pytest.mark.parametrize(
    ("jobs", "usd", "word"),
    [
        ([], 10.0, None),
        ([], 10.5, "budget"),
        ([made(5.9)], 1.0, "cool-down"),
        ([made(6.0)], 1.0, None),
        ([made(6.0), made(23.9)], 1.0, "daily cap"),
        ([made(6.0), made(24.0)], 1.0, None),
        ([made(100.0, usd=9.5)], 1.0, "budget"),
        ([made(720.0, usd=9.5)], 1.0, None),
    ],
)
def test_limits_hold_up_to_their_bound(jobs: list[ListedJob], usd: float, word: str | None) -> None:
    limits = Limits(cool_down_hours=6, runs_per_day=2, budget_usd=10)

    reason = limits.reason_against(jobs, usd, by_hand=False, now=NOW)

    assert (reason and reason.partition(":")[0]) == word


# --- what cannot be helped by asking again, and what can ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "body: not JSON"),
        (b"\xff", "body: not JSON"),
        (b"[]", "event: found []"),
        (json.dumps(DRIFT).encode(), "id: found none"),
        (b'{"message": 1}', "message: found a JSON int, expected an object"),
        (b'{"message": {"data": "x", "messageId": "1"}}', "message.data: not base64"),
        (b'{"message": {"data": "e30=", "messageId": "1"}}', "manifest: found nothing: Field required; re"),
        (pushed(DRIFT | {"reason": "boredom"}), "reason: found 'boredom'"),
        (pushed(DRIFT | {"budget": 1}), "budget: found 1: Extra inputs are not permitted"),
        (
            pushed(DRIFT | {"manifest": "emotoin"}),
            "manifest: found 'emotoin', expected one of card_grading, emotion",
        ),
        (pushed(DRIFT | {"dataset_uri": "/etc/passwd"}), "dataset_uri: found '/etc/passwd'"),
        (pushed(DRIFT | {"dataset_uri": "gs://b/x", "dataset_version": ""}), "dataset_version: found ''"),
    ],
)
def test_what_is_no_event_is_refused_for_good_and_nothing_is_asked_of_vertex(
    url: str, cloud: FakeCloud, body: bytes, words: str
) -> None:
    status, answer = send(url, body)

    assert (status, answer["outcome"], answer["severity"]) == (400, "refused", "ERROR")
    assert words in answer["message"]
    assert cloud.api.calls == []


@pytest.mark.parametrize("attribute", ["ce-id", "ce-source", "ce-type"])
def test_a_cloud_event_without_an_attribute_that_each_has_is_refused(attribute: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    del headers[attribute]

    with pytest.raises(UsageError, match=f"CloudEvent: found no {attribute.removeprefix('ce-')}, which"):
        read_delivery(headers, json.dumps(DRIFT).encode())


def test_a_cloud_event_of_another_version_is_refused() -> None:
    headers = {"ce-specversion": "0.3", "ce-id": "1", "ce-source": "s", "ce-type": "t"}

    with pytest.raises(UsageError, match=r"specversion: found '0\.3', expected '1\.0'"):
        read_delivery(headers, json.dumps(DRIFT).encode())


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure(grpc.StatusCode.UNAVAILABLE), 503),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED), 503),
        (
            Failure(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Quota exceeded: aiplatform.googleapis.com/custom_model_training_cpus",
            ),
            503,
        ),
        (Failure(grpc.StatusCode.PERMISSION_DENIED), 500),
    ],
)
def test_what_vertex_refuses_for_now_is_worth_asking_again(
    url: str, cloud: FakeCloud, failure: Failure, status: int
) -> None:
    cloud.api.failures["CreatePipelineJob"] = [failure] * 20

    answered, answer = send(url, pushed(DRIFT))
    assert (answered, answer["outcome"]) == (status, "failed")

    cloud.api.failures.clear()
    assert send(url, pushed(DRIFT))[1]["outcome"] == "submitted"


def test_a_single_failure_in_passing_is_not_even_seen(url: str, cloud: FakeCloud) -> None:
    for method in ("GetPipelineJob", "ListPipelineJobs", "CreatePipelineJob"):
        cloud.api.failures[method] = [Failure(grpc.StatusCode.UNAVAILABLE)]

    assert send(url, pushed(DRIFT))[1]["outcome"] == "submitted"


def test_anything_but_a_post_of_a_small_body_is_refused(url: str, cloud: FakeCloud) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(url)
    assert caught.value.code == 405

    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("POST", "/", headers={"Content-Length": "1000001"})
    assert connection.getresponse().status == 413
    connection.close()
    assert cloud.api.calls == []


def test_a_job_that_does_not_say_what_it_may_cost_stops_the_receiver_instead_of_counting_as_free(
    url: str, cloud: FakeCloud
) -> None:
    job = aiplatform.gapic.PipelineJob(labels={"system": "emotion_sample"}, create_time=datetime.now(UTC))
    cloud.resources.add(PLACE, "pipelineJobs", "made-elsewhere", job)

    status, answer = send(url, pushed(DRIFT))

    assert (status, answer["outcome"]) == (500, "failed")
    assert "pipelineJobs/made-elsewhere: found no training.resources.max_cost_usd" in answer["message"]
    assert created(cloud) == []


def test_the_fake_lists_jobs_by_no_filter_that_it_does_not_know(cloud: FakeCloud) -> None:
    host = f"{FakeCloud.LOCATION}-aiplatform.googleapis.com"
    client = aiplatform.gapic.PipelineServiceClient(client_options={"api_endpoint": host})

    with pytest.raises(InvalidArgument, match="filter: 'state=1' is not in this fake"):
        client.list_pipeline_jobs(request={"parent": PLACE, "filter": "state=1"})


# --- the receiver's own settings ---


def test_settings_that_are_missing_are_named_together() -> None:
    with pytest.raises(UsageError, match="found no GAUNTLET_PROJECT, GAUNTLET_REGION, GAUNTLET_REGISTRY,"):
        Receiver.of({"GAUNTLET_ROOT": "gs://bucket/runs"})


@pytest.mark.parametrize("text", ["-1", "six", "nan", ""])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"GAUNTLET_TRIGGER_RUNS_PER_DAY: found '.*', expected a number"):
        Receiver.of(SETTINGS | {"GAUNTLET_TRIGGER_RUNS_PER_DAY": text})


def test_an_event_cannot_set_what_a_run_may_cost() -> None:
    assert "resources" not in str(TrainingRequest.model_json_schema())


def test_the_process_that_cloud_run_starts_receives_events(cloud: FakeCloud) -> None:
    environment = {"GAUNTLET_COMPONENTS_IMAGE": IMAGE, "GAUNTLET_TRAINER_IMAGE": IMAGE, "PORT": "0"}
    command = [sys.executable, "-m", "gauntlet.pipelines.trigger"]
    process = subprocess.Popen(
        command, env=os.environ | SETTINGS | environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        listening = next(line for line in process.stderr if b"Listening at: " in line).decode()
        url = re.search(r"http://\S+", listening)[0].replace("0.0.0.0", "127.0.0.1")  # type: ignore[index]
        assert send(url, pushed(DRIFT))[1]["outcome"] == "submitted"
        assert created(cloud) == [DRIFT_JOB.rpartition("/")[2]]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()
