"""Training of an image classifier on images that are kept on the training device.

B = batch, N = rows of a split, C = channels, H = height, W = width, K = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.tasks.classification.training import WeightedClassifierTask, confusion_counts
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.images.augmentation import moved
from gauntlet.tasks.images.backbones import (
    BackboneClassifier,
    BackboneConfig,
    pretrained_model,
    untrained_backbone,
)
from gauntlet.tasks.images.data import Statistics
from gauntlet.tasks.images.networks import (
    ImageClassifier,
    NetworkConfig,
    NormalisedImages,
    in_channels_last,
    in_fast_layout,
    network_config,
)
from gauntlet.tasks.images.training import (
    AugmentationMaps,
    RowsOnDevice,
    read_config,
    save_network,
)
from gauntlet.trainer.own_network import own_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.splits import read_images
from gauntlet.trainer.task import Batch


class ImageClassification(WeightedClassifierTask):
    """The task on the splits that validate-data wrote."""

    validation_batch_size = 512

    def __init__(self, section: ImageTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: There are no splits, or the network has more blocks than their images allow.
        """
        train, validation = read_images(splits, "train"), read_images(splits, "validation")
        statistics = Statistics.read(splits / STATISTICS_FILE)
        super().__init__(section, statistics.labels, train.labels, validation.labels)
        self._train = RowsOnDevice(train.images, train.labels)
        self._validation = RowsOnDevice(validation.images)
        self._mean = list(statistics.pixels["train"].mean)
        self._std = list(statistics.pixels["train"].std)
        self._config = network_config(section, train.images.shape[1:], len(statistics.labels))
        self._backbone = section.backbone
        self._resize = statistics.resize
        self._maps = AugmentationMaps(section.augmentation, train.images.shape[2:], len(train.labels))

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The classes, and the sizes in the network's configuration."""
        return {**super().own_arguments, **asdict(self._config)}

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The shape of an image."""
        return {"input_shape": self._config.input_shape}

    def build_model(self) -> nn.Module:
        """The network, initialised from torch's global seed."""
        own = own_network(self._training, self.own_arguments)
        if own is not None:
            return NormalisedImages(own, self._mean, self._std)
        if self._backbone is not None:
            return in_fast_layout(pretrained_model(self._backbone, self._config))
        return in_fast_layout(ImageClassifier(self._config, self._mean, self._std))

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Positions (B,), and if images are augmented their affine maps (B, 2, 3)."""
        positions, maps = torch.tensor(rows, dtype=torch.int64), self._maps.at(rows, seed)
        return (positions,) if maps is None else (positions, maps[:, 0])

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """Positions (B,): nothing is augmented."""
        return (torch.tensor(rows, dtype=torch.int64),)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, and the confusion of the rows."""
        images, labels = self._train.at(batch[0])
        if len(batch) > 1:
            images = moved(images.float(), batch[1])
        logits = model(in_channels_last(images)).float()
        return self.loss_of(logits, labels), confusion_counts(logits, labels)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (B, K)."""
        (images,) = self._validation.at(batch[0])
        return cast(torch.Tensor, model(in_channels_last(images)))

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the network's `config.json`, and how images were resized."""
        config = model.config if isinstance(model, BackboneClassifier) else self._config
        save_network(config, model, weights, folder, self._resize)


def load_task(section: ImageTraining, splits: Path) -> ImageClassification:
    """The task that trains a section's model on splits."""
    return ImageClassification(section, splits)


def untrained_model(folder: Path, _classes: int, _attention: str) -> nn.Module:
    """The network that a checkpoint's folder describes, without its weights."""
    content, record = read_config(folder), read_record(folder)
    if "backbone" in content:
        return in_fast_layout(untrained_backbone(BackboneConfig(**content), record.network))
    config = NetworkConfig(**content)
    channels = config.input_shape[0]
    mean, std = [0.0] * channels, [1.0] * channels  # both are among the weights
    own = own_network(record)
    if own is not None:
        return NormalisedImages(own, mean, std)
    return in_fast_layout(ImageClassifier(config, mean, std))
