"""Experiment tracking: parameters, metrics and files of a training run, for people to look at.

Nothing is decided from what is tracked, so a failure of tracking never ends a training: it is printed once as
a warning, and the failed tracker gets nothing more.

`factory.open_tracking` starts a run by its tracking URI.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from gauntlet.manifests.errors import Preempted

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended, in MLflow's words. KILLED is from outside, as by Ctrl-C or preemption."""


@dataclass(frozen=True)
class RunRequest:
    """A run to be tracked, which can be searched by its tags.

    Attributes:
        experiment: Groups runs. It is created if it does not exist.
        pipeline_run: The id of the pipeline run that this training is a part of; empty for none.
        states: The URI of the training's resume states; empty if it cannot be resumed.
    """

    experiment: str
    name: str
    tags: Mapping[str, str]
    pipeline_run: str = ""
    states: str = ""


class StartedRun(Protocol):
    """A run that a tracker has started. Any of its methods may fail."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Record what the run was started with. A parameter does not change once it is recorded."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at `step`. NaN is recorded as NaN.

        A name without a slash is counted by epochs. `step/...` and `system/...` are counted by optimizer
        steps; they come at every step and may be written some seconds later, in batches.
        """

    def log_text(self, name: str, text: str) -> None:
        """Store a text as a file of the run."""

    def end(self, status: Status) -> None:
        """Write what is still buffered, and end the run."""


class Tracker(Protocol):
    """A tracking backend. The constructor checks its URI; nothing is asked or created before `start`.

    Attributes:
        title: The backend's name in warnings.
        folder: A folder on this machine for files that other trackers buffer, if it has one.
    """

    title: str
    folder: Path | None

    def __init__(self, uri: str) -> None: ...

    def start(self, request: RunRequest) -> StartedRun:
        """Start a run. One with the same `states` that was interrupted is resumed, where that is possible."""


class TrackedRun:
    """One training run in any number of trackers, perhaps none.

    As a context manager it starts the run in each tracker, by the tracker's title, and ends it: as failed
    when the block raises, as killed when it was ended from outside. No exception of the block is suppressed.
    """

    def __init__(self, starts: Mapping[str, Callable[[], StartedRun]] | None = None) -> None:
        self._starts = starts or {}
        self._runs: dict[str, StartedRun] = {}

    @property
    def has_trackers(self) -> bool:
        """Whether anything is tracked."""
        return bool(self._starts)

    def log_params(self, params: Mapping[str, str]) -> None:
        """As `StartedRun`, in each tracker."""
        self._in_each(lambda run: run.log_params(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """As `StartedRun`, in each tracker."""
        self._in_each(lambda run: run.log_metrics(metrics, step))

    def log_text(self, name: str, text: str) -> None:
        """As `StartedRun`, in each tracker."""
        self._in_each(lambda run: run.log_text(name, text))

    def __enter__(self) -> Self:
        for title, start in self._starts.items():
            with self._guarded(title):
                self._runs[title] = start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run in each tracker."""
        status: Status = "FINISHED"
        if kind is not None:
            from_outside = issubclass(kind, Preempted) or not issubclass(kind, Exception)
            status = "KILLED" if from_outside else "FAILED"
        self._in_each(lambda run: run.end(status))

    def _in_each(self, action: Callable[[StartedRun], None]) -> None:
        for title, run in tuple(self._runs.items()):
            with self._guarded(title):
                action(run)

    @contextmanager
    def _guarded(self, title: str) -> Iterator[None]:
        """Turn a tracker's failure into one warning, and drop the tracker."""
        try:
            yield
        except Exception as error:
            self._runs.pop(title, None)
            cause = str(error).partition("\n")[0] or type(error).__name__
            print(f"warning: tracking with {title} stopped: {cause}", file=sys.stderr, flush=True)
