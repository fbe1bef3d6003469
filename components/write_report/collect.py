"""Finds what each step of a run left, on this machine or in a bucket. Nothing fails for what a run did not
leave.

    local      <pipeline_root>/<job>/<step>/<output>
    Vertex     <pipeline_root>/<project number>/<job>/<step>_<task id>/<output>
    Kubeflow   where KFP has put each of the artifacts that the step is given
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from gauntlet.backends.storage import file_system
from gauntlet.components.step import ERROR_FILE, REUSED_FILE
from gauntlet.components.write_report.record import (
    OPTIONAL_STEPS,
    STEPS,
    Bundle,
    CollectedRun,
    FinalStatus,
    State,
    StepRecord,
    step_records,
)
from gauntlet.contracts.conversion import Candidates
from gauntlet.contracts.data import STATISTICS_FILE, Checks, Sources, Statistics
from gauntlet.contracts.document import Document, parse_json
from gauntlet.contracts.rollout import Rollout
from gauntlet.contracts.training import History, TrainingRecord
from gauntlet.contracts.verdict import Verdict, Version
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.kinds import Role, TaskKind, task_kind

DONE_FILE = "executor_output.json"  # KFP writes it when a component's function has returned
RUN_COMMAND_VARIABLE = "GAUNTLET_RUN_COMMAND"
"""The command that started a run on this machine; the run's report repeats it as advice."""
TASK_ID = re.compile(r"_-?\d+$")
LOCAL_STEPS = "steps"
RUN_TIME = re.compile(r"-\d{8}-?\d{6}(-\w+)?$")  # of a run's name, after the system's name
LOCAL_JOB_TIME = re.compile(r"-(\d{4}(?:-\d{2}){5}-\d{6})$")  # kfp.local: <pipeline>-<local time>
LOCAL_JOB_TIME_FORMAT = "%Y-%m-%d-%H-%M-%S-%f"

Content = TypeVar("Content")


def collect(pipeline_root: str, job: str, task: str, final: FinalStatus | None = None) -> CollectedRun:
    """What the steps of `job` left under `pipeline_root`, a path or anything that fsspec opens.

    What is absent or unreadable is None in the record; the unreadable is named in it.

    Raises:
        OSError: `pipeline_root` itself cannot be listed, because permission or a network is missing.
    """
    files, root = file_system(pipeline_root)
    run = _Reader(files, _step_folders(files, _job_folder(files, root, job)))
    traces = {name: run.trace(name) for name in run.folders}
    record = _record(run, traces, pipeline_root, job, task, final, _local_start(job))
    return replace(record, before=_before(files, root, job))


@dataclass(frozen=True)
class Artifact:
    """An output of a step: its copy on this machine, and where KFP keeps it."""

    path: str
    uri: str


def collect_artifacts(
    artifacts: Mapping[str, Mapping[str, Artifact]], run_id: str, task: str
) -> CollectedRun:
    """The outputs of a run that has reached its gate, by step and output; KFP has copied them to this
    machine.

    Which steps came from the cache and when each ended is not known. `run_id` is the orchestrator's.
    """
    files, _ = file_system(posixpath.sep)
    run = _Reader(
        files, {}, {step: {name: one.path for name, one in of.items()} for step, of in artifacts.items()}
    )
    folders = {step: posixpath.dirname(next(iter(of.values())).uri) for step, of in artifacts.items()}
    traces = {step: StepRecord(step, "succeeded", folder) for step, folder in folders.items()}
    # Both steps run anew in each run, so what their folders share is the run's own.
    root = _shared_folder(folders["evaluate-model"], folders["gate-model"])
    return _record(run, traces, root, run_id, task)


def _record(
    run: _Reader,
    traces: Mapping[str, StepRecord],
    pipeline_root: str,
    job: str,
    task: str,
    final: FinalStatus | None = None,
    started: datetime | None = None,
) -> CollectedRun:
    verdict = run.read("gate-model", "verdict", Verdict, is_decision=True)
    version = run.read("register-model", "version", Version, is_decision=True)
    kind = run.loaded_kind(task)
    bundled_by = "train-model" if kind and not kind.is_converted else "convert-to-onnx"
    return CollectedRun(
        pipeline_root=pipeline_root,
        job=job,
        steps=step_records(
            traces=traces,
            decision=verdict.decision if verdict else None,
            registered=version is not None,
            final=final,
            run_started=started,
            steps=[*steps_of(kind), *(step for step in OPTIONAL_STEPS if step in traces)],
        ),
        kind=kind,
        sources=run.read("fingerprint-data", "sources", Sources),
        checks=run.read("validate-data", "checks", Checks),
        statistics=run.read_of_kind(kind, "validate-data", f"splits/{STATISTICS_FILE}", "data", "Statistics"),
        history=run.read("train-model", "history", History),
        training=run.read("train-model", "checkpoint/training.json", TrainingRecord),
        candidates=run.read("convert-to-onnx", "candidates", Candidates),
        bundle=run.read(bundled_by, "bundle/bundle.json", Bundle),
        scores=run.read_of_kind(kind, "evaluate-model", "scores", "report", "SCORES"),
        verdict=verdict,
        version=version,
        rollout=run.read("deploy-model", "rollout", Rollout),
        unreadable=tuple(run.unreadable),
        final=final,
        run_command=os.environ.get(RUN_COMMAND_VARIABLE),
    )


class _Failure(Document):
    """The content of `error.json`."""

    message: str | None
    exit_code: int | None


class _Reused(Document):
    """The content of `reused.json`."""

    run: str


@dataclass
class _Reader:
    """Reads the files of one run, by the folder of each step or by the place of each output."""

    files: Any
    folders: Mapping[str, str]
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def read(self, step: str, output: str, kind: type[Content], is_decision: bool = False) -> Content | None:
        """A document, or None if it is missing. A decision that is incomplete is None too."""
        path = self._path(step, output)
        if path is None:
            return None
        try:
            data = self.files.cat_file(path)
            if issubclass(kind, Document) and not is_decision:
                document, faults = kind.read_tolerantly(data)
                self.unreadable += [f"{path}: {fault}" for fault in faults]
                return document
            return TypeAdapter(kind).validate_python(parse_json(data))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "content"
            self.unreadable.append(f"{path}: {key}: {first['msg']}")
        except (OSError, ValueError) as error:
            self.unreadable.append(f"{path}: {error}")
        return None

    def loaded_kind(self, task: str) -> TaskKind | None:
        try:
            return task_kind(task)
        except GauntletError as error:
            self.unreadable.append(str(error))
            return None

    def read_of_kind(self, kind: TaskKind | None, step: str, output: str, role: Role, name: str) -> Any:
        try:
            return kind and self.read(step, output, kind.function(role, name))
        except GauntletError as error:
            self.unreadable.append(str(error))
            return None

    def _path(self, step: str, output: str) -> str | None:
        if step in self.folders:
            return posixpath.join(self.folders[step], output)
        name, slash, file = output.partition("/")
        place = self.outputs.get(step, {}).get(name)
        return place and place + slash + file

    def trace(self, step: str) -> StepRecord:
        folder = self.folders[step]
        done = posixpath.join(folder, DONE_FILE)
        if self.files.exists(done):
            reused = self.read(step, REUSED_FILE, _Reused)
            origin = reused.run if reused else None
            state: State = "reused" if origin else "succeeded"
            return StepRecord(step, state, folder, ended=self.files.modified(done), reused_from=origin)
        failure = self.read(step, ERROR_FILE, _Failure) or _Failure(message=None, exit_code=None)
        ended = max((self.files.modified(path) for path in self.files.find(folder)), default=None)
        return StepRecord(
            step, "failed", folder, ended=ended, message=failure.message, exit_code=failure.exit_code
        )


def steps_of(kind: TaskKind | None) -> list[str]:
    """The steps of the kind's DAG, which has no conversion if a service trains the model."""
    return [step for step in STEPS if kind is None or kind.is_converted or step != "convert-to-onnx"]


def _shared_folder(first: str, second: str) -> str:
    scheme, separator, path = first.rpartition("://")
    return scheme + separator + posixpath.commonpath([path, second.rpartition("://")[2]])


def _job_folder(files: Any, root: str, job: str) -> str | None:
    if files.isdir(posixpath.join(root, job)):
        return posixpath.join(root, job)
    if not files.isdir(root):
        return None
    projects = sorted(child["name"] for child in files.ls(root, detail=True) if child["type"] == "directory")
    folders = (posixpath.join(project, job) for project in projects)
    return next((folder for folder in folders if files.isdir(folder)), None)


def _before(files: Any, root: str, job: str) -> Statistics | None:
    """The statistics of the newest of the system's earlier runs that made splits and are still there."""
    own_folder = _job_folder(files, root, job)
    if own_folder is None:
        return None
    is_local = posixpath.basename(root) == LOCAL_STEPS
    own = posixpath.dirname(root) if is_local else own_folder  # RUN/steps/JOB here, JOB on Vertex
    system = RUN_TIME.sub("", posixpath.basename(own))
    listed = (entry["name"].rstrip("/") for entry in files.ls(posixpath.dirname(own), detail=True))
    runs = [folder for folder in listed if RUN_TIME.sub("", posixpath.basename(folder)) == system]
    for folder in sorted((folder for folder in runs if folder < own), reverse=True):
        pattern = f"{LOCAL_STEPS}/*/validate-data" if is_local else "validate-data*"
        found = files.glob(posixpath.join(folder, pattern, "splits", STATISTICS_FILE))
        if found:
            statistics, _ = Statistics.read_tolerantly(files.cat_file(found[0]))
            return statistics
    return None


def _step_folders(files: Any, job_folder: str | None) -> dict[str, str]:
    """Each step's folder. Of several, as retries leave them, the one that finished, else the newest."""
    found: dict[str, list[str]] = {}
    for entry in files.ls(job_folder, detail=True) if job_folder else ():
        folder = entry["name"].rstrip("/")
        name = TASK_ID.sub("", posixpath.basename(folder))
        if entry["type"] == "directory" and name in (*STEPS, *OPTIONAL_STEPS):
            found.setdefault(name, []).append(folder)
    return {
        name: folders[0] if len(folders) == 1 else max(folders, key=lambda folder: _rank(files, folder))
        for name, folders in found.items()
    }


def _rank(files: Any, folder: str) -> tuple[bool, float, str]:
    newest = max((files.modified(path).timestamp() for path in files.find(folder)), default=0.0)
    return files.exists(posixpath.join(folder, DONE_FILE)), newest, folder


def _local_start(job: str) -> datetime | None:
    """When a local run started; its job's name says so, in this machine's time zone."""
    named = LOCAL_JOB_TIME.search(job)
    return datetime.strptime(named[1], LOCAL_JOB_TIME_FORMAT).astimezone() if named else None
