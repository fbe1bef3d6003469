"""A file of schedules: which manifest or template runs when, and how Vertex AI gets them.

An existing schedule is updated, never deleted and created again: a failure in between would leave none.
https://cloud.google.com/vertex-ai/docs/pipelines/schedule-pipeline-run
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AwareDatetime, ValidationError, field_validator, model_validator

from gauntlet.backends.google.jobs import CONTENT_LABEL, PipelineSchedules, with_content_label
from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.section import Name, Section, faults_of
from gauntlet.pipelines.checks import load_affordable
from gauntlet.pipelines.monitoring import compile_monitoring, monitoring_job, require_reachable_log
from gauntlet.pipelines.training import keep_large_sections
from gauntlet.pipelines.vertex.submission import (
    Destination,
    Submission,
    compiled,
    compiled_submission,
    pipeline_job,
    require_sendable,
)
from gauntlet.pipelines.vertex.templates import template_submission

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
CRON_FIELDS: tuple[tuple[str, int, int, Mapping[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(MONTHS, start=1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(DAYS)}),
)
CRON_PART = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?")
CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LIMITS = {"max_concurrent_run_count": 1, "max_concurrent_active_run_count": 1, "allow_queueing": False}
"""One run at a time; a run that is due while another one is running is skipped."""


class Schedule(Section):
    """When a manifest or a template is run. `pipeline: monitoring` runs the manifest's monitoring instead.

    With `cache: false` every step runs each time; otherwise the cache is used as it was compiled.

    Runs that were missed, while it was paused or another run was still running, are not caught up.
    """

    name: Name
    manifest: str | None = None
    template: str | None = None
    cron: str
    time_zone: str = "UTC"
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    paused: bool = False
    cache: bool = True
    pipeline: Literal["training", "monitoring"] = "training"
    set: tuple[str, ...] = ()

    @field_validator("cron")
    @classmethod
    def _cron_sound(cls, value: str) -> str:
        if fault := cron_fault(value):
            raise ValueError(fault)
        return " ".join(value.split())

    @field_validator("time_zone")
    @classmethod
    def _time_zone_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("a time zone such as Europe/Amsterdam") from None
        return value

    @model_validator(mode="after")
    def _is_possible(self) -> Schedule:
        if (self.manifest is None) == (self.template is None):
            raise ValueError("one of manifest and template is expected")
        if self.pipeline == "monitoring" and self.manifest is None:
            raise ValueError("pipeline: monitoring needs a manifest")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("end must be after start")
        return self

    @property
    def vertex_cron(self) -> str:
        """The cron expression as Vertex AI takes it, time zone included."""
        return f"TZ={self.time_zone} {self.cron}"


class Schedules(Section):
    """The file."""

    schedules: tuple[Schedule, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Schedules:
        names = [schedule.name for schedule in self.schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice")
        return self


def cron_fault(text: str) -> str | None:
    """The fault of a cron expression of five fields; None if it is valid."""
    parts = text.split()
    if len(parts) != len(CRON_FIELDS):
        return f"five fields are expected (minute, hour, day, month, day of the week), not {len(parts)}"
    for part, (name, low, high, names) in zip(parts, CRON_FIELDS, strict=True):
        for item in part.split(","):
            if not _is_cron_item(item, low, high, names):
                return f"{name} {item!r} is not *, {low}-{high}, a range or a step"
    return None


def _is_cron_item(item: str, low: int, high: int, names: Mapping[str, int]) -> bool:
    found = CRON_PART.fullmatch(item)
    if found is None or found["step"] == "0" or (found["low"] == "*" and found["high"]):
        return False
    ends = [end for end in (found["low"], found["high"]) if end not in (None, "*")]
    values = [names.get(end.upper(), int(end) if end.isdigit() else -1) for end in ends]
    return all(low <= value <= high for value in values) and values == sorted(values)


def read_schedules(path: Path) -> tuple[Schedule, ...]:
    """The schedules of a file, manifests relative to its folder, or a `ManifestError` with all faults."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = Schedules.model_validate(content).schedules
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"{path}: no schedules can be read from it ({cause}).") from None
    except ValidationError as error:
        raise ManifestError(faults_of(str(path), error, "See docs/how-to/schedule_runs.md.")) from None
    folder = path.resolve().parent
    return tuple(
        one.model_copy(update={"manifest": str(folder / one.manifest)}) if one.manifest else one
        for one in found
    )


@dataclass(frozen=True)
class Change:
    """A key of a schedule that differs: its value on Vertex AI, and in the file."""

    key: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Plan:
    """What has to be done so that a schedule is as in the file.

    Attributes:
        name: The resource's name; None if there is no such schedule yet.
        message: The schedule as plain types.
        keep_sections: Writes the files that its runs' parameters name.
        changes: All keys that differ.
    """

    schedule: Schedule
    name: str | None
    message: dict[str, Any]
    keep_sections: Callable[[], None]
    changes: tuple[Change, ...]


def plan(schedule: Schedule, destination: Destination, schedules: PipelineSchedules) -> Plan:
    """Compare a schedule of the file with the one on Vertex AI.

    Raises:
        UsageError: Its manifest cannot run there, or the existing schedule cannot be changed that way.
        ManifestError: Its manifest has faults.
        GauntletError: The service cannot be reached.
    """
    submission = _submission(schedule, destination)
    message = _message(schedule, destination, submission)
    keep_sections = partial(keep_large_sections, submission.manifest, destination.sections)
    found = schedules.named(schedule.name)
    if found is None:
        created = (Change("schedule", "none", schedule.vertex_cron),)
        return Plan(schedule, None, message, keep_sections, created)
    if found.state.name == "COMPLETED":
        raise UsageError(
            f"schedule {schedule.name}: {found.name} has ended and cannot be restarted. Delete it, or "
            "give this one another name."
        )
    return Plan(schedule, found.name, message, keep_sections, tuple(_changes(schedule, message, found)))


def apply(wanted: Plan, schedules: PipelineSchedules) -> None:
    """Create or update the schedule, and pause or resume it. The operation is idempotent."""
    wanted.keep_sections()
    if wanted.name is None:
        made = schedules.create(wanted.message)
        if wanted.schedule.paused:
            schedules.pause(made.name)
        return
    keys = {change.key for change in wanted.changes}
    fields = [field for field in wanted.message if field in keys]
    if "pipeline" in keys:
        fields.append("create_pipeline_job_request")
    if fields:
        schedules.update(wanted.name, wanted.message, fields)
    if "paused" in keys:
        (schedules.pause if wanted.schedule.paused else schedules.resume)(wanted.name)


def _message(schedule: Schedule, destination: Destination, submission: Submission) -> dict[str, Any]:
    message: dict[str, Any] = {
        "display_name": schedule.name,
        "cron": schedule.vertex_cron,
        **LIMITS,
        "create_pipeline_job_request": {
            "parent": destination.location.parent,
            "pipeline_job": with_content_label(_job(schedule, submission, destination)),
        },
    }
    for key, time in (("start_time", schedule.start), ("end_time", schedule.end)):
        if time is not None:
            message[key] = time.astimezone(UTC)
    return message


def cloud_scheduler_job(schedule: Schedule, destination: Destination) -> dict[str, Any]:
    """A Cloud Scheduler job that creates the pipeline job, as JSON types.

    It never retries: the service would start a second run for a second request. It names a template, because
    a compiled pipeline is too large for a request.

    Raises:
        UsageError: The schedule has no template, or there is no service account.
        ManifestError: The template's settings have faults.
        GauntletError: The template cannot be read.
    """
    if schedule.template is None:
        raise UsageError(
            f"schedule {schedule.name}: found no template, expected one: Cloud Scheduler sends a "
            "request and not a pipeline. Upload the compiled manifest by `gauntlet upload`."
        )
    if not schedule.cache:
        raise UsageError(
            f"schedule {schedule.name}: cache: found false, expected true: Cloud Scheduler sends the "
            "template's address, and whether steps are cached is compiled into the template. Use `gauntlet "
            "schedule apply` instead."
        )
    if destination.service_account is None:
        raise UsageError("--service-account: found none, expected the one that Cloud Scheduler uses.")
    submission = _submission(schedule, destination)
    location, job = destination.location, _job(schedule, submission, destination)
    keep_large_sections(submission.manifest, destination.sections)
    body = {
        "displayName": job["display_name"],
        "templateUri": job["template_uri"],
        "labels": job["labels"],
        "serviceAccount": destination.service_account,
        "runtimeConfig": {
            "gcsOutputDirectory": destination.root,
            "parameterValues": job["runtime_config"]["parameter_values"],
        },
    }
    return {
        "name": f"{location.parent}/jobs/{schedule.name}",
        "schedule": schedule.cron,
        "timeZone": schedule.time_zone,
        "attemptDeadline": "180s",
        "retryConfig": {"retryCount": 0},
        "httpTarget": {
            "uri": f"https://{location.host}/v1/{location.parent}/pipelineJobs",
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "oauthToken": {"serviceAccountEmail": destination.service_account, "scope": CLOUD_SCOPE},
        },
    }


def _job(schedule: Schedule, submission: Submission, destination: Destination) -> dict[str, Any]:
    require_sendable(submission)
    if schedule.pipeline == "monitoring":
        root, account = destination.root, destination.service_account
        return monitoring_job(submission.manifest, submission.spec, root, destination.registry_uri, account)
    return pipeline_job(submission.manifest, submission.spec, destination, submission.template_uri)


def _submission(schedule: Schedule, destination: Destination) -> Submission:
    if schedule.template is not None:
        submission = template_submission(schedule.template, schedule.set)
    else:
        manifest = load_affordable(Path(str(schedule.manifest)), schedule.set)
        if schedule.pipeline == "monitoring":
            require_reachable_log(manifest)
            return Submission(manifest, compiled(partial(compile_monitoring, manifest)))
        submission = compiled_submission(manifest, destination)
    return submission if schedule.cache else submission.without_cache()


def _changes(schedule: Schedule, message: dict[str, Any], found: Any) -> list[Change]:
    changes = []
    for key, wanted in message.items():
        if key != "create_pipeline_job_request" and getattr(found, key) != wanted:
            changes.append(Change(key, _shown(getattr(found, key)), _shown(wanted)))
    if found.end_time and "end_time" not in message:
        raise UsageError(
            f"schedule {schedule.name}: end: found none, but {found.name} ends at "
            f"{_shown(found.end_time)}, and Vertex AI cannot remove an end. Give another end."
        )
    job = message["create_pipeline_job_request"]["pipeline_job"]
    there = found.create_pipeline_job_request.pipeline_job
    for key, label in (("manifest", "manifest"), ("pipeline", CONTENT_LABEL)):
        if there.labels.get(label) != job["labels"][label]:
            changes.append(Change(key, there.labels.get(label, "none")[:12], job["labels"][label][:12]))
    if (found.state.name == "PAUSED") != schedule.paused:
        changes.append(Change("paused", *(("no", "yes") if schedule.paused else ("yes", "no"))))
    return changes


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="minutes")
    return "none" if value is None else str(value)
