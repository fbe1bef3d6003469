"""What happened in a training run, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gauntlet.manifests.kinds import known_metric
from gauntlet.trainer.usage import Usage

StopReason = Literal["all epochs done", "early stopping", "max_hours reached", "max_cost reached"]
BUDGET_REASONS: tuple[StopReason, ...] = ("max_hours reached", "max_cost reached")


def tracked_name(metric: str) -> str:
    """What trackers call a validation metric of an epoch."""
    return f"validation_{metric}"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows and the validation that followed it.

    `training` and `validation` are the task's metrics by name, among them `loss`, the mean per row.
    """

    epoch: int
    training: dict[str, float]
    validation: dict[str, float]
    examples_per_second: float
    seconds: float

    def score(self, metric: str) -> float:
        """The validation metric by which epochs are compared: higher is better."""
        return known_metric(metric).as_score(self.validation[metric])

    def tracked(self) -> dict[str, float]:
        """Every number of the epoch by the name that trackers show."""
        return {
            **{f"train_{metric}": value for metric, value in self.training.items()},
            **{tracked_name(metric): value for metric, value in self.validation.items()},
            "examples_per_second": self.examples_per_second,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Step:
    """One optimizer step: mean loss per row, and the learning rate it was taken with."""

    step: int
    loss: float
    learning_rate: float


@dataclass
class History:
    """What happened, in the order it happened.

    `best_epoch` counts from 1 and is the best one of the last phase so far, `earlier_best` has those of the
    phases before.
    `confusion` is of the best epoch: validation rows by true class, then by predicted class; empty where rows
    have no class.
    `out_of_memory` holds the steps from which on micro-batches are half as large as before.
    `usage` is measured, so it differs from run to run, as times do.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    best_epoch: int = 0
    confusion: list[list[int]] = field(default_factory=list)
    stopped: StopReason = "all epochs done"
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    out_of_memory: list[int] = field(default_factory=list)
    earlier_best: list[int] = field(default_factory=list)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return len(self.epochs) - self.best_epoch

    @property
    def best_epochs(self) -> list[int]:
        """The best epoch of each phase that has one, in order."""
        return [*self.earlier_best, *([self.best_epoch] if self.best_epoch else [])]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
