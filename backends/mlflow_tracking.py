"""Tracking with MLflow, on the SQLite database that the registry uses; files lie in `artifacts/` beside it.

`mlflow ui --backend-store-uri sqlite:////path/gauntlet.db` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.mlflow_database import explained, locked, open_client
from backends.tracking import Status

SECONDS_BETWEEN_WRITES = 10.0
"""Of steps' metrics: a batch of any size costs 50 ms or so, a transaction and a wait for the disk."""


class MlflowRun:
    """A run that has been started on an MLflow database. Any of its methods may fail.

    Raises:
        GauntletError: The database failed.
    """

    def __init__(self, database: Path, experiment: str, run_name: str, tags: Mapping[str, str]) -> None:
        self._database = database
        self._client: Any = open_client(database)
        self._waiting: list[Any] = []
        self._written = time.monotonic()
        with explained(database):
            experiment_id = self._experiment_id(experiment)
            run = self._client.create_run(experiment_id, tags=dict(tags), run_name=run_name)
        self._run_id = run.info.run_id

    def log_params(self, params: Mapping[str, str]) -> None:
        """In batches of the size that MLflow takes."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        entities = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entities), MAX_PARAMS_TAGS_PER_BATCH):
            batch = entities[start : start + MAX_PARAMS_TAGS_PER_BATCH]
            with explained(self._database):
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
        """Into the run's folder under `artifacts/`."""
        with explained(self._database):
            self._client.log_text(self._run_id, text, name)

    def end(self, status: Status) -> None:
        """Write what waits, and end the run."""
        self._write()
        with explained(self._database):
            self._client.set_terminated(self._run_id, status)

    def _write(self) -> None:
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), MAX_METRICS_PER_BATCH):
            with explained(self._database):
                self._client.log_batch(self._run_id, metrics=waiting[start : start + MAX_METRICS_PER_BATCH])
        self._written = time.monotonic()

    def _experiment_id(self, name: str) -> str:
        with locked(self._database):  # MLflow refuses the slower of two processes that make it
            known = self._client.get_experiment_by_name(name)
            if known is not None:
                return str(known.experiment_id)
            folder = self._database.parent / "artifacts" / name
            return str(self._client.create_experiment(name, artifact_location=folder.as_uri()))
