"""What training checks between two steps: its budget, its memory, and what goes to trackers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from gauntlet.manifests.training import Resources
from gauntlet.trainer.budget import Budget
from gauntlet.trainer.contention import Contention
from gauntlet.trainer.history import BUDGET_REASONS, History, Step, StopReason
from gauntlet.trainer.memory import limit_gpu_memory, over_memory
from gauntlet.trainer.sampler import Sampler


class Tracker(Protocol):
    """Where metrics go while training; see `gauntlet.backends.tracking`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by epoch, or by optimizer step where a name has a slash, as `step/loss` has."""


class Watch:
    """Watches one training in one process, a rank's.

    Args:
        resources: What training may use.
        history: Its history, which gets the summary of what it used.
        tracker: Where metrics go.
        device: What it runs on.
        seconds: How long it has trained, across interruptions.
        states: Where its states are, if anywhere.
        speaks: Whether it tells people; of several ranks one does.

    Attributes:
        over_memory: What to end training with, once it has taken more memory than it may.

    Raises:
        UsageError: The machine of `resources` has no price.
    """

    def __init__(
        self,
        resources: Resources,
        history: History,
        tracker: Tracker,
        device: torch.device,
        seconds: Callable[[], float],
        states: str | None,
        speaks: bool = True,
    ) -> None:
        self.over_memory: str | None = None
        self._resources = resources
        self._budget = Budget.of(resources)
        self._history = history
        self._tracker = tracker
        self._seconds = seconds
        self._states = states
        self._speaks = speaks
        self._sampler = Sampler(device)
        self._contention = Contention(device)
        self._noticed = False
        limit_gpu_memory(resources, device)

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._sampler.due

    def look(self, rows: int, seconds: float) -> None:
        """Look at memory and budget after steps on so many rows, which took so long."""
        self._sampler.count(rows, seconds)
        if self._sampler.due:
            self._sample()
        if not self._noticed and self._budget.notice_due(self._seconds()):
            self._noticed = True
            self._say("warning: the training's budget is running out")

    def track(self, step: Step) -> None:
        """Tell the tracker of one optimizer step."""
        metrics = {"step/loss": step.loss, "step/learning_rate": step.learning_rate}
        self._tracker.log_metrics(metrics, step.step)

    def stop_reason(self) -> StopReason | None:
        """The limit of the budget that has been reached."""
        return self._budget.stop_reason(self._seconds())

    def finish(self) -> None:
        """Take the last sample, and say so if training ends because its budget is used."""
        self._sample()
        self._contention.finish()
        if self._history.stopped in BUDGET_REASONS:
            to_go_on = f". Its state is in {self._states}: with a higher limit the same command resumes"
            self._say(f"training stops, {self._history.stopped}", to_go_on if self._states else "")

    def _sample(self) -> None:
        sample = self._sampler.take()
        step = len(self._history.steps)
        self._history.usage = self._history.usage.adding(sample)
        self.over_memory = over_memory(self._resources, sample.peak_memory_gb, step)
        cost = {"step/cost_usd": self._budget.cost_usd(self._seconds())}
        self._tracker.log_metrics(sample.metrics() | cost, step)
        changed = self._contention.adapt(sample.cpu_wait)
        if changed and self._speaks:
            print(changed, file=sys.stderr, flush=True)

    def _say(self, what: str, more: str = "") -> None:
        if self._speaks:
            print(f"{what}: {self._budget.used(self._seconds())}{more}", file=sys.stderr, flush=True)
