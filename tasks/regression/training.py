"""Training of a model that answers with a number.

B = batch, N = rows of a split; C, H, W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.manifests.dataset import SplitName
from gauntlet.tasks.images.training import ImageTask, untrained_network
from gauntlet.tasks.regression.data import Statistics
from gauntlet.tasks.regression.manifest import RegressionTraining
from gauntlet.tasks.regression.metrics import Floats, measure, metrics_of
from gauntlet.tasks.regression.network import ImageRegressor, Regressor, TextRegressor
from gauntlet.tasks.regression.rows import are_images, read_rows, targets_of
from gauntlet.tasks.regression.target import Target
from gauntlet.tasks.texts import training as texts
from gauntlet.tasks.texts.manifest import Student
from gauntlet.tasks.texts.network import Attention
from gauntlet.trainer.own_network import own_loss
from gauntlet.trainer.splits import read_targets
from gauntlet.trainer.task import Batch, Task

TRAINED_ON: tuple[SplitName, SplitName] = ("train", "validation")


class Numbers:
    """The targets of both splits, the loss and the metrics.

    The loss is that of standardised targets, so that it does not depend on their unit.
    """

    def __init__(
        self,
        section: RegressionTraining,
        statistics: Statistics,
        train: Floats,
        validation: Floats,
        own_arguments: Mapping[str, Any],
    ) -> None:
        self.validation = validation
        self._kind, self._own_loss = section.loss, own_loss(section, own_arguments)
        self.target = Target(
            name=statistics.target,
            mean=float(train.mean()),
            std=float(train.std()),
            min=statistics.target_min,
            max=statistics.target_max,
            coverage=section.interval_coverage,
        )

    def losses(self, numbers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each row, (B,), of answers (B, 1) and targets (B,), both in the target's unit."""
        if self._own_loss is not None:
            mean, std = self.target.mean, self.target.std
            return self._own_loss((numbers - mean) / std, (targets - mean) / std)
        error = (numbers[:, 0] - targets) / self.target.std
        if self._kind == "mse":
            return error.square()
        if self._kind == "mae":
            return error.abs()
        return functional.huber_loss(error, torch.zeros_like(error), reduction="none")

    def tally(self, numbers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sums over rows of `metrics.moments`, and the number of rows, (5,)."""
        error = (numbers[:, 0] - targets).detach().double()
        centred = targets.double() - self.target.mean
        sums = error.abs(), error.square(), centred, centred.square(), torch.ones_like(error)
        return torch.stack([values.sum() for values in sums])

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """MAE, RMSE and R² of a tally (5,)."""
        sums = np.asarray(tally, dtype=np.float64)
        return {name: float(value) for name, value in metrics_of(sums[:4] / max(1.0, sums[4])).items()}

    def metrics(self, numbers: torch.Tensor) -> dict[str, float]:
        """The mean loss, MAE, RMSE and R² of the answers for the validation rows, (N, 1)."""
        targets = torch.from_numpy(self.validation)
        loss = float(self.losses(numbers.double(), targets).mean())
        return {"loss": loss, **measure(self.validation, numbers[:, 0].double().numpy())}


class NumberTask(Task):
    """A task whose outputs are numbers (N, 1), in the unit of the target."""

    _numbers: Numbers

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """As `Numbers.training_metrics`."""
        return self._numbers.training_metrics(tally)

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """As `Numbers.metrics`."""
        return self._numbers.metrics(outputs)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write what the model's kind of input needs, and `target.json`."""
        super().save(model, weights, folder)  # type: ignore[safe-super]
        self._numbers.target.write(folder)


class TextRegression(NumberTask, texts.EncoderTask):
    """A pretrained encoder under a layer with one output."""

    def __init__(
        self,
        section: RegressionTraining,
        splits: Path,
        student: Student | None = None,
        teacher_outputs: torch.Tensor | None = None,
    ) -> None:
        """Read and tokenise the training and validation rows. Raises what `EncoderTask` does."""
        super().__init__(
            section, splits, 1, lambda frame: targets_of(frame).astype(np.float32), student, teacher_outputs
        )
        train, validation = (read_targets(splits, split, targets_of) for split in TRAINED_ON)
        statistics = Statistics.read(splits / STATISTICS_FILE)
        self._of_numbers = section
        self._numbers = Numbers(section, statistics, train, validation, self.own_arguments)

    def build_model(self) -> TextRegressor:
        """The encoder and its layer, in the unit of the target."""
        return TextRegressor(super().build_model(), self._numbers.target)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum of `Numbers.losses`."""
        return self._numbers.losses(outputs, targets).sum()

    def imitation_loss(
        self, outputs: torch.Tensor, wanted: torch.Tensor, _targets: torch.Tensor, _temperature: float
    ) -> torch.Tensor:
        """The same loss against the teacher's numbers, which have no temperature."""
        return self.loss(outputs, wanted[:, 0])

    def student_task(self, student: Student, teacher_outputs: torch.Tensor) -> TextRegression:
        """The same with the student's layers."""
        return TextRegression(self._of_numbers, self._splits, student, teacher_outputs)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """As `Numbers.tally`."""
        return self._numbers.tally(outputs, targets)


class ImageRegression(NumberTask, ImageTask):
    """A convolutional network with one output, on images that are kept on the training device."""

    validation_batch_size = 256

    def __init__(self, section: RegressionTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: There are no splits, or the network has more blocks than their images allow.
        """
        train, validation = (read_rows(splits, split) for split in TRAINED_ON)
        statistics = Statistics.read(splits / STATISTICS_FILE)
        assert statistics.pixels is not None  # as rows are images
        self.prepare(
            section,
            (train.images, train.targets.astype(np.float32)),
            validation.images,
            statistics.pixels["train"],
            statistics.resize,
            outputs=1,
        )
        self._numbers = Numbers(section, statistics, train.targets, validation.targets, self.own_arguments)

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The number of outputs, and the sizes in the network's configuration."""
        sizes = {name: value for name, value in asdict(self._config).items() if name != "classes"}
        return {**super().own_arguments, "outputs": 1, **sizes}

    @property
    def network_outputs(self) -> Sequence[tuple[int, ...]]:
        """A standardised number, (1,)."""
        return ((1,),)

    def build_model(self) -> ImageRegressor:
        """The network, in the unit of the target."""
        return ImageRegressor(super().build_model(), self._numbers.target)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of `Numbers.losses`, and `Numbers.tally`."""
        numbers, targets = self.training_outputs(model, batch)
        return self._numbers.losses(numbers, targets).sum(), self._numbers.tally(numbers, targets)


def load_task(section: RegressionTraining, splits: Path) -> Task:
    """The task that trains a section's model on splits."""
    return (ImageRegression if are_images(splits) else TextRegression)(section, splits)


def untrained_model(folder: Path, _classes: int, attention: Attention) -> Regressor:
    """The network that a checkpoint's folder describes, without its weights."""
    target = Target.read(folder)
    if (folder / "tokenizer.json").is_file():
        return TextRegressor(texts.untrained_model(folder, 1, attention), target)
    return ImageRegressor(untrained_network(folder), target)
