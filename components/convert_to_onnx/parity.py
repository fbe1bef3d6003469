"""How closely a converted model follows PyTorch: pure functions of scores.

N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from gauntlet.components.bootstrap import interval, resample, upper_bound
from gauntlet.components.convert_to_onnx.timing import Batch

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

RAGGED_BATCH_SIZES = (1, 3, 32)
RAGGED_ROWS = 96  # the most rows that are scored in random company at each of those sizes
SORTED_BATCH_SIZE = 32  # as Bundle.logits batches
WORST_ROWS = 5
RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class WorstRow:
    """A row on which the candidate is far from PyTorch; `row` counts the validation split from 0."""

    row: int
    max_abs_difference: float
    label: str
    pytorch: str
    candidate: str


@dataclass(frozen=True)
class Scores:
    """A model's logits of rows padded on the right (N, C), and of some of them padded on the left (M, C).

    With padding on the left a text's tokens have other positions, so these are compared among themselves.
    Images, which nothing pads, have none.
    """

    right: Logits
    left: Logits

    @property
    def rows_not_finite(self) -> int:
        """Rows with a NaN or an infinity, with the padding for which there are more of them."""
        return max(int((~np.isfinite(logits)).any(axis=1).sum()) for logits in (self.right, self.left))


@dataclass(frozen=True)
class Parity:
    """A candidate's scores against PyTorch's on the same rows.

    A student's graph is compared with the student, but for its macro-F1, which is with the teacher's.

    Attributes:
        rows: How many rows were compared.
        left_padded_rows: How many of them also with padding on the left.
        max_abs_difference: The largest difference of any logit of any row, padded on either side.
        disagreements: Rows for which another class is predicted.
        left_padded_disagreements: The same of those that were padded on the left.
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
        """Fraction of rows for which the same class is predicted; that of the worse padding."""
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
        """Macro-F1 lost by converting; negative where the candidate is better."""
        return self.pytorch_macro_f1 - self.macro_f1


def parity_batches(lengths: Sequence[int], seed: int) -> tuple[list[Indices], list[Indices]]:
    """Row indices of ragged batches, and of those that hold all other rows.

    At each of `RAGGED_BATCH_SIZES`, up to `RAGGED_ROWS` rows, or an even share where there are fewer, are
    scored in an order drawn from `seed`: lengths differ within a batch, so padding that leaks into a row's
    scores shows. The rest is batched by length, which costs least.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    share = min(RAGGED_ROWS, len(order) // len(RAGGED_BATCH_SIZES))
    ragged: list[Indices] = []
    for turn, size in enumerate(RAGGED_BATCH_SIZES):
        ragged += _chunks(order[turn * share : (turn + 1) * share], size)
    rest = order[len(RAGGED_BATCH_SIZES) * share :]
    by_length = rest[np.argsort(np.asarray(lengths)[rest], kind="stable")]
    return ragged, _chunks(by_length, SORTED_BATCH_SIZE)


def left_padded(batch: Batch) -> Batch:
    """The same rows (B, T) with their padding in front."""
    padding = (batch["attention_mask"] == 0).sum(axis=1)  # (B,)
    return {
        name: np.stack([np.roll(row, by) for row, by in zip(values, padding, strict=True)])
        for name, values in batch.items()
    }


def right_padded(batch: Batch, width: int) -> Batch:
    """The batch (B, T, …) with zeros on the right, up to a T of `width`."""
    return {
        name: np.pad(values, [(0, 0), (0, width - values.shape[1])] + [(0, 0)] * (values.ndim - 2))
        for name, values in batch.items()
    }


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
) -> Parity:
    """Compare finite scores of two models on rows whose true labels (N,) are indices into `labels`.

    Of a student's graph, `pytorch` is the student, and macro-F1 is lost against the `teacher`.
    """
    reference = (teacher or pytorch).right
    theirs, ours = pytorch.right.argmax(axis=1), candidate.right.argmax(axis=1)  # (N,)
    difference = np.abs(pytorch.right - candidate.right).max(axis=1)  # (N,)
    left_difference = float(np.abs(pytorch.left - candidate.left).max(initial=0.0))
    same = theirs == ours
    drops = _resampled_drops(truth, reference.argmax(axis=1), ours, len(labels), seed)
    return Parity(
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
    """What macro-F1 loses on each resample of the rows, (R,)."""
    pytorch, candidate = resample(truth, [theirs, ours], classes, RESAMPLES, seed)
    return pytorch.macro_f1 - candidate.macro_f1


def _chunks(rows: Indices, size: int) -> list[Indices]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
