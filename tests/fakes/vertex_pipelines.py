"""Vertex AI's pipeline jobs and their schedules, checked as the service's documentation says."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType, PipelineSpec

from tests.fakes.google_api import ApiError, invalid
from tests.fakes.resources import Resources

PARENT = re.compile(r"projects/[^/]+/locations/[a-z0-9-]+")
JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
ROOT = re.compile(r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/.*)?")
LISTING = re.compile(r'labels\.(\w+)="([^"]+)" AND create_time>="([^"]+)"')
JOBS_A_PAGE = 2
ACCOUNT = re.compile(r"[\w.-]+@[\w.-]+\.gserviceaccount\.com")
State = vertex.PipelineState
TaskState = vertex.PipelineTaskDetail.State

NUMBERS = (int, float)
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "STRING": lambda value: isinstance(value, str),
    "STRUCT": lambda value: isinstance(value, dict),
    "LIST": lambda value: isinstance(value, list),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "NUMBER_DOUBLE": lambda value: isinstance(value, NUMBERS) and not isinstance(value, bool),
    "NUMBER_INTEGER": lambda value: isinstance(value, NUMBERS) and float(value).is_integer(),
}


class PipelineService:
    """Pipeline jobs. Each look at one takes it a step on: pending, running, ended.

    Attributes:
        ending: What jobs end as.
        error: With which message they fail.
        tasks: The tasks of every job, by name, with the state that they end in.
        task_errors: With which messages tasks fail, by name.
        on_create: Called with every job that is made.
        is_done: Whether what runs may end.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.ending = State.PIPELINE_STATE_SUCCEEDED
        self.error = ""
        self.tasks: dict[str, TaskState] = {}
        self.task_errors: dict[str, str] = {}
        self.on_create: Callable[[vertex.PipelineJob], None] = lambda _: None
        self.is_done: Callable[[], bool] = lambda: True

    def CreatePipelineJob(self, request: vertex.CreatePipelineJobRequest) -> vertex.PipelineJob:
        check_job(request.parent, request.pipeline_job)
        if not JOB_ID.fullmatch(request.pipeline_job_id):
            raise invalid(f"pipeline_job_id {request.pipeline_job_id!r} is no id")
        job = vertex.PipelineJob(request.pipeline_job)
        job.state = State.PIPELINE_STATE_PENDING
        job.create_time = datetime.now(UTC)
        self._resources.add(request.parent, "pipelineJobs", request.pipeline_job_id, job)
        job.job_detail.pipeline_run_context = self._context(request.parent, request.pipeline_job_id)
        self.on_create(job)
        return job

    def GetPipelineJob(self, request: vertex.GetPipelineJobRequest) -> vertex.PipelineJob:
        job = self._resources.get(request.name)
        after = {
            State.PIPELINE_STATE_PENDING: State.PIPELINE_STATE_RUNNING,
            State.PIPELINE_STATE_RUNNING: self.ending,
            State.PIPELINE_STATE_CANCELLING: State.PIPELINE_STATE_CANCELLED,
        }
        if job.state != State.PIPELINE_STATE_RUNNING or self.is_done():
            job.state = after.get(job.state, job.state)
        ended = job.state == self.ending
        if ended and self.error:
            job.error = {"code": 9, "message": self.error}
        job.job_detail.task_details = [
            {
                "task_name": name,
                "state": state if ended else TaskState.RUNNING,
                "error": {"code": 8, "message": self.task_errors[name]}
                if ended and name in self.task_errors
                else None,
                "executor_detail": {
                    "custom_job_detail": {"job": f"{PARENT.match(request.name)[0]}/customJobs/{at}"}
                },
            }
            for at, (name, state) in enumerate(self.tasks.items(), start=1)
        ]
        return job

    def _context(self, location: str, job_id: str) -> vertex.Context:
        """What Vertex ML Metadata has of a job, in a store that is made for the first one."""
        store = f"{location}/metadataStores/default"
        if not self._resources.holds(store):
            self._resources.add(location, "metadataStores", "default", vertex.MetadataStore())
        context = vertex.Context(display_name=job_id, schema_title="system.PipelineRun")
        return self._resources.add(store, "contexts", job_id, context)

    def ListPipelineJobs(self, request: vertex.ListPipelineJobsRequest) -> vertex.ListPipelineJobsResponse:
        asked = LISTING.fullmatch(request.filter)
        if asked is None:
            raise invalid(f"filter: {request.filter!r} is not in this fake")
        key, value, since = asked.groups()
        found = [
            job
            for job in self._resources.of_location(request.parent, "pipelineJobs")
            if job.labels.get(key) == value and job.create_time >= datetime.fromisoformat(since)
        ]
        start = int(request.page_token or 0)
        listed = vertex.ListPipelineJobsResponse(pipeline_jobs=found[start : start + JOBS_A_PAGE])
        if start + JOBS_A_PAGE < len(found):
            listed.next_page_token = str(start + JOBS_A_PAGE)
        return listed

    def CancelPipelineJob(self, request: vertex.CancelPipelineJobRequest) -> Empty:
        job = self._resources.get(request.name)
        if job.state in (State.PIPELINE_STATE_PENDING, State.PIPELINE_STATE_RUNNING):
            job.state = State.PIPELINE_STATE_CANCELLING
        return Empty()


class ScheduleService:
    """Schedules of pipeline jobs."""

    def __init__(self, resources: Resources, pipelines: PipelineService) -> None:
        self._resources = resources
        self._pipelines = pipelines
        self._made = 0
        self.catch_ups: list[bool] = []

    def CreateSchedule(self, request: vertex.CreateScheduleRequest) -> vertex.Schedule:
        schedule = vertex.Schedule(request.schedule)
        check_schedule(request.parent, schedule)
        schedule.state = vertex.Schedule.State.ACTIVE
        self._made += 1
        return self._resources.add(request.parent, "schedules", str(self._made), schedule)

    def fire(self, schedule: vertex.Schedule, job_id: str) -> vertex.PipelineJob:
        """What happens when a schedule is due."""
        request = vertex.CreatePipelineJobRequest(schedule.create_pipeline_job_request)
        request.pipeline_job_id = job_id
        return self._pipelines.CreatePipelineJob(request)

    def ListSchedules(self, request: vertex.ListSchedulesRequest) -> vertex.ListSchedulesResponse:
        found = self._resources.of_location(request.parent, "schedules")
        return vertex.ListSchedulesResponse(schedules=found)

    def UpdateSchedule(self, request: vertex.UpdateScheduleRequest) -> vertex.Schedule:
        kept = self._resources.get(request.schedule.name)
        paths = list(request.update_mask.paths)
        for path in paths:
            if not hasattr(request.schedule, path):
                raise invalid(f"update_mask: {path!r} is no field of a schedule")
            if getattr(kept, path) and not getattr(request.schedule, path) and path != "allow_queueing":
                raise invalid(f"{path} cannot be unset")
        changed = vertex.Schedule(kept)
        for path in paths:
            setattr(changed, path, getattr(request.schedule, path))
        check_schedule(kept.name.rpartition("/schedules/")[0], changed)
        for path in paths:
            setattr(kept, path, getattr(changed, path))
        return kept

    def GetSchedule(self, request: vertex.GetScheduleRequest) -> vertex.Schedule:
        return self._resources.get(request.name)

    def PauseSchedule(self, request: vertex.PauseScheduleRequest) -> Empty:
        self._move(request.name, vertex.Schedule.State.ACTIVE, vertex.Schedule.State.PAUSED)
        return Empty()

    def ResumeSchedule(self, request: vertex.ResumeScheduleRequest) -> Empty:
        self._move(request.name, vertex.Schedule.State.PAUSED, vertex.Schedule.State.ACTIVE)
        self.catch_ups.append(request.catch_up)
        return Empty()

    def _move(self, name: str, before: vertex.Schedule.State, after: vertex.Schedule.State) -> None:
        schedule = self._resources.get(name)
        if schedule.state != before:
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"{name} is {schedule.state.name}")
        schedule.state = after


def check_job(parent: str, job: vertex.PipelineJob) -> None:
    """Refuse a job that the documentation does not allow."""
    if not PARENT.fullmatch(parent):
        raise invalid(f"parent {parent!r} is no location")
    root = job.runtime_config.gcs_output_directory
    if not ROOT.fullmatch(root):
        raise invalid(f"gcs_output_directory {root!r} is no gs:// folder")
    if job.service_account and not ACCOUNT.fullmatch(job.service_account):
        raise invalid(f"service_account {job.service_account!r} is none")
    for key, value in job.labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", value):
            raise invalid(f"label {key}: {value!r} is none")
    content = json_format.MessageToDict(vertex.PipelineJob.pb(job))
    try:
        spec = json_format.ParseDict(content.get("pipelineSpec", {}), PipelineSpec())
    except json_format.ParseError as error:
        raise invalid(f"pipeline_spec: {error}") from None
    if not spec.pipeline_info.name:
        raise invalid("pipeline_spec is required")
    check_parameters(spec, content["runtimeConfig"].get("parameterValues", {}))


def check_parameters(spec: PipelineSpec, given: Mapping[str, Any]) -> None:
    inputs = spec.root.input_definitions.parameters
    for name, value in given.items():
        if name not in inputs:
            raise invalid(f"parameter {name!r} is no input of the pipeline")
        kind = ParameterType.ParameterTypeEnum.Name(inputs[name].parameter_type)
        if not TYPES[kind](value):
            raise invalid(f"parameter {name!r}: {value!r} is no {kind}")
    for name, one in inputs.items():
        if name not in given and not one.is_optional:
            raise invalid(f"parameter {name!r} is required")


def check_schedule(parent: str, schedule: vertex.Schedule) -> None:
    if schedule.max_concurrent_run_count < 1:
        raise invalid("max_concurrent_run_count must be positive")
    if schedule.start_time and schedule.end_time and schedule.end_time <= schedule.start_time:
        raise invalid("end_time must be after start_time")
    check_cron(schedule.cron)
    request = schedule.create_pipeline_job_request
    if request.parent != parent:
        raise invalid("create_pipeline_job_request.parent must be the schedule's own")
    check_job(parent, request.pipeline_job)


def check_cron(cron: str) -> None:
    zone, fields = re.fullmatch(r"(?:(?:CRON_)?TZ=(\S+) )?(.*)", cron).groups()
    if zone and zone not in zoneinfo.available_timezones():
        raise invalid(f"time zone {zone!r} is unknown")
    bounds: Sequence[tuple[int, int]] = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    parts = fields.split(" ")
    if len(parts) != len(bounds):
        raise invalid(f"cron {cron!r}: five fields are expected")
    for part, (low, high) in zip(parts, bounds, strict=True):
        for number in re.findall(r"\d+", part.partition("/")[0]):
            if not low <= int(number) <= high:
                raise invalid(f"cron {cron!r}: {number} is not within {low} to {high}")
