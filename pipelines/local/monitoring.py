"""Monitoring on this machine: the DAG by kfp.local; a request for a training is taken as by the receiver."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gauntlet.backends.factory import open_registry
from gauntlet.backends.google.jobs import ListedJob
from gauntlet.backends.rollouts import open_monitoring, open_records
from gauntlet.components.collect_window.log import last_window
from gauntlet.components.detect_drift.judged import DRIFT_FILE, PAGE_FILE, TO_LABEL_FILE
from gauntlet.components.request_training.run import record_answer
from gauntlet.components.step import ERROR_FILE
from gauntlet.contracts.document import read_json, write_json
from gauntlet.contracts.drift import DriftRecord
from gauntlet.contracts.monitoring import MonitoringRecord
from gauntlet.contracts.training_request import CLOUD_EVENT
from gauntlet.manifests.errors import GauntletError, RejectedError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.checks import load_affordable, require_data
from gauntlet.pipelines.deployments import rollback
from gauntlet.pipelines.home import (
    ARGUMENTS_FILE,
    LOGS_FOLDER,
    MANIFEST_FILE,
    PIPELINE_FILE,
    STEPS_FOLDER,
    Home,
)
from gauntlet.pipelines.live import RunView
from gauntlet.pipelines.local.processes import acquire, temporary_folder
from gauntlet.pipelines.local.run import execute, job_folder, run_locally, tracking_uri
from gauntlet.pipelines.monitoring import STEPS, compile_monitoring, monitoring_parameters
from gauntlet.pipelines.terminal import LiteralConsole, styled
from gauntlet.pipelines.trigger.receiver import BUDGET_PERIOD, Limits, read_delivery

FOLDER, REQUESTS_FOLDER, LOCK_FILE = "monitoring", "requests", "lock"


@dataclass(frozen=True)
class Monitored:
    """What a window showed.

    Attributes:
        page: What a person reads.
        to_label: The rows to label, if labels are needed.
        event: The request for a training; None if none is made.
    """

    drift: DriftRecord
    record: MonitoringRecord
    page: Path
    to_label: Path | None
    event: dict[str, Any] | None


def monitor_locally(
    manifest: Manifest, home: Home, scheduled: datetime, console: LiteralConsole
) -> Monitored:
    """Judge the last whole window before a time. The same window again takes late rows and labels in.

    Raises:
        GauntletError: A step failed, or another process monitors the model at the moment.
    """
    place = home.folder / FOLDER / manifest.name
    end = last_window(scheduled, manifest.monitoring.window_hours)[1]
    folder = place / f"{end:%Y-%m-%dT%H}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(place / LOCK_FILE)
    if lock is None:
        raise GauntletError(f"{manifest.name}: another process monitors it. Wait until it ends.")
    try:
        for old in (folder / STEPS_FOLDER, folder / LOGS_FOLDER):
            shutil.rmtree(old, ignore_errors=True)
        compile_monitoring(manifest, folder / PIPELINE_FILE, "local")
        arguments = monitoring_parameters(manifest) | {
            "registry_uri": home.registry_uri,
            "scheduled": scheduled.isoformat(),
        }
        write_json(folder / ARGUMENTS_FILE, arguments)
        with temporary_folder() as temporary:
            view = RunView(STEPS, folder / LOGS_FOLDER)
            environment = {**temporary.environment(), "GAUNTLET_HOME": str(home.folder)}
            execute(folder, view, console, environment, (lock, temporary.lock))
    finally:
        os.close(lock)
    return _read(manifest, home, job_folder(folder))


def _read(manifest: Manifest, home: Home, job: Path) -> Monitored:
    for step in STEPS:
        if (job / step / ERROR_FILE).is_file():
            raise GauntletError(f"{step}: {read_json(job / step / ERROR_FILE)['message']}")
    request = job / STEPS[2] / "request"
    if not request.is_file():
        raise GauntletError(f"{job}: the steps have left no result. See {job.parent.parent / LOGS_FOLDER}.")
    found = job / STEPS[1] / "drift"
    record = open_monitoring(manifest.name, home.registry_uri).read()[0]
    to_label = found / TO_LABEL_FILE
    return Monitored(
        drift=DriftRecord.read(found / DRIFT_FILE),
        record=record or MonitoringRecord(model=manifest.name),
        page=found / PAGE_FILE,
        to_label=to_label if to_label.is_file() else None,
        event=read_json(request) or None,
    )


def take_request(
    event: dict[str, Any], path: Path, overrides: Sequence[str], home: Home, console: LiteralConsole
) -> str:
    """Run the training that an event asks for, within the receiver's limits; returns the outcome.

    It is `submitted` and then promoted, `rejected` by a gate, `duplicate` or `skipped`. The record of the
    monitoring has it afterwards.
    """
    delivery = read_delivery({"content-type": CLOUD_EVENT}, json.dumps(event).encode())
    name, taken = delivery.event.manifest, home.folder / FOLDER / delivery.event.manifest / REQUESTS_FOLDER
    records = open_monitoring(name, home.registry_uri)
    mark = taken / f"{delivery.job_id}.json"
    if mark.is_file():
        record_answer(records, name, event["id"], "duplicate", "this event made a run before")
        return "duplicate"
    manifest = load_affordable(path, [*overrides, *delivery.event.overrides])
    require_data(manifest, path)
    now = datetime.now(UTC)
    jobs = local_jobs(home, manifest.name, now)
    most = manifest.training.resources.max_cost_usd
    against = Limits.of(os.environ).reason_against(jobs, most, by_hand=False, now=now)
    if against is not None:
        record_answer(records, name, event["id"], "skipped", against)
        console.say(f"no training is started now: {against}. The request is made again with the next window.")
        return "skipped"
    write_json(mark, event)
    record_answer(records, name, event["id"], "submitted", "a run on this machine")
    uris = home.registry_uri, tracking_uri(manifest, home)
    finished = run_locally(manifest, home, *uris, console, source=path)
    if finished.outcome.exit_code == 0:
        return "submitted"
    outcome = "rejected"
    if finished.outcome.exit_code != RejectedError.exit_code:
        console.say(f"the run failed: {finished.outcome.headline}")
    record_answer(records, name, event["id"], outcome, finished.outcome.headline)
    return outcome


def local_jobs(home: Home, name: str, now: datetime) -> list[ListedJob]:
    """The runs of a system on this machine, as the receiver's limits count those that Vertex lists."""
    found = []
    for record in home.runs():
        started = datetime.fromisoformat(record.started)
        kept = home.run_folder(record.run_id) / MANIFEST_FILE
        if record.name == name and now - started < BUDGET_PERIOD and kept.is_file():
            most = load_manifest(kept).training.resources.max_cost_usd
            found.append(ListedJob(record.run_id, started, most))
    return found


def roll_back(manifest: Manifest, drift: DriftRecord, home: Home, console: LiteralConsole) -> bool:
    """Make the version before champion again if the manifest allows it, else print the command."""
    assert drift.previous is not None
    name, version = manifest.name, drift.previous.version
    if manifest.monitoring.roll_back != "automatic":
        command = shlex.join(["gauntlet", "rollback", name, "--to", version])
        console.say(styled("roll back with [bold]{}[/]", command))
        return False
    is_deployed = open_records(name, home.registry_uri).read()[0] is not None
    by, reason = ("gauntlet monitor", drift.reason) if is_deployed else (None, None)
    registry = open_registry(home.registry_uri)
    rollback(registry, home.registry_uri, name, version, by, reason, console.say)
    return True
