"""How good a classifier is on given rows: scikit-learn's metrics, and the mistakes it was surest of.

N = rows, C = classes, R = resamples, K = distinct outcomes. Labels and predictions are class indices, (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from gauntlet.components import bootstrap
from gauntlet.components.pictures import thumbnail
from gauntlet.serving.interface import Image, Rows

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
MISTAKE_CHARS = 300


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of one class; `support` is its rows. A figure over no rows is 0."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Figures:
    """A model's figures on one set of rows. `confusion` has true classes as rows, predicted as columns."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Mistake:
    """A row that the model got wrong; `confidence` is the probability it gave to its wrong answer.

    The row is shown by its `text`, or by its `picture`, a data URI.
    """

    label: str
    predicted: str
    confidence: float
    text: str | None = None
    picture: str | None = None


def measure(labels: Indices, predicted: Indices, classes: Sequence[str]) -> Figures:
    """Every figure of one model.

    Macro-F1 is the mean over all C classes: one that is in neither labels nor predictions counts as 0.
    """
    indices = list(range(len(classes)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=0
    )
    matrix = confusion_matrix(labels, predicted, labels=indices)
    return Figures(
        accuracy=float(accuracy_score(labels, predicted)),
        macro_f1=float(np.mean(f1)),
        weighted_f1=float(np.average(f1, weights=support)),
        per_class=tuple(
            ClassFigures(name, float(precision[c]), float(recall[c]), float(f1[c]), int(support[c]))
            for c, name in enumerate(classes)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
    )


@dataclass(frozen=True)
class Resamples:
    """A model's answers in R resamples: how often each outcome is drawn, (R, K), its label, its prediction.

    `support` and `chosen` are the rows of each class by label and by prediction, (R, C).
    """

    counts: Floats
    labels: Indices
    predicted: Indices
    support: Floats
    chosen: Floats


def resampled_metrics(drawn: Resamples) -> bootstrap.Metrics:
    """Accuracy, F1 of each class and its means. A class without rows has F1 0, as in `measure`."""
    right = np.eye(drawn.support.shape[1])[drawn.labels] * (drawn.labels == drawn.predicted)[:, None]
    hits, either = drawn.counts @ right, drawn.support + drawn.chosen
    class_f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    rows = drawn.counts.sum(axis=1)
    return {
        "accuracy": hits.sum(axis=1) / rows,
        "macro_f1": class_f1.mean(axis=1),
        "weighted_f1": (class_f1 * drawn.support).sum(axis=1) / rows,
        "class_f1": class_f1,
    }


def resample(
    labels: Indices,
    predictions: Sequence[Indices],
    class_count: int,
    resamples: int,
    seed: int,
    measure: Callable[[Resamples], bootstrap.Metrics] = resampled_metrics,
) -> tuple[bootstrap.Metrics, ...]:
    """Score every model of `predictions`, each (N,), on the same draws of N rows."""

    def of_models(counts: Floats, outcomes: Indices) -> list[bootstrap.Metrics]:
        truth, *answers = outcomes.T
        return [measure(resamples_of(counts, truth, predicted, class_count)) for predicted in answers]

    return bootstrap.resample(np.stack([labels, *predictions], axis=1), resamples, seed, of_models)


def resamples_of(counts: Floats, labels: Indices, predicted: Indices, class_count: int) -> Resamples:
    """The resamples where outcome k, (K,), counts `counts[r, k]` times in resample r."""
    one_hot = np.eye(class_count)
    return Resamples(counts, labels, predicted, counts @ one_hot[labels], counts @ one_hot[predicted])


def shown(row: str | Image) -> Mapping[str, str]:
    """What shows a row: its text, cut if it is long, or a thumbnail."""
    return {"text": _cut(row)} if isinstance(row, str) else {"picture": thumbnail(row)}


def worst_mistakes(
    rows: Rows,
    labels: Indices,
    probabilities: npt.NDArray[np.float32],
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
