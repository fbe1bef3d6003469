"""Handles an event: it creates at most one pipeline job.

| status | when | a retry |
|---|---|---|
| 200 | submitted, submitted before, or over a limit | is not needed |
| 400 | no valid event, an unknown manifest, data that a manifest does not allow | does not help |
| 500 | the receiver lacks permissions, or is configured wrongly | helps after that is fixed |
| 503 | Vertex is unavailable or busy, or a quota is used up | helps |

The receiver keeps no state. A job's ID is derived from the event's, so Vertex refuses a second job, and the
limits are computed from the jobs that Vertex lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from gauntlet import manifests
from gauntlet.backends.data_uris import lies_in, shown
from gauntlet.backends.google.jobs import ListedJob, PipelineJobs
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.checks import load_affordable
from gauntlet.pipelines.training import keep_large_sections
from gauntlet.pipelines.trigger.events import Delivery, Event, read_delivery
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


def _manifest(event: Event) -> Manifest:
    """The manifest that the event names, with the keys that it sets.

    Raises:
        UsageError: There is no such manifest, or it is not valid with these keys.
    """
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
