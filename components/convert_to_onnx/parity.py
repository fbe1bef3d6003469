"""How closely a converted model follows PyTorch: pure functions of scores.

N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

RAGGED_BATCH_SIZES = (1, 3, 32)
RAGGED_ROWS = 96  # the most rows that are scored in random company at each of those sizes
SORTED_BATCH_SIZE = 32  # as Bundle.logits batches
WORST_ROWS = 5


@dataclass(frozen=True)
class WorstRow:
    """A row on which the candidate is far from PyTorch; `row` counts the validation split from 0."""

    row: int
    max_abs_difference: float
    label: str
    pytorch: str
    candidate: str


@dataclass(frozen=True)
class Parity:
    """A candidate's scores against PyTorch's on the same rows.

    Attributes:
        rows: How many rows were compared.
        max_abs_difference: The largest difference of any logit of any row.
        disagreements: Rows for which another class is predicted.
        agreement_by_class: Of the rows that PyTorch gives a class, the fraction that the candidate gives it.
            A class that PyTorch never predicts is absent.
        pytorch_macro_f1: PyTorch's macro-F1 against the true labels.
        macro_f1: The candidate's.
        worst: The rows that differ most, those with another label first.
    """

    rows: int
    max_abs_difference: float
    disagreements: int
    agreement_by_class: Mapping[str, float]
    pytorch_macro_f1: float
    macro_f1: float
    worst: tuple[WorstRow, ...]

    @property
    def label_agreement(self) -> float:
        """Fraction of rows for which the same class is predicted."""
        return (self.rows - self.disagreements) / self.rows

    @property
    def metric_drop(self) -> float:
        """Macro-F1 lost by converting; negative where the candidate is better."""
        return self.pytorch_macro_f1 - self.macro_f1


def parity_batches(lengths: Sequence[int], seed: int) -> list[Indices]:
    """Row indices of each batch: every row once.

    At each of `RAGGED_BATCH_SIZES`, up to `RAGGED_ROWS` rows, or an even share where there are fewer, are
    scored in an order drawn from `seed`: lengths differ within a batch, so padding that leaks into a row's
    scores shows. The rest is batched by length, which costs least.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    share = min(RAGGED_ROWS, len(order) // len(RAGGED_BATCH_SIZES))
    batches: list[Indices] = []
    for turn, size in enumerate(RAGGED_BATCH_SIZES):
        batches += _chunks(order[turn * share : (turn + 1) * share], size)
    rest = order[len(RAGGED_BATCH_SIZES) * share :]
    by_length = rest[np.argsort(np.asarray(lengths)[rest], kind="stable")]
    return batches + _chunks(by_length, SORTED_BATCH_SIZE)


def rows_not_finite(logits: Logits) -> int:
    """Rows of (N, C) logits with a NaN or an infinity."""
    return int((~np.isfinite(logits)).any(axis=1).sum())


def macro_f1(logits: Logits, truth: Indices) -> float:
    """Macro-F1 of logits (N, C) against labels (N,). A class without rows or predictions counts 0."""
    classes = list(range(logits.shape[1]))
    return float(f1_score(truth, logits.argmax(axis=1), labels=classes, average="macro", zero_division=0))


def compare(pytorch: Logits, candidate: Logits, truth: Indices, labels: Sequence[str]) -> Parity:
    """Compare finite logits (N, C) of two models on rows whose true labels (N,) are indices into `labels`."""
    theirs, ours = pytorch.argmax(axis=1), candidate.argmax(axis=1)  # (N,)
    difference = np.abs(pytorch - candidate).max(axis=1)  # (N,)
    same = theirs == ours
    return Parity(
        rows=len(truth),
        max_abs_difference=float(difference.max()),
        disagreements=int((~same).sum()),
        agreement_by_class={
            label: float(same[theirs == at].mean()) for at, label in enumerate(labels) if (theirs == at).any()
        },
        pytorch_macro_f1=macro_f1(pytorch, truth),
        macro_f1=macro_f1(candidate, truth),
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


def _chunks(rows: Indices, size: int) -> list[Indices]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
