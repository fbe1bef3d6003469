"""Makes the schedules on Vertex AI what a file of schedules says.

A schedule that is there is updated, never deleted and made anew: a failure in between would leave none.
https://cloud.google.com/vertex-ai/docs/pipelines/schedule-pipeline-run
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from gauntlet.backends.google.jobs import CONTENT_LABEL, PipelineSchedules, with_content_label
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.run_command import load_affordable
from gauntlet.pipelines.training import keep_large_sections
from gauntlet.pipelines.vertex.schedules import Schedule
from gauntlet.pipelines.vertex.submission import Destination, pipeline_job
from gauntlet.pipelines.vertex.submit import Submission, compiled_submission, require_sendable
from gauntlet.pipelines.vertex.templates import template_submission

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LIMITS = {"max_concurrent_run_count": 1, "max_concurrent_active_run_count": 1, "allow_queueing": False}
"""One run at a time; one that is due meanwhile is left out."""


@dataclass(frozen=True)
class Change:
    """A key of a schedule that differs: what there is and what the file says."""

    key: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Plan:
    """What makes one schedule what the file says.

    Attributes:
        name: The resource's name; none: there is no such schedule yet.
        message: The schedule as plain types.
        keep_sections: Writes the files that its runs' parameters name.
        changes: All that differs.
    """

    schedule: Schedule
    name: str | None
    message: dict[str, Any]
    keep_sections: Callable[[], None]
    changes: tuple[Change, ...]


def plan(schedule: Schedule, destination: Destination, schedules: PipelineSchedules) -> Plan:
    """Compare a schedule of the file with what is there.

    Raises:
        UsageError: Its manifest cannot be run there, or what is wanted cannot be made of what is there.
        ManifestError: Its manifest has faults.
        GauntletError: The service cannot be reached.
    """
    submission = _submission(schedule, destination)
    message = _message(schedule, destination, submission)
    keep_sections = partial(keep_large_sections, submission.manifest, destination.sections)
    found = schedules.named(schedule.name)
    if found is None:
        made = (Change("schedule", "none", schedule.vertex_cron),)
        return Plan(schedule, None, message, keep_sections, made)
    if found.state.name == "COMPLETED":
        raise UsageError(
            f"schedule {schedule.name}: {found.name} has ended, and cannot be begun again. Delete it, or "
            "name this one otherwise."
        )
    return Plan(schedule, found.name, message, keep_sections, tuple(_changes(schedule, message, found)))


def apply(wanted: Plan, schedules: PipelineSchedules) -> None:
    """Make or update the schedule, and pause or resume it. Done twice it is the same."""
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
    """A `Schedule` as plain types."""
    message: dict[str, Any] = {
        "display_name": schedule.name,
        "cron": schedule.vertex_cron,
        **LIMITS,
        "create_pipeline_job_request": {
            "parent": destination.place.parent,
            "pipeline_job": with_content_label(_job(submission, destination)),
        },
    }
    for key, time in (("start_time", schedule.start), ("end_time", schedule.end)):
        if time is not None:
            message[key] = time.astimezone(UTC)
    return message


def cloud_scheduler_job(schedule: Schedule, destination: Destination) -> dict[str, Any]:
    """A Cloud Scheduler job that makes the pipeline job itself, as JSON types.

    It asks once: the service would take a second request for a second run.

    Raises:
        UsageError: The schedule has no template, which alone fits a request, or there is no service account.
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
        raise UsageError("--service-account: found none, expected the one that Cloud Scheduler asks as.")
    submission = _submission(schedule, destination)
    place, job = destination.place, _job(submission, destination)
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
        "name": f"{place.parent}/jobs/{schedule.name}",
        "schedule": schedule.cron,
        "timeZone": schedule.time_zone,
        "attemptDeadline": "180s",
        "retryConfig": {"retryCount": 0},
        "httpTarget": {
            "uri": f"https://{place.host}/v1/{place.parent}/pipelineJobs",
            "httpMethod": "POST",
            "headers": {"Content-Type": "application/json"},
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "oauthToken": {"serviceAccountEmail": destination.service_account, "scope": CLOUD_SCOPE},
        },
    }


def _job(submission: Submission, destination: Destination) -> dict[str, Any]:
    require_sendable(submission)
    return pipeline_job(submission.manifest, submission.spec, destination, submission.template_uri)


def _submission(schedule: Schedule, destination: Destination) -> Submission:
    if schedule.template is not None:
        submission = template_submission(schedule.template, schedule.set)
    else:
        manifest = load_affordable(Path(str(schedule.manifest)), schedule.set)
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
            f"{_shown(found.end_time)}, and Vertex AI cannot take that back. Give another end."
        )
    job = message["create_pipeline_job_request"]["pipeline_job"]
    there = found.create_pipeline_job_request.pipeline_job
    labels = (("manifest", "manifest"), ("pipeline", CONTENT_LABEL))
    for key, label in labels:
        if there.labels.get(label) != job["labels"][label]:
            changes.append(Change(key, there.labels.get(label, "none")[:12], job["labels"][label][:12]))
    if (found.state.name == "PAUSED") != schedule.paused:
        changes.append(Change("paused", *(("no", "yes") if schedule.paused else ("yes", "no"))))
    return changes


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="minutes")
    return "none" if value is None else str(value)
