"""How good answers are on given rows: scikit-learn's metrics, and the mistakes a model was surest of.

The true label of a row, and an answer to it, is a set of classes: one class, or any number of them. Sets are
numbered, and `sets` says which classes each number stands for. If every row has one class, set k is class k
(`single_sets`).

N = rows, C = classes, S = sets, R = resamples, K = distinct outcomes. Labels and predictions are numbers of
sets, (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from gauntlet.components import bootstrap
from gauntlet.components.pictures import thumbnail
from gauntlet.serving.interface import Image, Rows
from gauntlet.tasks.classification.scores import ClassScore, Mistake, Scored

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]
Sets = npt.NDArray[np.bool_]
"""Which classes each set has, (S, C), or each row, (N, C)."""
MISTAKE_CHARS = 300


def single_sets(class_count: int) -> Sets:
    """The sets of one class each, (C, C)."""
    return np.eye(class_count, dtype=bool)


def number_sets(*of_rows: Sets) -> tuple[Sets, list[Indices]]:
    """The distinct sets (S, C) among several answers to rows, each (N, C), and the numbers of each answer.

    If each row always has one class, they are `single_sets`.
    """
    if all((rows.sum(axis=1) == 1).all() for rows in of_rows):
        return single_sets(of_rows[0].shape[1]), [rows.argmax(axis=1) for rows in of_rows]
    sets, numbers = np.unique(np.concatenate(of_rows), axis=0, return_inverse=True)
    return sets, [found.astype(np.int64) for found in np.split(numbers.reshape(-1), len(of_rows))]


def measure(labels: Indices, predicted: Indices, classes: Sequence[str]) -> Scored:
    """Every figure of a model whose rows have one class each.

    Macro-F1 is the mean over all C classes: one that is in neither labels nor predictions counts as 0.
    """
    indices = list(range(len(classes)))
    figures = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)
    _, _, f1, support = figures
    matrix = confusion_matrix(labels, predicted, labels=indices)
    return Scored(
        accuracy=float(accuracy_score(labels, predicted)),
        macro_f1=float(np.mean(f1)),
        weighted_f1=float(np.average(f1, weights=support)),
        per_class=class_scores(classes, figures),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
    )


def class_scores(classes: Sequence[str], figures: tuple[npt.NDArray[Any], ...]) -> tuple[ClassScore, ...]:
    """Each class's scores, of scikit-learn's precision, recall, F1 and support, each (C,)."""
    precision, recall, f1, support = figures
    return tuple(
        ClassScore(
            label=name,
            precision=float(precision[c]),
            recall=float(recall[c]),
            f1=float(f1[c]),
            support=int(support[c]),
        )
        for c, name in enumerate(classes)
    )


@dataclass(frozen=True)
class Resamples:
    """A model's answers in R resamples: how often each outcome is drawn, (R, K), its label, its prediction.

    `support` and `chosen` are the rows of each class by label and by prediction, (R, C); `hits` are those of
    both.
    """

    counts: Floats
    labels: Indices
    predicted: Indices
    support: Floats
    chosen: Floats
    hits: Floats


def resampled_metrics(drawn: Resamples) -> bootstrap.Metrics:
    """Accuracy, F1 and recall of each class and means of F1. A figure over no rows is 0, as in `measure`.

    Accuracy is the share of rows whose whole set is right.
    """
    right, either = drawn.labels == drawn.predicted, drawn.support + drawn.chosen
    class_f1, rows = _ratio(2 * drawn.hits, either), drawn.counts.sum(axis=1)
    return {
        "accuracy": drawn.counts @ right / rows,
        "macro_f1": class_f1.mean(axis=1),
        "micro_f1": _ratio(2 * drawn.hits.sum(axis=1), either.sum(axis=1)),
        "weighted_f1": _ratio((class_f1 * drawn.support).sum(axis=1), drawn.support.sum(axis=1)),
        "class_f1": class_f1,
        "class_recall": _ratio(drawn.hits, drawn.support),
    }


def _ratio(parts: Floats, wholes: Floats) -> Floats:
    return np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)


def resample(
    labels: Indices,
    predictions: Sequence[Indices],
    sets: Sets,
    resamples: int,
    seed: int,
    measure: Callable[[Resamples], bootstrap.Metrics] = resampled_metrics,
) -> tuple[bootstrap.Metrics, ...]:
    """Score every model of `predictions`, each (N,), on the same draws of N rows."""

    def of_models(counts: Floats, outcomes: Indices) -> list[bootstrap.Metrics]:
        truth, *answers = outcomes.T
        return [measure(resamples_of(counts, truth, predicted, sets)) for predicted in answers]

    return bootstrap.resample(np.stack([labels, *predictions], axis=1), resamples, seed, of_models)


def resamples_of(counts: Floats, labels: Indices, predicted: Indices, sets: Sets) -> Resamples:
    """The resamples where outcome k, (K,), counts `counts[r, k]` times in resample r."""
    true, chosen = sets[labels].astype(np.float64), sets[predicted].astype(np.float64)
    return Resamples(counts, labels, predicted, counts @ true, counts @ chosen, counts @ (true * chosen))


def shown(row: str | Image) -> Mapping[str, str]:
    """What shows a row: its text, cut if it is long, or a thumbnail."""
    return {"text": _cut(row)} if isinstance(row, str) else {"picture": thumbnail(row)}


def worst_mistakes(
    rows: Rows,
    labels: Indices,
    probabilities: Probabilities,
    classes: Sequence[str],
    count: int,
    show: Callable[[Any], Mapping[str, str]] = shown,
    by_distance: bool = False,
) -> tuple[Mistake, ...]:
    """At most `count` wrong rows, the surest first; `probabilities` is (N, C).

    By distance, those come first whose class is furthest from the true one in the classes' order.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    distance = np.abs(predicted - labels) * by_distance
    worst = wrong[np.lexsort((-confidence[wrong], -distance[wrong]))][:count]
    return tuple(
        Mistake(
            **show(rows[row]),
            label=classes[labels[row]],
            predicted=classes[predicted[row]],
            confidence=float(confidence[row]),
        )
        for row in worst
    )


def _cut(text: str) -> str:
    return text if len(text) <= MISTAKE_CHARS else text[: MISTAKE_CHARS - 1] + "…"
