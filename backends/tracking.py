"""Experiment tracking: parameters, metrics and files of a training run, for people to look at.

Nothing is decided on what is tracked, so a training run never dies because tracking did: what goes wrong
with it is caught in this module, said once on stderr, and from then on nothing is tracked.

On this machine and on an MLflow server it is MLflow (`local/tracking.py`), in Google Cloud Vertex AI
Experiments (`google/tracking.py`), and in addition Weights & Biases (`wandb.py`) where a manifest
asks for it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Literal, Protocol, Self

from gauntlet.backends.google.location import SCHEME, VertexLocation
from gauntlet.backends.kubeflow import require_outliving_pods
from gauntlet.backends.local.mlflow_database import database_path
from gauntlet.backends.local.mlflow_server import EXAMPLE, SCHEMES, MlflowServer
from gauntlet.manifests.errors import Preempted

PIPELINE_RUN_TAG = "pipeline_run"
"""On a run that a server has, which holds those of many pipelines' runs."""

STATES_TAG = "states_sha256"
"""A tag on an MLflow run whose training can be resumed: the sha256 of the URI of its states."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words; killed is from outside, as by Ctrl-C."""


class Recording(Protocol):
    """What can be told of a run."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Record what the run was started with. A parameter is written once and not changed."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values as they are at `step`. NaN is recorded as NaN.

        A name without a slash is counted by epochs; `step/…` and `system/…` are by optimizer steps, and are
        cheap enough to be called at each: what is recorded may be seen some seconds later.
        """

    def log_text(self, name: str, text: str) -> None:
        """Keep a text as a file."""


class Run(Recording, Protocol):
    """One tracked run. As a context manager it ends the run with the status that its exit tells."""

    def __enter__(self) -> Self:
        """Start the run."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an exception goes on its way."""


class StartedRun(Recording, Protocol):
    """A run as a backend has it, already started. Any of its methods may fail."""

    def end(self, status: Status) -> None:
        """End the run; everything is written then."""


def open_tracking(
    tracking_uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, str],
    wandb_project: str | None = None,
    pipeline_run: str = "",
    states: str = "",
) -> Run:
    """A run of `experiment` that starts when it is entered.

    When a training is resumed from its states, MLflow continues its tracked run.

    Args:
        tracking_uri: Such as `sqlite:////path/gauntlet.db`, `mlflow+https://HOST` or
            `vertex://my-project/europe-west4`; empty: nothing is tracked.
        experiment: What runs are grouped by; it is made if there is none of that name.
        run_name: What the run is called.
        tags: What the run is found by.
        wandb_project: The project of Weights & Biases that gets the run too.
        pipeline_run: What the pipeline's run is called that it is a part of; empty: of none.
        states: The URI of the training's states; empty if the training cannot be resumed.

    Raises:
        UsageError: The URI is of a kind that is not supported.
    """
    runs: list[Run] = []
    folder = None
    if tracking_uri.startswith(SCHEME):
        from gauntlet.backends.google.tracking import VertexRun

        place = VertexLocation.of(tracking_uri)
        runs.append(
            NeverFailing(
                partial(VertexRun, place, experiment, run_name, tags, pipeline_run), "Vertex AI Experiments"
            )
        )
    elif tracking_uri:
        from gauntlet.backends.local.tracking import LocalStore, MlflowRun

        if states:
            tags = {**tags, STATES_TAG: hashlib.sha256(states.encode()).hexdigest()}
        store: MlflowServer | LocalStore
        if tracking_uri.startswith(SCHEMES):
            store = MlflowServer(tracking_uri, "tracking URI")
            tags = {**tags, PIPELINE_RUN_TAG: pipeline_run} if pipeline_run else tags
        else:
            require_outliving_pods(tracking_uri, "tracking URI")
            others = f"or {EXAMPLE}, or {SCHEME}PROJECT/LOCATION"
            database = database_path(tracking_uri, "tracking URI", others)
            store, folder = LocalStore(database), database.parent
        runs.append(NeverFailing(partial(MlflowRun, store, experiment, run_name, tags), "MLflow"))
    if wandb_project:
        from gauntlet.backends.wandb import WandbRun

        runs.append(
            NeverFailing(
                partial(WandbRun, wandb_project, experiment, run_name, tags, folder), "Weights & Biases"
            )
        )
    if not runs:
        return Untracked()
    return runs[0] if len(runs) == 1 else Together(runs)


def require_tracking(tracking_uri: str) -> None:
    """Refuse a tracking URI that `open_tracking` could not open. Nothing is made or asked.

    Raises:
        UsageError: The URI is of a kind that is not supported.
    """
    if tracking_uri.startswith(SCHEME):
        VertexLocation.of(tracking_uri)
    elif tracking_uri.startswith(SCHEMES):
        MlflowServer(tracking_uri, "tracking URI")
    elif tracking_uri:
        database_path(tracking_uri, "tracking URI", f"or {EXAMPLE}, or {SCHEME}PROJECT/LOCATION")


class Untracked:
    """A run that nobody wants to look at."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_text(self, name: str, text: str) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let an exception go on its way."""


class Together:
    """Several runs as one."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)

    def log_params(self, params: Mapping[str, str]) -> None:
        """In each."""
        for run in self._runs:
            run.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """In each."""
        for run in self._runs:
            run.log_metrics(metrics, step)

    def log_text(self, name: str, text: str) -> None:
        """In each."""
        for run in self._runs:
            run.log_text(name, text)

    def __enter__(self) -> Self:
        for run in self._runs:
            run.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End each; an exception goes on its way."""
        for run in self._runs:
            run.__exit__(kind, error, trace)


class NeverFailing:
    """The seam that keeps tracking's failures from the run: one warning, then nothing more is tracked."""

    def __init__(self, start: Callable[[], StartedRun], backend: str) -> None:
        self._start = start
        self._backend = backend
        self._run: StartedRun | None = None

    def log_params(self, params: Mapping[str, str]) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_metrics(metrics, step))

    def log_text(self, name: str, text: str) -> None:
        """Or warn."""
        self._attempt(lambda run: run.log_text(name, text))

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
            ended = issubclass(kind, Preempted) or not issubclass(kind, Exception)
            status = "KILLED" if ended else "FAILED"
        self._attempt(lambda run: run.end(status))

    def _attempt(self, action: Callable[[StartedRun], None]) -> None:
        if self._run is not None:
            with self._warning():
                action(self._run)

    @contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._run = None
            cause = str(error).partition("\n")[0] or type(error).__name__
            message = f"warning: the run is tracked no further by {self._backend}: {cause}"
            print(message, file=sys.stderr, flush=True)
