"""The manifest of the task kind `text_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from gauntlet.tasks.classification.manifest import ClassEarlyStopping, ClassManifest, ClassTraining
from gauntlet.tasks.texts.manifest import EncoderManifest, EncoderTraining, LabelledTextTable


class TextDataset(LabelledTextTable):
    """Section of validate-data: texts, each with one label."""

    balancing: ClassVar[Mapping[str, str]] = {"training.class_weights": "balanced"}


class TextTraining(EncoderTraining, ClassTraining):
    """Section of train-model: a pretrained encoder and classes that may be of different sizes."""

    early_stopping: ClassEarlyStopping = ClassEarlyStopping()


class TextManifest(ClassManifest, EncoderManifest):
    """The manifest of a text classifier."""

    task: Literal["text_classification"]
    dataset: TextDataset
    training: TextTraining = TextTraining()
