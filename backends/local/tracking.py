"""Tracking with MLflow, on a server or in the SQLite database that the registry uses.

A run's files are in `artifacts/` next to the database. To look at it:
`mlflow ui --backend-store-uri sqlite:////path/gauntlet.db`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from gauntlet.backends.local.mlflow_database import database_path, explained, locked, open_client
from gauntlet.backends.local.mlflow_server import MlflowServer
from gauntlet.backends.tracking import RunRequest, Status

PIPELINE_RUN_TAG = "pipeline_run"
"""A tag on a run of a server, which has the runs of many pipeline runs."""
STATES_TAG = "states_sha256"
"""A tag on a run whose training can be resumed: the sha256 of the URI of its resume states."""

SECONDS_BETWEEN_WRITES = 10.0
"""For steps' metrics. A batch of any size costs about 50 ms, for a transaction and a wait for the disk."""


class DatabaseTracker:
    """A `Tracker` in a database on this machine."""

    title = "MLflow"

    def __init__(self, uri: str) -> None:
        self._database = database_path(uri, "tracking URI")
        self.folder: Path | None = self._database.parent

    def start(self, request: RunRequest) -> MlflowRun:
        """Start a run, or resume an interrupted one. The database is created if it does not exist."""
        return MlflowRun(self, request, request.tags)

    @cached_property
    def client(self) -> Any:
        """MLflow's client."""
        return open_client(self._database)

    def explained(self) -> AbstractContextManager[None]:
        """Turn a failure of SQLite into one message."""
        return explained(self._database)

    def experiment_id(self, name: str) -> str:
        """The id of an experiment. Two processes that create it need a lock: MLflow refuses the second."""
        with locked(self._database):
            known = self.client.get_experiment_by_name(name)
            if known is not None:
                return str(known.experiment_id)
            folder = self._database.parent / "artifacts" / name
            return str(self.client.create_experiment(name, artifact_location=folder.as_uri()))


class ServerTracker:
    """A `Tracker` on an MLflow server."""

    title = "MLflow"
    folder: Path | None = None

    def __init__(self, uri: str) -> None:
        self._server = MlflowServer(uri, "tracking URI")

    def start(self, request: RunRequest) -> MlflowRun:
        """Start a run, or resume an interrupted one."""
        of_pipeline = {PIPELINE_RUN_TAG: request.pipeline_run} if request.pipeline_run else {}
        return MlflowRun(self._server, request, {**request.tags, **of_pipeline})


class MlflowRun:
    """A `StartedRun` of MLflow. An interrupted run of the same training is resumed."""

    def __init__(
        self, store: DatabaseTracker | MlflowServer, request: RunRequest, tags: Mapping[str, str]
    ) -> None:
        states = hashlib.sha256(request.states.encode()).hexdigest() if request.states else None
        self._store = store
        self._client: Any = store.client
        self._buffer: list[Any] = []
        self._written = time.monotonic()
        with store.explained():
            experiment_id = store.experiment_id(request.experiment)
            run = self._interrupted(experiment_id, states)
            if run is None:
                all_tags = {**tags, STATES_TAG: states} if states else dict(tags)
                run = self._client.create_run(experiment_id, tags=all_tags, run_name=request.name)
            else:
                self._client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        self._known_params = set(run.data.params)

    def _interrupted(self, experiment_id: str, states: str | None) -> Any | None:
        """The newest run of the training with these states, unless that run has finished."""
        if states is None:
            return None
        of_training = f"tags.{STATES_TAG} = '{states}'"
        found = self._client.search_runs([experiment_id], of_training, max_results=1)
        return found[0] if found and found[0].info.status != "FINISHED" else None

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters in batches of the size that MLflow allows. A resumed run keeps those that it has."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        entities = [Param(key, str(value)) for key, value in params.items() if key not in self._known_params]
        for start in range(0, len(entities), MAX_PARAMS_TAGS_PER_BATCH):
            with self._store.explained():
                batch = entities[start : start + MAX_PARAMS_TAGS_PER_BATCH]
                self._client.log_batch(self._run_id, params=batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write an epoch's metrics at once, and steps' metrics in batches every few seconds."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._buffer += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        of_epoch = any("/" not in key for key in metrics)
        if of_epoch or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def log_text(self, name: str, text: str) -> None:
        """Store a text among the run's artifacts."""
        with self._store.explained():
            self._client.log_text(self._run_id, text, name)

    def end(self, status: Status) -> None:
        """Write the buffered metrics, and end the run."""
        self._write()
        with self._store.explained():
            self._client.set_terminated(self._run_id, status)

    def _write(self) -> None:
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        points, self._buffer = self._buffer, []
        for start in range(0, len(points), MAX_METRICS_PER_BATCH):
            with self._store.explained():
                self._client.log_batch(self._run_id, metrics=points[start : start + MAX_METRICS_PER_BATCH])
        self._written = time.monotonic()
