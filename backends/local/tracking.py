"""Tracking with MLflow, on a server or on the SQLite database that the registry uses.

A run's files are in `artifacts/` next to the database. To look at it:
`mlflow ui --backend-store-uri sqlite:////path/gauntlet.db`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from gauntlet.backends.local.mlflow_database import explained, locked, open_client
from gauntlet.backends.tracking import STATES_TAG, Status

SECONDS_BETWEEN_WRITES = 10.0
"""Of steps' metrics: a batch of any size costs 50 ms or so, a transaction and a wait for the disk."""


class Store(Protocol):
    """Where MLflow keeps runs."""

    @property
    def client(self) -> Any:
        """MLflow's client."""

    def explained(self) -> AbstractContextManager[None]:
        """Turn a failure of the store into one message."""

    def experiment_id(self, name: str) -> str:
        """The id of an experiment, which is created if it does not exist."""


class LocalStore:
    """A database on this machine."""

    def __init__(self, database: Path) -> None:
        self._database = database

    @cached_property
    def client(self) -> Any:
        """The database is created if it does not exist."""
        return open_client(self._database)

    def explained(self) -> AbstractContextManager[None]:
        """Turn a failure of SQLite into one message."""
        return explained(self._database)

    def experiment_id(self, name: str) -> str:
        """Under a lock: MLflow refuses the slower of two processes that make it."""
        with locked(self._database):
            known = self.client.get_experiment_by_name(name)
            if known is not None:
                return str(known.experiment_id)
            folder = self._database.parent / "artifacts" / name
            return str(self.client.create_experiment(name, artifact_location=folder.as_uri()))


class MlflowRun:
    """A run that has been started in a store of MLflow's. Any of its methods may fail.

    A run of the same training that was interrupted is resumed, and is no longer shown as failed.

    Raises:
        GauntletError: The database or the server failed.
    """

    def __init__(self, store: Store, experiment: str, run_name: str, tags: Mapping[str, str]) -> None:
        self._store = store
        self._client: Any = store.client
        self._waiting: list[Any] = []
        self._written = time.monotonic()
        with store.explained():
            experiment_id = store.experiment_id(experiment)
            run = self._interrupted(experiment_id, tags.get(STATES_TAG))
            if run is None:
                run = self._client.create_run(experiment_id, tags=dict(tags), run_name=run_name)
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
        """Log parameters in batches of MLflow's largest size; a resumed run keeps the ones that it has."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        entities = [Param(key, str(value)) for key, value in params.items() if key not in self._known_params]
        for start in range(0, len(entities), MAX_PARAMS_TAGS_PER_BATCH):
            batch = entities[start : start + MAX_PARAMS_TAGS_PER_BATCH]
            with self._store.explained():
                self._client.log_batch(self._run_id, params=batch)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """An epoch's at once, with all that waits; a step's later, unless the last write is long ago."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in metrics.items()]
        of_epoch = any("/" not in key for key in metrics)
        if of_epoch or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def log_text(self, name: str, text: str) -> None:
        """Among the run's artifacts."""
        with self._store.explained():
            self._client.log_text(self._run_id, text, name)

    def end(self, status: Status) -> None:
        """Write what waits, and end the run."""
        self._write()
        with self._store.explained():
            self._client.set_terminated(self._run_id, status)

    def _write(self) -> None:
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_METRICS_PER_BATCH):
            with self._store.explained():
                self._client.log_batch(self._run_id, metrics=waiting[start : start + MAX_METRICS_PER_BATCH])
        self._written = time.monotonic()
