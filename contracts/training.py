"""What train-model writes: the history of a training, and the record of the checkpoint that it made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from gauntlet.contracts.document import Document
from gauntlet.manifests.kinds import known_metric

StopReason = Literal["all epochs done", "early stopping", "max_hours reached", "max_cost reached"]
BUDGET_REASONS: tuple[StopReason, ...] = ("max_hours reached", "max_cost reached")


OriginForm = Literal["checkpoint", "onnx"]


def tracked_name(metric: str) -> str:
    """The name of an epoch's validation metric in a tracker."""
    return f"validation_{metric}"


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in figures.items()}


class _OfTraining(Document):
    written_by: ClassVar[str] = "train-model"


class Origin(_OfTraining):
    """Where a model comes from that was trained elsewhere.

    Attributes:
        form: A checkpoint, which is converted here, or an ONNX graph, which has no PyTorch model.
        source: The path or the URI that was given.
        sha256: Of its files' names and contents.
        labels: The names of a graph's classes in its order, if they were given.
    """

    form: OriginForm
    source: str
    sha256: str
    labels: tuple[str, ...] = ()


class Epoch(_OfTraining):
    """One pass over the training rows and its validation. A metric that is not finite is None."""

    epoch: int
    training: dict[str, float | None]
    validation: dict[str, float | None]
    examples_per_second: float | None
    seconds: float | None

    def score(self, metric: str) -> float:
        """The validation metric by which epochs are compared: higher is better."""
        value = self.validation[metric]
        return math.nan if value is None else known_metric(metric).as_score(value)

    def tracked(self) -> dict[str, float]:
        """Every number of the epoch by its name in a tracker."""
        figures = {
            **{f"train_{metric}": value for metric, value in self.training.items()},
            **{tracked_name(metric): value for metric, value in self.validation.items()},
            "examples_per_second": self.examples_per_second,
            "seconds": self.seconds,
        }
        return _numbers(figures)


class Step(_OfTraining):
    """One optimizer step: the mean loss per row, and the learning rate."""

    step: int
    loss: float | None
    learning_rate: float | None

    def tracked(self) -> dict[str, float]:
        """Every number of the step by its name in a tracker."""
        return _numbers({"step/loss": self.loss, "step/learning_rate": self.learning_rate})


class Usage(_OfTraining):
    """How a training used its machine: means over its time, and peaks in GB of 10⁹ bytes. None if unknown."""

    seconds: float = 0.0
    rows: int = 0
    step_seconds: float = 0.0
    examples_per_second: float | None = None
    cpu_utilisation: float | None = None
    cpu_wait: float | None = None
    peak_memory_gb: float | None = None
    gpu_utilisation: float | None = None
    peak_gpu_memory_gb: float | None = None


class TrainingHistory(_OfTraining):
    """The events of a training in their order. The loop adds to it, so it can be changed.

    Attributes:
        best_epoch: Counts from 1; the best one of the last phase so far, 0 before there is one.
        earlier_best: The best epochs of the phases before.
        confusion: Of the best epoch: validation rows by true class, then by predicted class.
        out_of_memory: The steps at which memory ran out and the micro-batches were halved.
    """

    model_config = ConfigDict(frozen=False)

    epochs: list[Epoch] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    best_epoch: int = 0
    confusion: list[list[int]] = Field(default_factory=list)
    stopped: StopReason = "all epochs done"
    seconds: float = 0.0
    usage: Usage = Usage()
    out_of_memory: list[int] = Field(default_factory=list)
    earlier_best: list[int] = Field(default_factory=list)

    @property
    def epochs_without_gain(self) -> int:
        """Epochs since the best one."""
        return len(self.epochs) - self.best_epoch

    @property
    def best_epochs(self) -> list[int]:
        """The best epoch of each phase that has one, in order."""
        return [*self.earlier_best, *([self.best_epoch] if self.best_epoch else [])]


class History(TrainingHistory):
    """The content of `history.json`: a training, the machine that it ran on and its cost.

    Attributes:
        parameters: Numbers in the model's tensors; `trained_parameters` of them are trained.
        machine: What the manifest buys; price and cost are this machine's, wherever training ran.
        student: The second training, of a smaller model that learned from this one.
        training_tokens, usd_per_million_tokens, tuning_job: Of a model that a service trained.
        origin: Of a model that was trained elsewhere, whose only epoch has its validation metrics.
    """

    device: str | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    host: str | None = None
    machine: str | None = None
    usd_per_hour: float | None = None
    training_tokens: int | None = None
    usd_per_million_tokens: float | None = None
    cost_usd: float | None = None
    max_hours: float | None = None
    max_cost_usd: float | None = None
    tuning_job: str | None = None
    student: TrainingHistory | None = None
    origin: Origin | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that were set, in plain JSON types."""
        given = self.model_fields_set
        return {key: value for key, value in super().as_json().items() if key in given}


class TrainingRecord(_OfTraining):
    """What a checkpoint was made from: its `training.json`, with a kind's fields (`Task.of_record`).

    Attributes:
        encoder: The pretrained model, if there is one.
        max_length: The number of tokens after which a text is cut, if rows are texts.
        frame: For a language model: the text before and after a single prompt.
        input_shape: For a model that reads images: channels, height, width.
        network, network_args, network_sha256: The class or function of a user's own network or backbone, its
            arguments, a hash of its code.
        origin: Of a model that was trained elsewhere.
    """

    model_config = ConfigDict(extra="allow")

    task: str
    labels: tuple[str, ...]
    seed: int
    epoch: int
    data_sha256: str
    training_sha256: str
    encoder: str = ""
    max_length: int = 0
    frame: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()
    network: str = ""
    network_args: Mapping[str, Any] = Field(default_factory=dict)
    network_sha256: str = ""
    origin: Origin | None = None

    def as_json(self) -> dict[str, Any]:
        """The content in plain JSON types, without optional fields that have no value."""
        return self.model_dump(mode="json", exclude_defaults=True)
