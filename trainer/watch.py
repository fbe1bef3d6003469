"""What happens between steps: budget and memory are checked, trackers and the log get their lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from gauntlet.contracts.training import BUDGET_REASONS, Epoch, Step, StopReason, TrainingHistory
from gauntlet.manifests.kinds import known_metric
from gauntlet.manifests.training import Resources
from gauntlet.trainer.budget import Budget
from gauntlet.trainer.usage_monitor import GB, UsageMonitor, with_sample

SECONDS_BETWEEN_LINES = 2.0


class Tracker(Protocol):
    """Where metrics go while training; see `gauntlet.backends.tracking`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by epoch, or by optimizer step if a name has a slash, such as `step/loss`."""


class Watch:
    """Watches one training in one process, which is one rank's.

    Args:
        resources: The limits of the training.
        history: Its history, which gets the summary of its usage.
        tracker: Where metrics go.
        device: The device that it runs on.
        seconds: How long it has trained, across interruptions.
        states: The folder of its states, if they are written.
        speaks: Whether it prints; only one of several ranks does.

    Attributes:
        over_memory: The error to end training with, once it has used more memory than it may.

    Raises:
        UsageError: The machine of `resources` has no price.
    """

    def __init__(
        self,
        resources: Resources,
        history: TrainingHistory,
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
        self._monitor = UsageMonitor(device)
        self._contention = None
        if device.type == "cpu":
            from gauntlet.trainer.cpu.contention import Contention

            self._contention = Contention()
        self._noticed = False
        limit_gpu_memory(resources, device)

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._monitor.due

    def look(self, rows: int, seconds: float) -> None:
        """Check memory and budget after steps on `rows` rows, which took `seconds`."""
        self._monitor.count(rows, seconds)
        if self._monitor.due:
            self._sample()
        if not self._noticed and self._budget.notice_due(self._seconds()):
            self._noticed = True
            self._say("warning: the training's budget is running out")

    def track(self, step: Step) -> None:
        """Report one optimizer step to the tracker."""
        self._tracker.log_metrics(step.tracked(), step.step)

    def stop_reason(self) -> StopReason | None:
        """The limit of the budget that has been reached."""
        return self._budget.stop_reason(self._seconds())

    def finish(self) -> None:
        """Take the last sample, and print a line if training ends because its budget is used up."""
        self._sample()
        if self._contention:
            self._contention.finish()
        if self._history.stopped in BUDGET_REASONS:
            to_go_on = f". Its state is in {self._states}: with a higher limit the same command resumes"
            self._say(f"training stops, {self._history.stopped}", to_go_on if self._states else "")

    def _sample(self) -> None:
        sample = self._monitor.take()
        step = len(self._history.steps)
        self._history.usage = with_sample(self._history.usage, sample)
        self.over_memory = over_memory(self._resources, sample.peak_memory_gb, step)
        cost = {"step/cost_usd": self._budget.cost_usd(self._seconds())}
        self._tracker.log_metrics(sample.metrics() | cost, step)
        changed = self._contention and self._contention.adapt(sample.cpu_wait)
        if changed and self._speaks:
            print(changed, file=sys.stderr, flush=True)

    def _say(self, what: str, more: str = "") -> None:
        if self._speaks:
            print(f"{what}: {self._budget.used(self._seconds())}{more}", file=sys.stderr, flush=True)


class Progress:
    """Prints progress as plain lines, which read the same in a terminal, a file and Cloud Logging."""

    def __init__(self, epochs: int, steps_per_epoch: int, steps_taken: int = 0, rows_seen: int = 0) -> None:
        self._steps_taken_before = steps_taken
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._started = self._printed = time.monotonic()
        self._rows_printed = rows_seen  # of the epoch

    def due(self) -> bool:
        """Whether it is time for another line."""
        return time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES

    def step(self, epoch: int, step: int, loss: float, rows: int) -> None:
        """Print a line; `loss` is the epoch's mean over its `rows` so far."""
        now = time.monotonic()
        rate = (rows - self._rows_printed) / (now - self._printed)
        self._printed, self._rows_printed = now, rows
        done = (epoch - 1) * self._steps_per_epoch + step
        seconds_per_step = (now - self._started) / (done - self._steps_taken_before)
        left = seconds_per_step * (self._epochs * self._steps_per_epoch - done)
        print(
            f"epoch {epoch}/{self._epochs}  step {step}/{self._steps_per_epoch}  loss {loss:.4f}  "
            f"{rate:.0f} examples/s  eta {int(left) // 60}:{int(left) % 60:02d}",
            flush=True,
        )

    def epoch(self, epoch: Epoch, best: bool) -> None:
        """Print the line of an epoch that has ended."""
        self._printed, self._rows_printed = time.monotonic(), 0
        figures = "  ".join(
            f"{known_metric(key).title} {value:.4f}" for key, value in epoch.validation.items()
        )
        print(
            f"epoch {epoch.epoch}/{self._epochs} done  training loss {epoch.training['loss']:.4f}, "
            f"validation: {figures}  {epoch.examples_per_second:.0f} examples/s{'  (best)' if best else ''}",
            flush=True,
        )


def limit_gpu_memory(resources: Resources, device: torch.device) -> None:
    """Let torch reserve at most `max_gpu_memory_gb` on the GPU; beyond that it raises OutOfMemoryError."""
    if device.type != "cuda" or resources.max_gpu_memory_gb is None:
        return
    share = resources.max_gpu_memory_gb * GB / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)


def over_memory(resources: Resources, found_gb: float, step: int) -> str | None:
    """The error of a training that used more memory than `max_memory_gb`; None if it did not."""
    limit = resources.max_memory_gb
    if limit is None or found_gb <= limit:
        return None
    return (
        f"training: by step {step} it had taken {found_gb:.2f} GB of memory, and "
        f"training.resources.max_memory_gb is {limit:g}. Lower training.batch_size or raise "
        f"training.gradient_accumulation, which begins anew, or raise max_memory_gb."
    )
