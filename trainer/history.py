"""What happened in a training run, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trainer.usage import Usage

StopReason = Literal["all epochs done", "early stopping", "max_hours reached", "max_cost reached"]
BUDGET_REASONS: tuple[StopReason, ...] = ("max_hours reached", "max_cost reached")


def metric_key(metric: str) -> str:
    """The field of `Epoch` that holds a validation metric of the manifest."""
    return "validation_loss" if metric == "loss" else metric


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows and the validation that followed it.

    `of_task` has the metrics that not every task has.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    macro_f1: float
    weighted_f1: float
    accuracy: float
    examples_per_second: float
    seconds: float
    of_task: Mapping[str, float] = field(default_factory=dict)

    def score(self, metric: str) -> float:
        """The validation metric by which epochs are compared: higher is better, so a loss is negated."""
        return -self.validation_loss if metric == "loss" else self.metrics()[metric]

    def metrics(self) -> dict[str, float]:
        """Every figure by its name."""
        figures = asdict(self)
        own = figures.pop("of_task")
        return {key: float(value) for key, value in (figures | own).items()}


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
    `out_of_memory` holds the steps from which on micro-batches are half as large as before.
    `usage` is measured, so it differs from run to run, as times do.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    best_epoch: int = 0
    earlier_best: list[int] = field(default_factory=list)
    stopped: StopReason = "all epochs done"
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    out_of_memory: list[int] = field(default_factory=list)

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
