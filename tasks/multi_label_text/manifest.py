"""The manifest of the task kind `multi_label_text_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from gauntlet.manifests.dataset import RowCheck
from gauntlet.manifests.gates import CommonGates
from gauntlet.manifests.section import Fraction
from gauntlet.manifests.training import EarlyStopping
from gauntlet.tasks.classification.manifest import ClassWeights, Evaluation
from gauntlet.tasks.texts.manifest import (
    EncoderManifest,
    EncoderTraining,
    LabelledTextChecks,
    LabelledTextTable,
)


class MultiLabelChecks(LabelledTextChecks):
    """What is checked of texts with several labels. `repeated_labels`: a row names a label twice."""

    repeated_labels: RowCheck = RowCheck(severity="warn")


class MultiLabelDataset(LabelledTextTable):
    """Section of validate-data: texts, each with any number of labels.

    A row's labels are a list, as in JSON and parquet, or one value with `label_separator` between names or
    indices; or `columns.label` names one column of 0 and 1 for each label, in the order of `labels`. A row
    without a label is a missing value unless `allow_unlabelled`.
    """

    label_separator: Literal[",", "|", ";", "/", " "] = ","
    allow_unlabelled: bool = False
    checks: MultiLabelChecks = MultiLabelChecks()

    has_several_labels: ClassVar[bool] = True
    balancing: ClassVar[Mapping[str, str]] = {"training.positive_weights": "balanced"}

    @model_validator(mode="after")
    def _labels_can_be_separated(self) -> Self:
        if isinstance(self.columns.label, tuple):
            if len(self.columns.label) != len(self.labels):
                raise ValueError(
                    f"columns.label: found {len(self.columns.label)} columns, expected {len(self.labels)}: "
                    "one of 0 and 1 for each of labels, in their order"
                )
        elif joined := [label for label in self.labels if self.label_separator in label]:
            raise ValueError(
                f"labels: found {joined[0]!r}, which contains the label_separator {self.label_separator!r}. "
                "Set dataset.label_separator to a sign that no label contains"
            )
        return self


class MultiLabelEarlyStopping(EarlyStopping):
    """The metrics are of the validation rows, with the thresholds that are best on them."""

    metric: Literal["macro_f1", "micro_f1", "loss"] = "macro_f1"


class MultiLabelTraining(EncoderTraining):
    """Section of train-model: a pretrained encoder whose outputs are the labels' logits.

    The loss is binary cross-entropy, the mean over labels. `positive_weights` is what a row that has a label
    weighs in the loss of that label: 1 (`none`), the rows without it over those with it (`balanced`), or a
    number per label, 1 for a label that is not named. `label_smoothing` moves targets that far towards 1/2.
    """

    positive_weights: ClassWeights = "none"
    early_stopping: MultiLabelEarlyStopping = MultiLabelEarlyStopping()


class MultiLabelGates(CommonGates):
    """Section of gate-model. `non_inferiority_margin` is of macro-F1.

    `min_label_f1` and `min_label_recall` are for every label, or for those that are named. They hold for the
    lower confidence limit, as `min_macro_f1` and `min_micro_f1` do. The other keys are those of a classifier.
    """

    min_macro_f1: Fraction
    min_micro_f1: Fraction = 0.0
    min_label_f1: Fraction | dict[str, Fraction] = 0.0
    min_label_recall: Fraction | dict[str, Fraction] = 0.0
    max_validation_gap: Fraction = 0.05
    max_class_f1_drop: Fraction | None = None


class MultiLabelManifest(EncoderManifest):
    """The manifest of a model that gives a text any number of labels."""

    task: Literal["multi_label_text_classification"]
    dataset: MultiLabelDataset
    training: MultiLabelTraining = MultiLabelTraining()
    evaluation: Evaluation = Evaluation()
    gates: MultiLabelGates

    @model_validator(mode="after")
    def _known_labels(self) -> Self:
        by_label = {
            "training.positive_weights": self.training.positive_weights,
            "gates.min_label_f1": self.gates.min_label_f1,
            "gates.min_label_recall": self.gates.min_label_recall,
        }
        unknown = [
            f"{key}: found {', '.join(names)}"
            for key, value in by_label.items()
            if isinstance(value, dict)
            and (names := [label for label in value if label not in self.dataset.labels])
        ]
        if unknown:
            raise ValueError(
                f"{'; '.join(unknown)}, expected some of dataset.labels: {', '.join(self.dataset.labels)}"
            )
        return self
