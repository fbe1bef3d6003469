"""Follows a submitted job until it ends: its states in the live view, then the outputs of its steps."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import Any

from rich.live import Live

from gauntlet.backends.google.calls import QuotaError, quota_refusal
from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.record import FinalStatus, outcome
from gauntlet.components.write_report.report import render
from gauntlet.pipelines.home import ARGUMENTS_FILE, REPORT_FILE, Home, RunRecord
from gauntlet.pipelines.live import State, StepTable, StepView
from gauntlet.pipelines.local.run import FinishedRun
from gauntlet.pipelines.terminal import LiteralConsole
from gauntlet.pipelines.training import STEPS

SECONDS_BETWEEN_LOOKS = 10.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")

STATES: dict[str, State] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",  # a cache hit
    "CANCEL_PENDING": "running",
    "CANCELLING": "running",
    "CANCELLED": "failed",
    "FAILED": "failed",
    "NOT_TRIGGERED": "skipped",
}


class JobView(StepTable):
    """The steps of a job on Vertex AI and their states."""

    def __init__(self, job: Any) -> None:
        components = (job.pipeline_spec or {}).get("components", {})
        # Not all pipelines have all: of a managed model nothing is converted.
        super().__init__([step for step in STEPS if f"comp-{step}" in components] or STEPS)

    def update(self, job: Any) -> list[StepView]:
        """Update the view from the job; returns the steps whose state has changed."""
        changed = []
        for task in job.job_detail.task_details:
            step = self.steps.get(task.task_name)
            if step is None:  # a branch, or the exit handler's group
                continue
            state = STATES.get(task.state.name, step.state)
            if state == step.state:
                continue
            now = time.monotonic()
            step.started = step.started or now
            step.ended = 0.0 if state == "running" else now
            step.state, step.line = state, task.error.message
            changed.append(step)
        return changed


def state_of(job: Any) -> str:
    """RUNNING, SUCCEEDED and so on."""
    return str(job.state.name).removeprefix("PIPELINE_STATE_")


def follow(jobs: PipelineJobs, name: str, console: LiteralConsole) -> Any:
    """Show the job while it runs, and return it when it has ended. Raises what `PipelineJobs.get` does."""
    job = jobs.get(name)
    view = JobView(job)
    with Live(view, console=console, refresh_per_second=4) if console.is_terminal else nullcontext():
        while True:
            for step in view.update(job):
                if not console.is_terminal:
                    console.say(f"{step.name}: {step.state}")
            if state_of(job) in ENDED:
                return job
            time.sleep(SECONDS_BETWEEN_LOOKS)
            job = jobs.get(name)


def conclude(job: Any, record: RunRecord, home: Home) -> FinishedRun:
    """Read the steps' outputs from the bucket, write the run's page here and record the outcome.

    Raises:
        QuotaError: A quota stopped the job before its outcome was known.
        OSError: The bucket cannot be read.
    """
    folder = home.run_folder(record.run_id)
    final = FinalStatus(state_of(job), job.error.message or None)
    given = json.loads((folder / ARGUMENTS_FILE).read_text(encoding="utf-8"))
    collected = collect(job.runtime_config.gcs_output_directory, record.run_id, given["task"], final)
    ended = outcome(collected)
    page = render(collected, record.name, record.run_id, given["manifest_sha256"])
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    finished = home.finish(record, "finished", ended.exit_code, ended.headline)
    refusal = _quota_refusal(job, record.run_id)
    if ended.kind == "failed" and refusal is not None:
        raise refusal
    return FinishedRun(finished, folder, collected, ended)


def has_trained(job: Any) -> bool:
    """Whether the job's training has succeeded, or was taken from the cache."""
    states = {task.task_name: task.state.name for task in job.job_detail.task_details}
    return states.get("train-model") in ("SUCCEEDED", "SKIPPED")


def _quota_refusal(job: Any, run_id: str) -> QuotaError | None:
    """The quota error of a failed job, or of a step that got no machine; None if there is none."""
    if state_of(job) != "FAILED":
        return None
    messages = [job.error.message, *(task.error.message for task in job.job_detail.task_details)]
    return next(filter(None, (quota_refusal(run_id, message) for message in messages)), None)
