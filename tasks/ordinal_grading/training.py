"""Training of a card grader on scans of both sides, in a first phase of the back alone.

B = batch, N = rows of a split, C = channels, H = height, W = width, K = grades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.tasks.classification.training import ClassifierTask, classification_metrics, confusion_counts
from gauntlet.tasks.images.augmentation import moved
from gauntlet.tasks.images.data import Statistics
from gauntlet.tasks.images.networks import in_channels_last, in_fast_layout
from gauntlet.tasks.images.training import AugmentationMaps, RowsOnDevice, read_config, save_network
from gauntlet.tasks.ordinal_grading.data import CardSplit, read_card_split
from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.ordinal_grading.metrics import mean_known_error, measure_grades
from gauntlet.tasks.ordinal_grading.network import (
    EVEN,
    CardGrader,
    GraderConfig,
    Grading,
    OwnGrader,
    grading_loss,
    squared_emd,
)
from gauntlet.trainer.batching import sampling_chances
from gauntlet.trainer.own_network import OwnLoss, own_loss, own_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.task import Batch

FRONT, BACK = 0, 1  # positions in the axis of sides
ACROSS = 0  # position of the left border's share in a side's centering


class OrdinalGrading(ClassifierTask):
    """The task on the splits that validate-data wrote.

    A batch is positions (B,), whether the front is seen, and in training the maps (B, 2, 2, 3) of augmented
    images.
    """

    validation_batch_size = 64

    def __init__(self, section: GradingTraining, splits: Path) -> None:
        """Read the training and validation rows; a `UsageError` if there are no splits."""
        train, validation = read_card_split(splits, "train"), read_card_split(splits, "validation")
        self._section = section
        self.train_labels, self.validation_labels = train.labels, validation.labels
        self.row_weights = np.ones_like(train.labels)
        if section.sampler_power:
            self.chances = sampling_chances(train.labels, section.sampler_power)
        self._train, self._validation = rows_on_device(train), rows_on_device(validation)
        self._centering = validation.centering
        statistics = Statistics.read(splits / STATISTICS_FILE)
        self._mean = list(statistics.pixels["train"].mean)
        self._std = list(statistics.pixels["train"].std)
        self._config = grader_config(section, train.images.shape[2:], len(statistics.labels))
        shape = self._config.input_shape[1:]
        self._maps = AugmentationMaps(section.augmentation, shape, len(train.labels), images_per_row=2)

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The shape of a side."""
        return {"input_shape": self._config.input_shape}

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The grades as `classes`, and the sizes in the network's configuration."""
        sizes = asdict(self._config)
        return {"classes": sizes.pop("grades"), **sizes}

    @property
    def network_outputs(self) -> Sequence[tuple[int, ...]]:
        """Logits, centering and edge damage of both sides, as in `Grading`."""
        return (self._config.grades,), (4,), (2,)

    @cached_property
    def _own_loss(self) -> OwnLoss | None:
        return own_loss(self._section, self.own_arguments)

    def build_model(self) -> nn.Module:
        """The network, initialised from torch's global seed."""
        own = own_network(self._section, self.own_arguments)
        if own is not None:
            return OwnGrader(own, self._mean, self._std)
        return in_fast_layout(CardGrader(self._config, self._mean, self._std))

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Positions, whether the front is seen, and maps if images are augmented."""
        batch, maps = self.validation_batch(rows, seed[1]), self._maps.at(rows, seed)
        return batch if maps is None else (*batch, maps)

    def validation_batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """Positions, and whether the front is seen: not in the first phase."""
        sees_front = torch.tensor(self._section.phase_of(epoch).number > 1)
        return torch.tensor(rows, dtype=torch.int64), sees_front

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of `grading_loss`, and the confusion of the rows."""
        images, grades, centering, edge_damage = self._train.at(batch[0])
        sides = [FRONT, BACK] if batch[1] else [BACK]
        seen = {side: images[:, side] for side in sides}
        if len(batch) > 2:
            maps = batch[2]
            seen = {side: moved(seen[side].float(), maps[:, side]) for side in sides}
            centering = mirrored(centering, maps)
        found: Grading = model(_laid_out(seen.get(FRONT)), _laid_out(seen[BACK]))
        of_sides = centering[:, sides].flatten(start_dim=1), edge_damage[:, sides]
        loss = grading_loss(self._section, found, grades, *of_sides, self._own_loss).sum()
        return loss, confusion_counts(found.logits, grades)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits and the centering of front and back, (B, K + 4); NaN for a front that is not seen."""
        images, *_ = self._validation.at(batch[0])
        front = images[:, FRONT] if batch[1] else None
        found: Grading = model(_laid_out(front), _laid_out(images[:, BACK]))
        unseen = found.centering.new_full((len(images), 4 - found.centering.shape[1]), torch.nan)
        return torch.cat([found.logits, unseen, found.centering], dim=1)

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """Of outputs (N, K + 4)."""
        return super().confusion(outputs[:, :-4])

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """A classifier's metrics, QWK, MAE, the share within one grade and the error of the centering.

        `loss` is the squared EMD and cross-entropy, weighted by `alpha_emd`, or the section's own loss.
        `centering_error` is in percentage points, and absent if no centering is known.
        """
        logits, alpha = outputs[:, :-4], self._section.alpha_emd
        labels = self.validation_labels
        metrics = classification_metrics(logits, labels)
        truth = torch.from_numpy(labels)
        if self._own_loss is None:
            emd = float(squared_emd(logits.softmax(dim=1), truth).mean())
            metrics["loss"] = alpha * emd + (1 - alpha) * metrics["loss"]
        else:
            metrics["loss"] = float(self._own_loss(logits, truth).mean())
        predicted = logits.argmax(dim=1).numpy()
        metrics |= asdict(measure_grades(labels, predicted, logits.shape[1]))
        error = mean_known_error(outputs[:, -4:].numpy(), self._centering)
        return metrics if error is None else metrics | {"centering_error": error}

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors` and the network's `config.json`."""
        save_network(self._config, model, weights, folder)


load_task = OrdinalGrading


def rows_on_device(split: CardSplit) -> RowsOnDevice:
    """Images (N, 2, C, H, W), grades (N,), centering (N, 2, 2) and edge damage (N, 2)."""
    return RowsOnDevice(split.images, split.labels, split.centering.reshape(-1, 2, 2), split.edge_damage)


def mirrored(centering: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Centering (B, 2, 2) of images seen through maps (B, 2, 2, 3): a mirror swaps left and right.

    A map mirrors if its determinant is negative.
    """
    determinant = maps[..., 0, 0] * maps[..., 1, 1] - maps[..., 0, 1] * maps[..., 1, 0]  # (B, 2)
    is_mirrored = determinant < 0
    across = centering[..., ACROSS]
    return torch.stack([torch.where(is_mirrored, 2 * EVEN - across, across), centering[..., 1]], dim=2)


def grader_config(section: GradingTraining, shape: Sequence[int], grades: int) -> GraderConfig:
    """The network of a section for sides of a shape (C, H, W)."""
    channels, height, width = shape
    sizes = section.model_dump(include=set(GraderConfig.__dataclass_fields__))
    return GraderConfig(input_shape=(channels, height, width), grades=grades, **sizes)


def untrained_model(folder: Path, _classes: int, _attention: str) -> nn.Module:
    """The network that a checkpoint's folder describes, without its weights."""
    config = GraderConfig(**read_config(folder))
    channels = config.input_shape[0]
    mean, std = [0.0] * channels, [1.0] * channels  # both are among the weights
    own = own_network(read_record(folder))
    if own is not None:
        return OwnGrader(own, mean, std)
    return in_fast_layout(CardGrader(config, mean, std))


def _laid_out(images: torch.Tensor | None) -> torch.Tensor | None:
    return None if images is None else in_channels_last(images)
