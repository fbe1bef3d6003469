"""Image classification: a convolutional network on images that lie on the training device.

B = batch, N = rows of a split, C = channels, H = height, W = width, K = classes.
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
from torch.nn import functional

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.classification.class_weights import (
    balanced_chances,
    class_weights,
    on_device_of,
    row_weights,
)
from gauntlet.tasks.classification.training_metrics import (
    classification_metrics,
    confusion_counts,
    confusion_metrics,
)
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.images.augmentation import affine_maps, moved, moves
from gauntlet.tasks.images.networks import ImageClassifier, NetworkConfig, in_channels_last, in_fast_layout
from gauntlet.trainer.splits import ImageSplit, read_images, read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE, Batch

CONFIG_FILE = "config.json"


class ImageRows:
    """A split's images, copied to the device that first asks for them; a batch is their positions."""

    def __init__(self, split: ImageSplit) -> None:
        self.labels = split.labels
        self._images = torch.from_numpy(split.images)  # (N, C, H, W) uint8
        self._labels = torch.from_numpy(split.labels)

    def on_device_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) of positions (B,), where the positions are."""
        if self._images.device != rows.device:
            self._images, self._labels = self._images.to(rows.device), self._labels.to(rows.device)
        return self._images[rows], self._labels[rows]


class ImageClassification:
    """The task `image_classification` on the splits that validate-data wrote."""

    validation_batch_size = 512

    def __init__(self, section: ImageTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: The splits are not there, or the network has more blocks than their images allow.
        """
        train, validation = read_images(splits, "train"), read_images(splits, "validation")
        self._section = section
        self._train, self._validation = ImageRows(train), ImageRows(validation)
        statistics = read_statistics(splits)
        self._mean: list[float] = statistics["pixels"]["train"]["mean"]
        self._std: list[float] = statistics["pixels"]["train"]["std"]
        self._class_weights = class_weights(section, statistics["labels"], train.labels)
        self._config = network_config(section, train.images.shape[1:], len(statistics["labels"]))
        self._maps = np.empty(0, dtype=np.float32)
        self._seed_of_maps: tuple[int, int] | None = None

    @property
    def train_lengths(self) -> Sequence[int]:
        """All images are of one size."""
        return [1] * len(self._train.labels)

    @property
    def train_weights(self) -> Sequence[float]:
        """By `training.class_weights`; without them every row counts once."""
        return row_weights(self._class_weights, self._train.labels)

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """By `training.sampler`."""
        return balanced_chances(self._section, self._train.labels)

    @property
    def validation_lengths(self) -> Sequence[int]:
        """As `train_lengths`."""
        return [1] * len(self._validation.labels)

    @property
    def remarks(self) -> Sequence[str]:
        """Nothing."""
        return ()

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The shape of an image."""
        return {"input_shape": self._config.input_shape}

    def build_model(self) -> ImageClassifier:
        """The network, initialised from torch's global seed."""
        return in_fast_layout(ImageClassifier(self._config, self._mean, self._std))

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Positions (B,), and where images are augmented their affine maps (B, 2, 3)."""
        positions = torch.tensor(rows, dtype=torch.int64)
        if not moves(self._section.augmentation):
            return (positions,)
        if self._seed_of_maps != seed:
            shape = self._config.input_shape[1:]
            self._maps = affine_maps(self._section.augmentation, shape, len(self._train.labels), seed)
            self._seed_of_maps = seed
        return positions, torch.from_numpy(self._maps[rows])

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """Positions (B,): nothing is augmented."""
        return (torch.tensor(rows, dtype=torch.int64),)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy with label smoothing, weighed by class and summed over rows, and their confusion."""
        images, labels = self._train.on_device_of(batch[0])
        if len(batch) > 1:
            images = moved(images.float(), batch[1])
        logits = model(in_channels_last(images)).float()
        loss = functional.cross_entropy(
            logits,
            labels,
            weight=on_device_of(self._class_weights, logits),
            reduction="sum",
            label_smoothing=self._section.label_smoothing,
        )
        return loss, confusion_counts(logits, labels)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (B, K)."""
        images, _ = self._validation.on_device_of(batch[0])
        return cast(torch.Tensor, model(in_channels_last(images)))

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Accuracy, macro and weighted F1."""
        return confusion_metrics(tally)

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """Of logits (N, K)."""
        counts = confusion_counts(outputs, torch.from_numpy(self._validation.labels))
        return cast(list[list[int]], counts.view(outputs.shape[1], -1).tolist())

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Loss, accuracy, macro and weighted F1 of logits (N, K)."""
        return classification_metrics(outputs, self._validation.labels)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:  # noqa: ARG002
        """Write `model.safetensors` and the network's `config.json`."""
        save_file(dict(weights), folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self._config), indent=2), encoding="utf-8")


def network_config(section: ImageTraining, shape: Sequence[int], classes: int) -> NetworkConfig:
    """The network that a section asks for, for images of a shape (C, H, W).

    Raises:
        UsageError: It would halve them to less than a pixel.
    """
    channels, height, width = shape
    most = min(height, width).bit_length() - 1
    if len(section.filters) > most:
        raise UsageError(
            f"training.filters: found {len(section.filters)} blocks, expected at most {most} for images of "
            f"{height} × {width} pixels, as blocks halve them. Name fewer widths."
        )
    return NetworkConfig(
        arch=section.arch,
        input_shape=(channels, height, width),
        classes=classes,
        filters=section.filters,
        depth=section.depth,
        units=section.units,
        dropout=section.dropout,
        head_dropout=section.head_dropout,
    )


def classifier_of(folder: Path) -> ImageClassifier:
    """The network that a checkpoint's folder describes, without its weights."""
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    sequences = {key: tuple(content[key]) for key in ("input_shape", "filters")}
    config = NetworkConfig(**content | sequences)
    channels = config.input_shape[0]
    model = ImageClassifier(config, [0.0] * channels, [1.0] * channels)  # both are among the weights
    return in_fast_layout(model)
