"""The receiver of events that ask for a run.

An event is JSON, the same for every reason:

    {"manifest": "emotion", "reason": "drift", "detail": "PSI of text length 0.31, bound 0.2"}

It arrives as a Pub/Sub push, or as a CloudEvent (its attributes in headers or in the body) whose data is the
event itself or, through Eventarc, a Pub/Sub message. It creates at most one pipeline job:

| status | when | a retry |
|---|---|---|
| 200 | submitted, submitted before, or over a limit | is not needed |
| 400 | no valid event, an unknown manifest, data that a manifest does not allow | does not help |
| 500 | the receiver lacks permissions, or is configured wrongly | helps after that is fixed |
| 503 | Vertex is unavailable or busy, or a quota is used up | helps |

The receiver keeps no state. A job's ID is derived from the event's, so Vertex refuses a second job, and the
limits are computed from the jobs that Vertex lists. gunicorn serves it as a WSGI application on Cloud Run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from gauntlet import manifests
from gauntlet.backends.google.jobs import ListedJob, PipelineJobs
from gauntlet.backends.storage import lies_in, shown
from gauntlet.contracts.training_request import CLOUD_EVENT, SPEC_VERSION, TrainingRequest
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.checks import load_affordable
from gauntlet.pipelines.training import keep_large_sections
from gauntlet.pipelines.vertex.submission import (
    Destination,
    compiled_submission,
    pipeline_job,
    require_sendable,
)

DAY = timedelta(days=1)
BUDGET_PERIOD = timedelta(days=30)
ENVIRONMENT = "GAUNTLET_TRIGGER_"
SETTINGS = ("GAUNTLET_PROJECT", "GAUNTLET_REGION", "GAUNTLET_ROOT", "GAUNTLET_REGISTRY")
Outcome = Literal["submitted", "duplicate", "skipped", "refused", "failed"]
LARGEST_BODY = 1_000_000
"""Bytes; an event is a few hundred."""
Application = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


@dataclass(frozen=True)
class Delivery:
    """An event with its ID, which is the same for every redelivery."""

    id: str
    event: TrainingRequest

    @property
    def job_id(self) -> str:
        """The ID of this event's pipeline job, so that a redelivery creates no second one."""
        digest = hashlib.sha256(self.id.encode(errors="backslashreplace")).hexdigest()[:16]
        return "-".join((self.event.manifest, self.event.reason, digest)).replace("_", "-")


def read_delivery(headers: Mapping[str, str], body: bytes) -> Delivery:
    """The event of a request, whose headers are by lower-case name, or a `UsageError` with all faults."""
    id_, data = _opened(headers, _parsed(body, "body"))
    if isinstance(data, dict) and "message" in data:
        message = _mapping(data["message"], "message")
        id_ = str(message.get("messageId") or message.get("message_id") or "")
        data = _parsed(_decoded(message.get("data"), "message.data"), "message.data")
    try:
        event = TrainingRequest.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(_said(fault) for fault in error.errors())
        raise UsageError(f"{faults}. Correct the event and publish it again.") from None
    named = event.id or id_
    if not named:
        raise UsageError(
            "id: found none, expected that of a Pub/Sub message or a CloudEvent, or one in the event: "
            "without it a redelivery would make a second run."
        )
    return Delivery(named, event)


def _said(fault: Mapping[str, Any]) -> str:
    key = ".".join(map(str, fault["loc"])) or "event"
    found = "nothing" if fault["type"] == "missing" else repr(fault["input"])
    return f"{key}: found {found}: {fault['msg']}"


def _opened(headers: Mapping[str, str], content: Any) -> tuple[str, Any]:
    """The ID and the data of a CloudEvent; anything else has no ID and is the data itself."""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind == CLOUD_EVENT:
        attributes = _mapping(content, "body")
        if "data_base64" in attributes:
            data = _parsed(_decoded(attributes["data_base64"], "data_base64"), "data_base64")
        else:
            data = attributes.get("data")
    elif "ce-specversion" in headers:
        attributes = {key.removeprefix("ce-"): headers[key] for key in headers if key.startswith("ce-")}
        data = content
    else:
        return "", content
    missing = [key for key in ("specversion", "id", "source", "type") if not attributes.get(key)]
    if missing:
        raise UsageError(f"CloudEvent: found no {', '.join(missing)}, which are required.")
    if attributes["specversion"] != SPEC_VERSION:
        raise UsageError(
            f"CloudEvent: specversion: found {attributes['specversion']!r}, expected {SPEC_VERSION!r}."
        )
    return f"{attributes['source']} {attributes['id']}", data


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}.") from None


def _decoded(content: object, where: str) -> bytes:
    try:
        return base64.b64decode(str(content or ""), validate=True)
    except ValueError as error:  # binascii.Error, or a character that is not ASCII
        raise UsageError(f"{where}: not base64: {error}.") from None


def _mapping(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{where}: found a JSON {type(content).__name__}, expected an object.")
    return content


@dataclass(frozen=True)
class Limits:
    """The limits of each system.

    Attributes:
        cool_down_hours: Between the starts of two runs, except a run with the reason `manual`.
        runs_per_day: In any 24 hours.
        budget_usd: In any 30 days, the sum of what each run may cost at most by its own budget.
    """

    cool_down_hours: float = 6.0
    runs_per_day: float = 3.0
    budget_usd: float = 100.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Limits:
        """The limits in `GAUNTLET_TRIGGER_COOL_DOWN_HOURS` and the other variables.

        Raises:
            UsageError: One of them is not a number of at least 0.
        """
        found = {field.name: environment.get(ENVIRONMENT + field.name.upper()) for field in fields(cls)}
        return cls(**{name: _number(name, text) for name, text in found.items() if text is not None})

    def reason_against(
        self, jobs: Sequence[ListedJob], max_cost_usd: float, by_hand: bool, now: datetime
    ) -> str | None:
        """Why a run that may cost `max_cost_usd` must not start now; None if it may.

        Every job counts, whatever started it and however it ended: a failed job costs money too.
        """
        last = max((job.created for job in jobs), default=None)
        if last is not None and not by_hand and now - last < timedelta(hours=self.cool_down_hours):
            began = f"{last:%Y-%m-%d %H:%M} UTC"
            return f"cool-down: the last run began {began}, and {self.cool_down_hours:g} h must pass"
        today = sum(now - job.created < DAY for job in jobs)
        if today >= self.runs_per_day:
            return f"daily cap: {today} runs in 24 hours, {self.runs_per_day:g} are allowed"
        spent = math.fsum(job.max_cost_usd for job in jobs if now - job.created < BUDGET_PERIOD)
        if spent + max_cost_usd > self.budget_usd:
            return (
                f"budget: runs of the last 30 days may cost {spent:.2f} USD, and this one "
                f"{max_cost_usd:.2f}, which is more than {self.budget_usd:.2f}"
            )
        return None


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{ENVIRONMENT}{name.upper()}: found {text!r}, expected a number of at least 0.")
    return value


@dataclass(frozen=True)
class Answer:
    """The answer to the sender, which is also the log entry. `status` is the HTTP status."""

    status: int
    outcome: Outcome
    message: str = ""
    job: str = ""

    def as_json(self) -> bytes:
        """The body of the answer, which is also an entry of Cloud Logging's structured log."""
        severity = {"refused": "ERROR", "failed": "ERROR", "skipped": "NOTICE"}.get(self.outcome, "INFO")
        return json.dumps({"severity": severity, **asdict(self)}).encode()


@dataclass(frozen=True)
class Receiver:
    """Submits runs to a destination, within limits."""

    destination: Destination
    limits: Limits

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Receiver:
        """The receiver that the environment variables configure.

        Raises:
            UsageError: A variable is missing or wrong.
        """
        missing = [key for key in SETTINGS if not environment.get(key)]
        if missing:
            raise UsageError(f"environment: found no {', '.join(missing)}, expected all of them to be set.")
        project, region, root, registry = (environment[key] for key in SETTINGS)
        tracking = environment.get("GAUNTLET_TRACKING")
        accounts = (environment.get(key) for key in ("GAUNTLET_SERVICE_ACCOUNT", "GAUNTLET_TRAINING_ACCOUNT"))
        destination = Destination.of(project, region, root, registry, tracking, *accounts)
        return cls(destination, Limits.of(environment))

    def answer(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Submit the run that a request asks for, unless it was submitted before or is over a limit."""
        try:
            delivery = read_delivery(headers, body)
            manifest = _manifest(delivery.event)
        except UsageError as error:
            return Answer(400, "refused", str(error))
        try:
            return self._submit(delivery, manifest)
        except UsageError as error:
            return Answer(500, "failed", str(error))
        except GauntletError as error:
            return Answer(503, "failed", str(error))

    def _submit(self, delivery: Delivery, manifest: Manifest) -> Answer:
        jobs = PipelineJobs(self.destination.location)
        name = f"{self.destination.location.parent}/pipelineJobs/{delivery.job_id}"
        if jobs.find(name) is not None:
            return Answer(200, "duplicate", "this event made a job before", name)
        now = datetime.now(UTC)
        listed = jobs.of_system(manifest.name, since=now - BUDGET_PERIOD)
        by_hand = delivery.event.reason == "manual"
        most = manifest.training.resources.max_cost_usd
        against = self.limits.reason_against(listed, most, by_hand, now)
        if against is not None:
            return Answer(200, "skipped", against)
        submission = compiled_submission(manifest, self.destination)
        require_sendable(submission)
        job = pipeline_job(manifest, submission.spec, self.destination)
        keep_large_sections(manifest, self.destination.sections)
        job["labels"]["reason"] = delivery.event.reason
        jobs.create(job, delivery.job_id)
        return Answer(200, "submitted", delivery.event.detail, name)


def _manifest(event: TrainingRequest) -> Manifest:
    """The manifest that the event names, with the keys that it sets."""
    folder = Path(manifests.__path__[0])
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if event.manifest not in known:
        raise UsageError(f"manifest: found {event.manifest!r}, expected one of {', '.join(known)}.")
    file = folder / f"{event.manifest}.yaml"
    if event.dataset_uri is not None:
        own = load_manifest(file).dataset
        if not lies_in(event.dataset_uri, (own.uri, *(own.roots or ()))):
            raise UsageError(
                f"dataset_uri: found {shown(event.dataset_uri)!r}, expected data under the manifest's own "
                f"dataset.uri or one of its dataset.roots. Add the folder to dataset.roots of {file.name}."
            )
    return load_affordable(file, event.overrides)


def create() -> Application:
    """The application with the settings of the environment; wrong settings end the process."""
    try:
        receiver = Receiver.of(os.environ)
    except UsageError as error:
        sys.exit(f"error: {error}")

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        answer = _answer(receiver, environ)
        body = answer.as_json()
        print(body.decode(), flush=True)
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def _answer(receiver: Receiver, environ: dict[str, Any]) -> Answer:
    if environ["REQUEST_METHOD"] != "POST":
        return Answer(405, "refused", f"method: found {environ['REQUEST_METHOD']}, expected POST.")
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        return Answer(413, "refused", f"body: found {length} bytes, expected at most {LARGEST_BODY}.")
    headers = {
        key.removeprefix("HTTP_").replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") or key == "CONTENT_TYPE"
    }
    return receiver.answer(headers, environ["wsgi.input"].read(int(length)))
