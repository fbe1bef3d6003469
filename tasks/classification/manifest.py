"""The manifest of a classifier: what kinds with one class per row have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.dataset import LabelledDataset
from gauntlet.manifests.gates import CommonEvaluation, CommonGates
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.section import Fraction
from gauntlet.manifests.training import EarlyStopping, OnePhaseTraining, Training

ClassWeightsWord = Literal["none", "balanced"]
_WEIGHTS_EXPECTED = "none, balanced, or a positive number for each label that is not to have 1"


def _class_weights(value: Any) -> Any:
    """Refuse a value that is neither a known word nor weights by label, with one message for both."""
    if isinstance(value, Mapping):
        weights = value.values()
        right = all(isinstance(label, str) for label in value) and all(
            isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
            for weight in weights
        )
    else:
        right = isinstance(value, str) and value in get_args(ClassWeightsWord)
    if not right:
        raise PydanticCustomError("class_weights", "{words}", {"words": _WEIGHTS_EXPECTED})
    return value


ClassWeights = Annotated[ClassWeightsWord | dict[str, float], BeforeValidator(_class_weights)]


class ClassEarlyStopping(EarlyStopping):
    """The metrics of a classifier."""

    metric: Literal["macro_f1", "weighted_f1", "accuracy", "loss"] = "macro_f1"


class ClassTraining(OnePhaseTraining):
    """A section for a classifier whose classes may be of different sizes.

    `class_weights` is the weight of a row in the training loss by its label: equal for all (`none`), in
    inverse proportion to the class's training rows (`balanced`), or a number per label, 1 for a label that is
    not named. `sampler: balanced` instead draws as many rows per epoch as there are, each class equally
    often, so some rows repeatedly. Validation figures are computed on the rows as they are.
    """

    class_weights: ClassWeights = "none"
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    early_stopping: ClassEarlyStopping = ClassEarlyStopping()

    takes_network: ClassVar[bool] = True
    takes_loss: ClassVar[bool] = True

    @field_validator("sampler")
    @classmethod
    def _balanced_once(cls, value: str, info: ValidationInfo) -> str:
        if value == "balanced" and info.data.get("class_weights") == "balanced":
            words = (
                "shuffle, because class_weights is balanced: both together would correct for the sizes twice"
            )
            raise PydanticCustomError("sampler", "{words}", {"words": words})
        return value


class Evaluation(CommonEvaluation):
    """The section for a classifier."""

    worst_mistakes: int = Field(20, ge=0)


class Gates(CommonGates):
    """The section for a classifier. `non_inferiority_margin` is of macro-F1.

    `max_validation_gap` bounds the macro-F1 of training on the validation split minus the upper confidence
    limit of the shipped model's on the test split; a larger gap means that the two are not prepared alike. If
    `max_class_f1_drop` is not set, it follows from the test rows of each class (`default_class_drop`).
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
        if unknown and self.dataset.labels:  # without them train-model compares those of the data
            raise ValueError(
                f"training.class_weights: found {', '.join(unknown)}, expected some of dataset.labels: "
                f"{', '.join(self.dataset.labels)}"
            )
        return self
