"""Pipeline jobs on Vertex AI, their schedules, and what their steps printed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gauntlet.backends.google.calls import ask, ask_once, explained, find_or_make, vertex_client
from gauntlet.backends.google.location import VertexLocation, valid_label
from gauntlet.manifests.errors import GauntletError, UsageError

CONTENT_LABEL = "gauntlet-content"
"""A label with a hash of the request. It identifies a job when the answer to the request got lost."""
SYSTEM_LABEL = "system"
"""A label with the name of the manifest that a job runs."""

LOGGING_HOST = "logging.googleapis.com"


@dataclass(frozen=True)
class ListedJob:
    """One of the jobs that Vertex AI lists. `max_cost_usd` is the limit that its manifest gives training."""

    name: str
    created: datetime
    max_cost_usd: float


class PipelineJobs:
    """The pipeline jobs of a project in a region.

    Raises:
        UsageError: Nobody is logged in, the account lacks a permission, or there is no such job.
        QuotaError: A quota is used up.
        GauntletError: The service cannot be reached, or refuses.
    """

    def __init__(self, location: VertexLocation) -> None:
        self._location = location
        with explained(location.host):
            self._service = vertex_client("PipelineServiceClient", location)

    def create(self, job: Mapping[str, Any], job_id: str) -> Any:
        """Create a job, or return the one that was created by the same request. Idempotent."""
        from google.api_core.exceptions import AlreadyExists, ResourceExhausted

        labelled, parent = with_content_label(job), self._location.parent
        name = f"{parent}/pipelineJobs/{job_id}"
        creating = self._service.create_pipeline_job
        with explained(self._location.host):
            try:
                return ask(creating, parent=parent, pipeline_job=labelled, pipeline_job_id=job_id)
            except AlreadyExists:
                found = self.get(name)
            except ResourceExhausted:
                found = self._created_before(name)  # an earlier attempt may have lost its answer
                if found is None:
                    raise
        if found.labels.get(CONTENT_LABEL) != labelled["labels"][CONTENT_LABEL]:
            raise UsageError(f"{found.name}: there is another job of that name already.")
        return found

    def _created_before(self, name: str) -> Any | None:
        """The job, or None. If that is unknown, the quota's refusal must not be reported as the outcome."""
        try:
            return self.find(name)
        except GauntletError as error:
            raise GauntletError(
                f"{name}: it is unknown whether the job was created ({error}). "
                f"Run `gauntlet status {name.rpartition('/')[2]}` in a minute, before you submit it again."
            ) from None

    def get(self, name: str) -> Any:
        """The job as it is now."""
        found = self.find(name)
        if found is None:
            raise UsageError(f"{name}: there is no such pipeline job.")
        return found

    def find(self, name: str) -> Any | None:
        """The job as it is now, or None."""
        from google.api_core.exceptions import NotFound

        with explained(self._location.host):
            try:
                return ask(self._service.get_pipeline_job, name=name)
            except NotFound:
                return None

    def of_system(self, name: str, since: datetime) -> list[ListedJob]:
        """The jobs of one system that were created since then, by whatever submitted them."""
        created = f'create_time>="{since:%Y-%m-%dT%H:%M:%SZ}"'
        with explained(self._location.host):
            found = ask(
                self._service.list_pipeline_jobs,
                parent=self._location.parent,
                filter=f'labels.{SYSTEM_LABEL}="{valid_label(name)}" AND {created}',
                read_mask={"paths": ["name", "create_time", "runtime_config"]},
            )
            return [_listed(job) for job in found]

    def cancel(self, name: str) -> None:
        """Request cancellation. The job may still run when this returns."""
        with explained(self._location.host):
            ask(self._service.cancel_pipeline_job, name=name)


class PipelineSchedules:
    """The schedules of pipeline jobs of a project in a region.

    The service gives a schedule its id, so a schedule is found by its display name. Raises as `PipelineJobs`.
    """

    def __init__(self, location: VertexLocation) -> None:
        self._location = location
        with explained(location.host):
            self._service = vertex_client("ScheduleServiceClient", location)

    def all(self) -> list[Any]:
        """Every schedule there."""
        with explained(self._location.host):
            return list(ask(self._service.list_schedules, parent=self._location.parent))

    def named(self, name: str) -> Any | None:
        """The schedule of that display name, if there is one; a `UsageError` if there are several."""
        found = [schedule for schedule in self.all() if schedule.display_name == name]
        if len(found) > 1:
            several = ", ".join(schedule.name for schedule in found)
            raise UsageError(
                f"schedule {name}: there are several of that name: {several}. Delete all but one."
            )
        return found[0] if found else None

    def create(self, schedule: Mapping[str, Any]) -> Any:
        """Create a schedule, or return the one of that display name."""
        with explained(self._location.host):
            creating, parent = self._service.create_schedule, self._location.parent
            return find_or_make(
                lambda: self.named(str(schedule["display_name"])),
                lambda: ask_once(creating, parent=parent, schedule=schedule),
            )

    def update(self, name: str, schedule: Mapping[str, Any], fields: Sequence[str]) -> Any:
        """Change the given fields of a schedule."""
        with explained(self._location.host):
            changed = {**schedule, "name": name}
            return ask(self._service.update_schedule, schedule=changed, update_mask={"paths": list(fields)})

    def pause(self, name: str) -> None:
        """Start no runs until the schedule is resumed."""
        self._move("PAUSED", self._service.pause_schedule, name=name)

    def resume(self, name: str) -> None:
        """Start runs again, without those that were missed."""
        self._move("ACTIVE", self._service.resume_schedule, name=name, catch_up=False)

    def _move(self, state: str, method: Callable[..., Any], name: str, **request: object) -> None:
        """Change a schedule's state. The service refuses a schedule that has it already, as after a retry."""
        from google.api_core.exceptions import FailedPrecondition

        with explained(self._location.host):
            try:
                ask(method, name=name, **request)
            except FailedPrecondition:
                if ask(self._service.get_schedule, name=name).state.name != state:
                    raise


def with_content_label(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with `CONTENT_LABEL`, a hash of all of it."""
    sha256 = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return {**job, "labels": {**job["labels"], CONTENT_LABEL: sha256[:32]}}


def job_log(project: str, job_id: str) -> Iterator[str]:
    """The lines that a custom job printed, oldest first. Every step on Vertex AI runs as a custom job."""
    with explained(LOGGING_HOST):
        from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client

        service: Any = LoggingServiceV2Client()
        entries = ask(
            service.list_log_entries,
            resource_names=[f"projects/{project}"],
            filter=f'resource.type="ml_job" AND resource.labels.job_id="{job_id}"',
            order_by="timestamp asc",
        )
        for entry in entries:
            text = entry.text_payload or str(dict(entry.json_payload or {}).get("message", ""))
            yield text.rstrip("\n")


def _listed(job: Any) -> ListedJob:
    try:
        most = float(job.runtime_config.parameter_values["training"]["resources"]["max_cost_usd"])
    except (KeyError, TypeError):
        raise UsageError(
            f"{job.name}: found no training.resources.max_cost_usd among its parameters, so its cost limit "
            f"is unknown. Submit jobs with the label {SYSTEM_LABEL} by `gauntlet submit`."
        ) from None
    return ListedJob(job.name, job.create_time, most)
