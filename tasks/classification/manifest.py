"""The manifest of a classifier: what every kind with one class per row has in common."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import LabelledDataset
from gauntlet.manifests.gates import CommonEvaluation, CommonGates
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.section import Fraction
from gauntlet.manifests.training import ClassTraining, Training


class Evaluation(CommonEvaluation):
    """The section for a classifier."""

    worst_mistakes: int = Field(20, ge=0)


class Gates(CommonGates):
    """The section for a classifier. `non_inferiority_margin` is of macro-F1.

    `max_validation_gap` is how far macro-F1 may fall from training's own validation to the upper confidence
    limit of the shipped file's on the test split: further, and they are not prepared alike.
    `max_class_f1_drop` follows from the test rows of each class where it is not set (`default_class_drop`).
    """

    min_macro_f1: Fraction
    min_accuracy: Fraction = 0.0
    max_validation_gap: Fraction = 0.05
    max_class_f1_drop: Fraction | None = None


class ClassManifest(Manifest):
    """The manifest of a classifier."""

    dataset: LabelledDataset
    training: Training
    evaluation: Evaluation = Evaluation()
    gates: Gates

    @model_validator(mode="after")
    def _known_classes(self) -> Self:
        weights = self.training.class_weights if isinstance(self.training, ClassTraining) else None
        named = weights if isinstance(weights, dict) else {}
        unknown = [label for label in named if label not in self.dataset.labels]
        if unknown:
            raise ValueError(
                f"training.class_weights: found {', '.join(unknown)}, expected some of dataset.labels: "
                f"{', '.join(self.dataset.labels)}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_generated(self) -> Self:
        if self.conversion.repetition_penalty != 1:
            raise ValueError("conversion.repetition_penalty is for language models: leave it out")
        return self
