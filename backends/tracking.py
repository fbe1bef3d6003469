"""Experiment tracking: parameters, metrics and files of a training run, for people to look at.

Nothing is decided on what is tracked, so a training run never dies because tracking did: what goes wrong
with it is caught in this module, said once on stderr, and from then on nothing is tracked.

Locally it is MLflow on the SQLite database that the registry uses, with the files in `artifacts/` beside it;
`mlflow ui --backend-store-uri sqlite:////path/gauntlet.db` shows it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from backends.mlflow_database import database_path, explained, locked, open_client

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words; killed is from outside, as by Ctrl-C."""


class Run(Protocol):
    """One tracked run. As a context manager it ends the run with the status that its exit tells."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Record what the run was started with. A parameter is written once and not changed."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values as they are at `step`, such as an epoch. NaN is recorded as NaN."""

    def log_artifact(self, path: str | Path) -> None:
        """Keep a copy of a file."""

    def __enter__(self) -> Self:
        """Start the run."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an exception goes on its way."""


def open_tracking(tracking_uri: str, experiment: str, run_name: str, tags: Mapping[str, str]) -> Run:
    """A run of `experiment` that starts when it is entered.

    Args:
        tracking_uri: Such as `sqlite:////path/gauntlet.db`; empty: nothing is tracked.
        experiment: What runs are grouped by; it is made if there is none of that name.
        run_name: What the run is called.
        tags: What the run is found by.

    Raises:
        UsageError: The URI is of a kind that is not supported.
    """
    if not tracking_uri:
        return Untracked()
    database = database_path(tracking_uri, "tracking URI")
    return NeverFailing(database, lambda: MlflowRun(database, experiment, run_name, tags))


class Untracked:
    """A run that nobody wants to look at."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_artifact(self, path: str | Path) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let an exception go on its way."""


class MlflowRun:
    """A run that has been started on an MLflow database. Any of its methods may fail."""

    def __init__(self, database: Path, experiment: str, run_name: str, tags: Mapping[str, str]) -> None:
        self._database = database
        self._client: Any = open_client(database)
        experiment_id = self._experiment_id(experiment)
        self._run_id = self._client.create_run(experiment_id, tags=dict(tags), run_name=run_name).info.run_id

    def log_params(self, params: Mapping[str, str]) -> None:
        """In batches of the size that MLflow takes."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        entities = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entities), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(self._run_id, params=entities[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """In one batch: MLflow takes a thousand metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=entities)

    def log_artifact(self, path: str | Path) -> None:
        """Into the run's folder under `artifacts/`."""
        self._client.log_artifact(self._run_id, str(path))

    def end(self, status: Status) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, status)

    def _experiment_id(self, name: str) -> str:
        with locked(self._database):  # MLflow refuses the slower of two processes that make it
            known = self._client.get_experiment_by_name(name)
            if known is not None:
                return str(known.experiment_id)
            folder = self._database.parent / "artifacts" / name
            return str(self._client.create_experiment(name, artifact_location=folder.as_uri()))


class NeverFailing:
    """The seam that keeps tracking's failures from the run: one warning, then nothing more is tracked."""

    def __init__(self, database: Path, start: Callable[[], MlflowRun]) -> None:
        self._database = database
        self._start = start
        self._run: MlflowRun | None = None

    def log_params(self, params: Mapping[str, str]) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_metrics(metrics, step))

    def log_artifact(self, path: str | Path) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_artifact(path))

    def __enter__(self) -> Self:
        with self._warning():
            self._run = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run: as failed when it raised, as killed when it was told to end."""
        status: Status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._attempt(lambda run: run.end(status))

    def _attempt(self, action: Callable[[MlflowRun], None]) -> None:
        if self._run is not None:
            with self._warning():
                action(self._run)

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            with explained(self._database):
                yield
        except Exception as error:
            self._run = None
            cause = str(error).partition("\n")[0] or type(error).__name__
            print(f"warning: the run is tracked no further: {cause}", file=sys.stderr, flush=True)
