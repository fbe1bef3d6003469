"""Converts classifiers: candidates are compared with PyTorch by logits, labels and macro-F1.

N = rows, C = classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from gauntlet.components.bootstrap import interval, upper_bound
from gauntlet.components.convert_to_onnx import scoring
from gauntlet.components.convert_to_onnx.candidates import Graph, Precision
from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    Logits,
    NeighbourEffect,
    Scores,
    measure_neighbours,
    onnx_forward,
    parity_batches,
    pytorch_forward,
    sample,
    score,
)
from gauntlet.components.convert_to_onnx.subject import Parity, TracedSubject
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.cpu import usable_cpus
from gauntlet.tasks.classification.metrics import resample
from gauntlet.trainer.saved_model import load_model

WORST_ROWS = 5
RESAMPLES = 2_000
CONFIDENCE = 0.95


class Rows(scoring.Rows, Protocol):
    """A split of labelled rows, as the inputs that serving makes of them."""

    @property
    def truth(self) -> Indices:
        """The true classes, (N,)."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes."""

    @property
    def lengths(self) -> Sequence[int]:
        """The length of each row, by which serving batches them."""

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """What tables show of a row, with its number."""


@dataclass(frozen=True)
class ClassifierSubject(TracedSubject):
    """A classifier and its rows. A kind says how they are read, and what its graph takes and gives."""

    @abstractmethod
    def read_rows(self, split: SplitName) -> Rows:
        """Read a split that validate-data wrote."""

    @cached_property
    def rows(self) -> Rows:
        """The validation split."""
        return self.read_rows("validation")

    @property
    def compared_rows(self) -> int:
        """All of them."""
        return len(self.rows)

    def batch(self, rows: Indices) -> Batch:
        """The model's inputs of some rows."""
        return self.rows.batch(rows)

    @property
    def calibration(self) -> Sequence[Batch]:
        """Some rows of the training split."""
        return sample(self.read_rows("train"), self.seed)

    @cached_property
    def pytorch_scores(self) -> Scores:
        """PyTorch's scores of all rows.

        Raises:
            GauntletError: They are not finite.
        """
        scores = self.scores(pytorch_forward(load_model(self.checkpoint)))
        if strange := scores.rows_not_finite:
            raise GauntletError(
                f"{self.checkpoint}: the PyTorch model itself gives scores that are not finite for {strange} "
                f"of {len(self.rows)} validation rows, so its training diverged. Lower "
                "training.learning_rate."
            )
        return scores

    def scores(self, forward: Forward) -> Scores:
        """A model's scores of all rows."""
        return score(self.rows, forward, len(self.rows.labels), *parity_batches(self.rows.lengths, self.seed))

    def reference(self, compared: Sequence[Parity]) -> dict[str, float]:  # noqa: ARG002
        """PyTorch's macro-F1."""
        return {"macro_f1": macro_f1(self.pytorch_scores.right, self.rows.truth)}

    def compare(self, graph: Graph) -> tuple[LabelParity, NeighbourEffect]:
        """Compare the graph's scores of all rows; see `subject.Subject`."""
        rows, (own, teacher) = self.rows, self.compared_with(graph)
        scores, neighbours = self._scored(graph.path)
        return compare(own, scores, rows.truth, rows.labels, self.seed, teacher), neighbours

    def measure(self, path: Path) -> tuple[Mapping[str, float], NeighbourEffect]:
        """Macro-F1 of a graph that was made elsewhere."""
        scores, neighbours = self._scored(path)
        return {"macro_f1": macro_f1(scores.right, self.rows.truth)}, neighbours

    def _scored(self, path: Path) -> tuple[Scores, NeighbourEffect]:
        forward = onnx_forward(path, usable_cpus(), self.section.device)
        scores = self.scores(forward)
        neighbours = measure_neighbours(self.rows, forward, self.seed)
        if strange := scores.rows_not_finite:
            raise ConversionError(f"gives scores that are not finite for {strange} of {len(self.rows)} rows")
        return scores, neighbours

    def compared_with(self, graph: Graph) -> tuple[Scores, Scores | None]:  # noqa: ARG002
        """PyTorch's scores that a graph is compared with, and its teacher's if it has one."""
        return self.pytorch_scores, None

    def worst_rows(self, parity: Parity) -> list[dict[str, Any]]:
        """The rows with another label, or the largest difference."""
        assert isinstance(parity, LabelParity)
        return [{**asdict(row), **self.rows.excerpt(row.row)} for row in parity.worst]


@dataclass(frozen=True)
class WorstRow:
    """A row on which the candidate is far from PyTorch; `row` counts the validation split from 0."""

    row: int
    max_abs_difference: float
    label: str
    pytorch: str
    candidate: str


@dataclass(frozen=True)
class LabelParity:
    """A candidate's scores against PyTorch's on the same rows.

    A student's graph is compared with the student; only its macro-F1 is compared with the teacher's.

    Attributes:
        rows: How many rows were compared.
        left_padded_rows: How many of them also with padding on the left.
        max_abs_difference: The largest difference of any logit of any row, padded on either side.
        disagreements: Rows for which another class is predicted.
        left_padded_disagreements: The same for those that were padded on the left.
        agreement_by_class: Of the rows that PyTorch gives a class, the fraction that the candidate gives it.
            A class that PyTorch never predicts is absent.
        pytorch_macro_f1: PyTorch's macro-F1 against the true labels.
        macro_f1: The candidate's.
        metric_drop_interval: Macro-F1 lost by converting: the middle 95 % of a paired bootstrap.
        metric_drop_bound: Its one-sided upper limit at 95 %.
        worst: The rows that differ most, those with another label first.
    """

    rows: int
    left_padded_rows: int
    max_abs_difference: float
    disagreements: int
    left_padded_disagreements: int
    agreement_by_class: Mapping[str, float]
    pytorch_macro_f1: float
    macro_f1: float
    metric_drop_interval: tuple[float, float]
    metric_drop_bound: float
    worst: tuple[WorstRow, ...]

    @property
    def label_agreement(self) -> float:
        """Fraction of rows for which the same class is predicted, with the worse padding."""
        right = (self.rows - self.disagreements) / self.rows
        if not self.left_padded_rows:
            return right
        return min(right, (self.left_padded_rows - self.left_padded_disagreements) / self.left_padded_rows)

    @property
    def quality(self) -> float:
        """The candidate's macro-F1."""
        return self.macro_f1

    @property
    def metric_drop(self) -> float:
        """Macro-F1 lost by converting; negative if the candidate is better."""
        return self.pytorch_macro_f1 - self.macro_f1

    @property
    def figures(self) -> dict[str, float]:
        """See `subject.Parity`."""
        return {
            "macro_f1": self.macro_f1,
            "metric_drop": self.metric_drop,
            "metric_drop_bound": self.metric_drop_bound,
            "label_agreement": self.label_agreement,
            "max_abs_difference": self.max_abs_difference,
        }

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """See `subject.Parity`."""
        return {"metric_drop_interval": self.metric_drop_interval}

    @property
    def evidence(self) -> dict[str, Any]:
        """See `subject.Parity`."""
        return {
            "pytorch_macro_f1": self.pytorch_macro_f1,
            "left_padded_rows": self.left_padded_rows,
            "agreement_by_class": dict(self.agreement_by_class),
            "worst_rows": [asdict(row) for row in self.worst],
        }

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        """Every bound that the candidate breaks, in words; None if it keeps them all.

        fp32 is held to its logits, where only rounding may differ. All others compute another function on
        purpose and are held to their labels. Macro-F1 is held to its largest plausible loss. NaN breaks a
        bound.
        """
        worst = self.worst[0]
        broken = []
        if precision == "fp32" and not self.max_abs_difference <= bounds.max_abs_logit_difference:
            broken.append(
                f"logits differ from PyTorch's by up to {self.max_abs_difference:.3g}, over "
                f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}; worst is row {worst.row}"
            )
        if precision != "fp32" and not self.label_agreement >= bounds.min_label_agreement:
            broken.append(
                f"{self.disagreements} of {self.rows} labels differ from PyTorch's, {self._of_left_padded()}"
                f"so agreement {self.label_agreement:.4f} is under min_label_agreement "
                f"{bounds.min_label_agreement:g}; worst is row {worst.row}, "
                f"{worst.candidate} for {worst.pytorch}"
            )
        if not self.metric_drop_bound <= bounds.max_metric_drop:
            broken.append(
                f"macro-F1 falls by {self.metric_drop:.4f} to {self.macro_f1:.4f}, and at 95 % confidence by "
                f"up to {self.metric_drop_bound:.4f}, over max_metric_drop {bounds.max_metric_drop:g}"
            )
        return "; ".join(broken) or None

    def _of_left_padded(self) -> str:
        if not self.left_padded_rows:
            return ""
        differ = f"{self.left_padded_disagreements} of {self.left_padded_rows}"
        return f"and {differ} with padding on the left, "


def macro_f1(logits: Logits, truth: Indices) -> float:
    """Macro-F1 of logits (N, C) against labels (N,). A class without rows or predictions counts 0."""
    classes = list(range(logits.shape[1]))
    return float(f1_score(truth, logits.argmax(axis=1), labels=classes, average="macro", zero_division=0))


def compare(
    pytorch: Scores,
    candidate: Scores,
    truth: Indices,
    labels: Sequence[str],
    seed: int,
    teacher: Scores | None = None,
) -> LabelParity:
    """Compare finite scores of two models on rows whose true labels (N,) are indices into `labels`.

    For a student's graph, `pytorch` is the student, and the loss of macro-F1 is measured against the
    `teacher`.
    """
    reference = (teacher or pytorch).right
    theirs, ours = pytorch.right.argmax(axis=1), candidate.right.argmax(axis=1)  # (N,)
    difference = np.abs(pytorch.right - candidate.right).max(axis=1)  # (N,)
    left_difference = float(np.abs(pytorch.left - candidate.left).max(initial=0.0))
    same = theirs == ours
    drops = _resampled_drops(truth, reference.argmax(axis=1), ours, len(labels), seed)
    return LabelParity(
        rows=len(truth),
        left_padded_rows=len(pytorch.left),
        max_abs_difference=max(float(difference.max()), left_difference),
        disagreements=int((~same).sum()),
        left_padded_disagreements=int((pytorch.left.argmax(axis=1) != candidate.left.argmax(axis=1)).sum()),
        agreement_by_class={
            label: float(same[theirs == at].mean()) for at, label in enumerate(labels) if (theirs == at).any()
        },
        pytorch_macro_f1=macro_f1(reference, truth),
        macro_f1=macro_f1(candidate.right, truth),
        metric_drop_interval=interval(drops, CONFIDENCE),
        metric_drop_bound=upper_bound(drops, CONFIDENCE),
        worst=tuple(
            WorstRow(
                row=int(row),
                max_abs_difference=float(difference[row]),
                label=labels[truth[row]],
                pytorch=labels[theirs[row]],
                candidate=labels[ours[row]],
            )
            for row in np.lexsort((-difference, same))[:WORST_ROWS]
        ),
    )


def _resampled_drops(
    truth: Indices, theirs: Indices, ours: Indices, classes: int, seed: int
) -> npt.NDArray[np.float64]:
    """The loss of macro-F1 on each resample of the rows, (R,)."""
    pytorch, candidate = resample(truth, [theirs, ours], classes, RESAMPLES, seed)
    return pytorch["macro_f1"] - candidate["macro_f1"]
