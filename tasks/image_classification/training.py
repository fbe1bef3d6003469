"""Training of an image classifier on images that are kept on the training device.

B = batch, N = rows of a split, C = channels, H = height, W = width, K = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.tasks.classification.training import WeightedClassifierTask, confusion_counts
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.images.backbones import (
    BackboneClassifier,
    BackboneConfig,
    pretrained_model,
    untrained_backbone,
)
from gauntlet.tasks.images.data import Statistics
from gauntlet.tasks.images.networks import in_fast_layout
from gauntlet.tasks.images.training import ImageTask, read_config, save_network, untrained_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.splits import read_images
from gauntlet.trainer.task import Batch


class ImageClassification(ImageTask, WeightedClassifierTask):
    """The task on the splits that validate-data wrote."""

    validation_batch_size = 512

    def __init__(self, section: ImageTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: There are no splits, or the network has more blocks than their images allow.
        """
        train, validation = read_images(splits, "train"), read_images(splits, "validation")
        statistics = Statistics.read(splits / STATISTICS_FILE)
        WeightedClassifierTask.__init__(self, section, statistics.labels, train.labels, validation.labels)
        self.prepare(
            section,
            (train.images, train.labels),
            validation.images,
            statistics.pixels["train"],
            statistics.resize,
            len(statistics.labels),
        )
        self._backbone = section.backbone

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The classes, and the sizes in the network's configuration."""
        return {**super().own_arguments, **asdict(self._config)}

    def built_in_network(self) -> nn.Module:
        """The section's backbone, or a small network."""
        if self._backbone is not None:
            return pretrained_model(self._backbone, self._config)
        return super().built_in_network()

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, and the confusion of the rows."""
        outputs, labels = self.training_outputs(model, batch)
        logits = outputs.float()
        return self.loss_of(logits, labels), confusion_counts(logits, labels)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the network's `config.json`, and how images were resized."""
        config = model.config if isinstance(model, BackboneClassifier) else self._config
        save_network(config, model, weights, folder, self._resize)


def load_task(section: ImageTraining, splits: Path) -> ImageClassification:
    """The task that trains a section's model on splits."""
    return ImageClassification(section, splits)


def untrained_model(folder: Path, _classes: int, _attention: str) -> nn.Module:
    """The network that a checkpoint's folder describes, without its weights."""
    content = read_config(folder)
    if "backbone" in content:
        return in_fast_layout(untrained_backbone(BackboneConfig(**content), read_record(folder).network))
    return untrained_network(folder)
