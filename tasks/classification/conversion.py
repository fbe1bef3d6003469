"""Converts classifiers: candidates are compared with PyTorch by logits, labels and macro-F1.

A row's label is one class, or the set of classes that a kind's `decide` gives it. N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from gauntlet.components.bootstrap import interval, upper_bound
from gauntlet.components.convert_to_onnx import scoring
from gauntlet.components.convert_to_onnx.candidates import Graph, Precision
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    Logits,
    NeighbourEffect,
    Scores,
    likeliest,
    measure_neighbours,
    neighbour_effect,
    onnx_forward,
    parity_batches,
    score,
)
from gauntlet.components.convert_to_onnx.subject import HeldOut, Parity, ScoredSubject
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.interface import Part
from gauntlet.tasks.classification.metrics import Sets, number_sets, resample, single_sets
from gauntlet.tasks.classification.scores import name_labels

WORST_ROWS = 5
RESAMPLES = 2_000
CONFIDENCE = 0.95


AnyRows = TypeVar("AnyRows", bound="Rows")
Decide = Callable[[Logits], Sets]
"""Which classes logits (N, C) give each row, (N, C)."""


class Rows(scoring.SplitRows, Protocol):
    """A split of labelled rows, as the inputs that serving makes of them."""

    @property
    def truth(self) -> npt.NDArray[Any]:
        """The true class of each row, (N,), or which classes it has, (N, C)."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes."""

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """What tables show of a row, with its number."""

    def parts(self, row: int) -> Sequence[Part]:
        """The parts of a row, as a server is given them."""


@dataclass(frozen=True)
class ClassifierSubject(ScoredSubject[AnyRows, "ClassScores"]):
    """A classifier and its rows. A kind says how they are read, and what its graph takes and gives."""

    @property
    def truth(self) -> Sets:
        """The true classes of these rows, (N, C)."""
        return labels_of(self.rows.truth, len(self.rows.labels))

    def held_out(self, split: SplitName, most: int) -> HeldOut:
        """Rows and what the log should say of them: the class, or all classes in the order of the labels."""
        rows = self.read_rows(split)
        at = self.drawn(len(rows), most)
        truth = labels_of(rows.truth[at], len(rows.labels))
        names = [", ".join(rows.labels[c] for c in np.flatnonzero(of_row)) for of_row in truth]
        return HeldOut([rows.parts(row) for row in at], names, self.span)

    @property
    def span(self) -> float | None:
        """The difference of two labels that counts as a loss of 1; None if labels are no numbers."""
        return None

    def scores(self, forward: Forward) -> ClassScores:
        """A model's scores of all rows."""
        return score_classes(self.rows, forward, *parity_batches(self.rows.lengths, self.seed))

    def reference(self, compared: Sequence[Parity]) -> dict[str, float]:  # noqa: ARG002
        """PyTorch's macro-F1."""
        return {"macro_f1": macro_f1(self.pytorch_scores.labels, self.truth)}

    def compare(self, graph: Graph) -> tuple[LabelParity, NeighbourEffect]:
        """Compare the graph's scores of all rows; see `subject.Subject`."""
        rows, (own, teacher) = self.rows, self.compared_with(graph)
        scores, neighbours = self._scored(graph.path, own.decide)
        return compare(own, scores, rows.truth, rows.labels, self.seed, teacher), neighbours

    def measure(self, path: Path) -> tuple[Mapping[str, float], NeighbourEffect]:
        """Macro-F1 of a graph that was made elsewhere."""
        scores, neighbours = self._scored(path, self.decide_imported)
        return {"macro_f1": macro_f1(scores.labels, self.truth)}, neighbours

    @property
    def decide_imported(self) -> Decide:
        """How the classes of a row are found from the logits of a graph that was made elsewhere."""
        return likeliest_class

    def answer(self, decide: Decide) -> Callable[[Logits], tuple[Logits, Sets]]:
        """The probabilities and the classes that logits mean, both (N, C)."""
        return lambda logits: (likeliest(logits)[0], decide(logits))

    def _scored(self, path: Path, decide: Decide) -> tuple[ClassScores, NeighbourEffect]:
        forward = onnx_forward(path, usable_cpus(), self.section.device)
        scores = replace(self.finite_scores(forward), decide=decide)
        effect = partial(neighbour_effect, answer=self.answer(decide))
        return scores, measure_neighbours(self.rows, forward, self.seed, effect)

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


def likeliest_class(logits: Logits) -> Sets:
    """The class with the greatest logit of each row, (N, C)."""
    classes: Sets = single_sets(logits.shape[1])[logits.argmax(axis=1)]
    return classes


@dataclass(frozen=True)
class ClassScores(Scores):
    """Scores with `decide`, which says which classes logits give a row."""

    decide: Decide = likeliest_class

    @property
    def labels(self) -> Sets:
        """The classes that the rows are given, (N, C)."""
        return self.decide(self.right)


@dataclass(frozen=True)
class LabelParity:
    """A candidate's scores against PyTorch's on the same rows.

    A student's graph is compared with the student; only its macro-F1 is compared with the teacher's.

    Attributes:
        rows: How many rows were compared.
        left_padded_rows: How many of them also with padding on the left.
        max_abs_difference: The largest difference of any logit of any row, padded on either side.
        disagreements: Rows that get other classes than from PyTorch.
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
        """Fraction of rows that get the same classes, with the worse padding."""
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

        The bound of an fp32 candidate is on its logits, which differ by rounding only. Quantised candidates
        compute another function, so their bound is on their labels. The bound on macro-F1 is compared with
        the upper confidence limit of the loss. NaN breaks a bound.
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


def score_classes(
    rows: Rows, forward: Forward, ragged: Sequence[Indices], rest: Sequence[Indices]
) -> ClassScores:
    """`score` of rows, with a column for each label."""
    return ClassScores(**vars(score(rows, forward, len(rows.labels), ragged, rest)))


def labels_of(truth: npt.NDArray[Any], class_count: int) -> Sets:
    """The classes of each row, (N, C); `truth` is that already, or one class for each row, (N,)."""
    found: Sets = single_sets(class_count)[truth] if truth.ndim == 1 else truth.astype(bool)
    return found


def macro_f1(predicted: Sets, truth: Sets) -> float:
    """Macro-F1 of labels, both (N, C). A class without rows or predictions counts 0."""
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def compare(
    pytorch: ClassScores,
    candidate: ClassScores,
    truth: npt.NDArray[Any],
    labels: Sequence[str],
    seed: int,
    teacher: ClassScores | None = None,
) -> LabelParity:
    """Compare finite scores of two models on rows whose true labels, (N,) or (N, C), are of `labels`.

    For a student's graph, `pytorch` is the student, and the loss of macro-F1 is measured against the
    `teacher`.
    """
    truth, reference = labels_of(truth, len(labels)), (teacher or pytorch).labels
    theirs, ours = pytorch.labels, candidate.labels  # (N, C)
    difference = np.abs(pytorch.right - candidate.right).max(axis=1)  # (N,)
    left_difference = float(np.abs(pytorch.left - candidate.left).max(initial=0.0))
    same = (theirs == ours).all(axis=1)
    left_same = (pytorch.decide(pytorch.left) == candidate.decide(candidate.left)).all(axis=1)
    drops = _resampled_drops(truth, reference, ours, seed)
    return LabelParity(
        rows=len(truth),
        left_padded_rows=len(pytorch.left),
        max_abs_difference=max(float(difference.max()), left_difference),
        disagreements=int((~same).sum()),
        left_padded_disagreements=int((~left_same).sum()),
        agreement_by_class={
            label: float(ours[theirs[:, at], at].mean())
            for at, label in enumerate(labels)
            if theirs[:, at].any()
        },
        pytorch_macro_f1=macro_f1(reference, truth),
        macro_f1=macro_f1(ours, truth),
        metric_drop_interval=interval(drops, CONFIDENCE),
        metric_drop_bound=upper_bound(drops, CONFIDENCE),
        worst=tuple(
            WorstRow(
                row=int(row),
                max_abs_difference=float(difference[row]),
                **{
                    name: name_labels([label for label, has in zip(labels, given[row], strict=True) if has])
                    for name, given in (("label", truth), ("pytorch", theirs), ("candidate", ours))
                },
            )
            for row in np.lexsort((-difference, same))[:WORST_ROWS]
        ),
    )


def _resampled_drops(truth: Sets, theirs: Sets, ours: Sets, seed: int) -> npt.NDArray[np.float64]:
    """The loss of macro-F1 on each resample of the rows, (R,)."""
    sets, (true, *answers) = number_sets(truth, theirs, ours)
    pytorch, candidate = resample(true, answers, sets, RESAMPLES, seed)
    return pytorch["macro_f1"] - candidate["macro_f1"]
