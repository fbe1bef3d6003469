"""Ordinal grading: a card's grade from scans of its two sides, first learned from the back alone.

B = batch, N = rows of a split, C = channels, H = height, W = width, K = grades.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from gauntlet.tasks.classification.training_metrics import (
    classification_metrics,
    confusion_counts,
    confusion_metrics,
)
from gauntlet.tasks.images.augmentation import affine_maps, moved, moves
from gauntlet.tasks.images.networks import in_channels_last, in_fast_layout
from gauntlet.tasks.ordinal_grading.loss import grading_loss, squared_emd
from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.ordinal_grading.metrics import mean_known_error, quadratic_weighted_kappa
from gauntlet.tasks.ordinal_grading.network import EVEN, CardGrader, GraderConfig, Grading
from gauntlet.trainer.batching import sampling_chances
from gauntlet.trainer.splits import CardSplit, read_cards, read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE, Batch

CONFIG_FILE = "config.json"
FRONT, BACK = 0, 1  # positions in the axis of sides
ACROSS = 0  # position of the left border's share in a side's centering


class CardRows:
    """A split's cards, copied to the device that first asks for them; a batch is their positions."""

    def __init__(self, split: CardSplit) -> None:
        self.labels, self.centering = split.labels, split.centering
        tensors = (split.images, split.labels, split.centering.reshape(-1, 2, 2), split.edge_damage)
        self._tensors = tuple(torch.from_numpy(array) for array in tensors)

    def on_device_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of positions (B,): images (B, 2, C, H, W), grades (B,), centering (B, 2, 2), edges (B, 2)."""
        if self._tensors[0].device != rows.device:
            self._tensors = tuple(tensor.to(rows.device) for tensor in self._tensors)
        return tuple(tensor[rows] for tensor in self._tensors)


class OrdinalGrading:
    """The task `ordinal_grading` on the splits that validate-data wrote."""

    validation_batch_size = 64

    def __init__(self, section: GradingTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: The splits are not there.
        """
        train, validation = read_cards(splits, "train"), read_cards(splits, "validation")
        self._section = section
        self._train, self._validation = CardRows(train), CardRows(validation)
        statistics = read_statistics(splits)
        self._mean: list[float] = statistics["pixels"]["train"]["mean"]
        self._std: list[float] = statistics["pixels"]["train"]["std"]
        self._config = grader_config(section, train.images.shape[2:], len(statistics["labels"]))
        self._maps: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._seed_of_maps: tuple[int, int] | None = None

    @property
    def train_lengths(self) -> Sequence[int]:
        """All cards are of one size."""
        return [1] * len(self._train.labels)

    @property
    def train_weights(self) -> Sequence[int]:
        """Every card counts once."""
        return [1] * len(self._train.labels)

    @property
    def validation_lengths(self) -> Sequence[int]:
        """As `train_lengths`."""
        return [1] * len(self._validation.labels)

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """In proportion to 1 / frequency of the grade ** `sampler_power`; None for a power of 0."""
        power = self._section.sampler_power
        return sampling_chances(self._train.labels, power) if power else None

    @property
    def remarks(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The shape of a side."""
        return {"input_shape": self._config.input_shape}

    def build_model(self) -> CardGrader:
        """The network, initialised from torch's global seed."""
        return in_fast_layout(CardGrader(self._config, self._mean, self._std))

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Positions (B,), whether the front is seen, and maps (B, 2, 2, 3) where images are augmented."""
        positions = torch.tensor(rows, dtype=torch.int64)
        sees_front = self._sees_front(seed[1])
        if not moves(self._section.augmentation):
            return positions, sees_front
        if self._seed_of_maps != seed:
            shape, count = self._config.input_shape[1:], len(self._train.labels)
            maps = affine_maps(self._section.augmentation, shape, 2 * count, seed)
            self._maps, self._seed_of_maps = maps.reshape(count, 2, 2, 3), seed
        return positions, sees_front, torch.from_numpy(self._maps[rows])

    def validation_batch(self, rows: Sequence[int], epoch: int) -> Batch:
        """As `training_batch`, without any augmentation."""
        return torch.tensor(rows, dtype=torch.int64), self._sees_front(epoch)

    def _sees_front(self, epoch: int) -> torch.Tensor:
        return torch.tensor(self._section.phase_of(epoch).number > 1)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of `grading_loss`, summed over rows, and their confusion."""
        images, grades, centering, edge_damage = self._train.on_device_of(batch[0])
        sides = [FRONT, BACK] if batch[1] else [BACK]
        seen = {side: images[:, side] for side in sides}
        if len(batch) > 2:
            maps = batch[2]
            seen = {side: moved(seen[side].float(), maps[:, side]) for side in sides}
            centering = mirrored(centering, maps)
        found: Grading = model(_laid_out(seen.get(FRONT)), _laid_out(seen[BACK]))
        of_sides = centering[:, sides].flatten(start_dim=1), edge_damage[:, sides]
        loss = grading_loss(self._section, found, grades, *of_sides).sum()
        return loss, confusion_counts(found.logits, grades)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits and the centering of front and back, (B, K + 4); that of a front not seen is NaN."""
        images, *_ = self._validation.on_device_of(batch[0])
        front = images[:, FRONT] if batch[1] else None
        found: Grading = model(_laid_out(front), _laid_out(images[:, BACK]))
        unseen = found.centering.new_full((len(images), 4 - found.centering.shape[1]), torch.nan)
        return torch.cat([found.logits, unseen, found.centering], dim=1)

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Accuracy, macro and weighted F1."""
        return confusion_metrics(tally)

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """Of outputs (N, K + 4)."""
        counts = confusion_counts(outputs[:, :-4], torch.from_numpy(self._validation.labels))
        return cast(list[list[int]], counts.view(self._config.grades, -1).tolist())

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """What a classification has, and QWK, MAE, the share within one grade and the error of centering.

        `loss` is the squared EMD and cross-entropy as `alpha_emd` weighs them. The mean absolute error of the
        centering is in percentage points, and absent where nothing is known of it.
        """
        logits, alpha = outputs[:, :-4], self._section.alpha_emd
        labels = self._validation.labels
        metrics = classification_metrics(logits, labels)
        emd = float(squared_emd(logits.softmax(dim=1), torch.from_numpy(labels)).mean())
        metrics["loss"] = alpha * emd + (1 - alpha) * metrics["loss"]
        predicted = logits.argmax(dim=1).numpy()
        distance = np.abs(predicted - labels)
        metrics |= {
            "qwk": quadratic_weighted_kappa(labels, predicted, logits.shape[1]),
            "mae": float(distance.mean()),
            "within_one": float((distance <= 1).mean()),
        }
        error = mean_known_error(outputs[:, -4:].numpy(), self._validation.centering)
        return metrics if error is None else metrics | {"centering_error": error}

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:  # noqa: ARG002
        """Write `model.safetensors` and the network's `config.json`."""
        save_file(dict(weights), folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self._config), indent=2), encoding="utf-8")


def mirrored(centering: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Centering (B, 2, 2) as it is seen through maps (B, 2, 2, 3): a mirror changes left for right.

    A map mirrors where its determinant is negative; no rotation, zoom or shear makes it so.
    """
    determinant = maps[..., 0, 0] * maps[..., 1, 1] - maps[..., 0, 1] * maps[..., 1, 0]  # (B, 2)
    is_mirrored = determinant < 0
    across = centering[..., ACROSS]
    return torch.stack([torch.where(is_mirrored, 2 * EVEN - across, across), centering[..., 1]], dim=2)


def grader_config(section: GradingTraining, shape: Sequence[int], grades: int) -> GraderConfig:
    """The network that a section asks for, for sides of a shape (C, H, W)."""
    channels, height, width = shape
    return GraderConfig(
        input_shape=(channels, height, width),
        grades=grades,
        filters=section.filters,
        depth=section.depth,
        units=section.units,
        dropout=section.dropout,
        shared_encoder=section.shared_encoder,
        lambda_fusion=section.lambda_fusion,
    )


def grader_of(folder: Path) -> CardGrader:
    """The network that a checkpoint's folder describes, without its weights."""
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    sequences = {key: tuple(content[key]) for key in ("input_shape", "filters")}
    config = GraderConfig(**content | sequences)
    channels = config.input_shape[0]
    return in_fast_layout(CardGrader(config, [0.0] * channels, [1.0] * channels))


def _laid_out(images: torch.Tensor | None) -> torch.Tensor | None:
    return None if images is None else in_channels_last(images)
