"""The scorecard: what evaluate-model found, as the gate and the reports read it.

A pure function of labels and probabilities. Figures of a model alone are bootstrapped alone, so that they
do not depend on what it is compared with.

N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model.overlap import Overlap, clean_rows, describe_overlap
from gauntlet.components.training_rows import NO_FINGERPRINTS, Flags
from gauntlet.serving.interface import Rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import (
    Figures,
    Indices,
    Mistake,
    Resamples,
    measure,
    resample,
    resampled_metrics,
    shown,
    worst_mistakes,
)

NOTHING_LEFT = (
    "No row is left to compare on: give the dataset a test split with rows that the champion has not seen."
)


@dataclass(frozen=True)
class ModelScores(Figures):
    """Metrics with their confidence limits: two-sided `intervals` and one-sided `lower_bounds`, by metric.

    `further` is what the kind adds.
    """

    intervals: Mapping[str, tuple[float, float]]
    lower_bounds: Mapping[str, float]
    further: Mapping[str, Any]


@dataclass(frozen=True)
class ChampionScores(ModelScores):
    """The champion's scores and its version in the registry."""

    version: str


@dataclass(frozen=True)
class Paired:
    """Challenger minus champion. Bounds are one-sided, classes by label. The kind adds `further`."""

    macro_f1_difference: float
    lower_bound: float
    upper_bound: float
    class_f1_difference: Mapping[str, float]
    class_f1_intervals: Mapping[str, tuple[float, float]]
    further: Mapping[str, Any]


class Scoring(Protocol):
    """What a kind adds to the scores of a classifier; N = rows."""

    @property
    def by_distance(self) -> bool:
        """Whether those mistakes are worst whose class is furthest from the true one in their order."""

    def resampled(self, drawn: Resamples) -> bootstrap.Metrics:
        """The metrics of a model on each resample, those of every classifier among them."""

    def of_model(
        self, labels: Indices, predicted: Indices, drawn: bootstrap.Metrics, confidence: float
    ) -> dict[str, Any]:
        """Further keys of a model's scores, from labels and predictions (N,), and metrics by `resampled`."""

    def of_challenger(self, further: Mapping[str, Any]) -> dict[str, Any]:
        """The same of the challenger on all rows."""

    def of_difference(
        self,
        labels: Indices,
        models: tuple[Indices, Indices],
        drawn: tuple[bootstrap.Metrics, bootstrap.Metrics],
        confidence: float,
    ) -> dict[str, Any]:
        """Further keys of the comparison of challenger and champion."""

    def show(self, row: Any) -> Mapping[str, str]:
        """What shows a row among the mistakes."""


@dataclass(frozen=True)
class ChampionPredictions:
    """What the champion answered on the same rows: class indices (N,) in the challenger's label order.

    `trained_on` says which rows it was trained on, (N,), or why that is not known.
    """

    version: str
    predicted: Indices
    trained_on: Flags | str = NO_FINGERPRINTS


@dataclass(frozen=True)
class ChampionFailure:
    """There is a champion, but it could not be compared: why, and what to do."""

    reason: str


@dataclass(frozen=True)
class Scorecard:
    """The whole evaluation. Without `champion`, none is registered or `champion_error` says why it failed.

    `challenger` is scored on all rows, `champion` and `paired` on the clean rows (`overlap.Overlap`). If some
    rows are not clean, `challenger_on_clean_rows` has the challenger's scores on the clean rows.
    """

    rows: int
    labels: tuple[str, ...]
    confidence: float
    challenger: ModelScores
    mistakes: tuple[Mistake, ...]
    training_overlap: Overlap
    challenger_on_clean_rows: ModelScores | None = None
    champion: ChampionScores | None = None
    paired: Paired | None = None
    champion_error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The content as JSON types. What is absent has no key, instead of null."""
        return asdict(self, dict_factory=_flat)

    def headline(self) -> dict[str, float]:
        """The few figures that a run is listed and compared by."""
        challenger = self.challenger
        figures = {
            "accuracy": challenger.accuracy,
            "macro_f1": challenger.macro_f1,
            "weighted_f1": challenger.weighted_f1,
            "macro_f1_lower_bound": challenger.lower_bounds["macro_f1"],
            "accuracy_lower_bound": challenger.lower_bounds["accuracy"],
        }
        figures |= {
            key: value
            for group in challenger.further.values()
            for key, value in group.items()
            if isinstance(value, float)
        }
        if self.champion is not None and self.paired is not None:
            figures["champion_macro_f1"] = self.champion.macro_f1
            figures["macro_f1_difference"] = self.paired.macro_f1_difference
        return figures


def _flat(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without what is absent; what the kind adds is among the other keys."""
    content: dict[str, Any] = {}
    for key, value in items:
        content |= value if key == "further" else {} if value is None else {key: value}
    return content


def assess(
    rows: Rows,
    labels: Indices,
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
    champion: ChampionPredictions | ChampionFailure | None,
    settings: Evaluation,
    seed: int,
    trained_on: Flags | str = NO_FINGERPRINTS,
    scoring: Scoring | None = None,
) -> Scorecard:
    """Score the challenger's `probabilities`, (N, C), and compare it with the champion on the clean rows.

    `trained_on` says which rows the challenger was trained on, (N,), or why that is not known.
    """
    predicted = probabilities.argmax(axis=1)
    champion_scores, paired, ours_on_clean = None, None, None
    overlap = describe_overlap(len(labels), trained_on, None)
    if isinstance(champion, ChampionPredictions):
        clean = clean_rows(len(labels), trained_on, champion.trained_on)
        absent = sorted(set(labels.tolist()) - set(labels[clean].tolist()))
        overlap = describe_overlap(
            len(labels), trained_on, champion.trained_on, [classes[label] for label in absent]
        )
        if clean.any():
            truth, ours, theirs = labels[clean], predicted[clean], champion.predicted[clean]
            scores = _score(truth, theirs, classes, settings, seed, scoring)
            champion_scores = ChampionScores(**vars(scores), version=champion.version)
            paired = _compare(truth, ours, theirs, classes, settings, seed, scoring)
            if not clean.all():
                ours_on_clean = _score(truth, ours, classes, settings, seed, scoring)
        else:
            champion = ChampionFailure(f"{overlap.summary} {NOTHING_LEFT}")
    challenger = _score(labels, predicted, classes, settings, seed, scoring)
    if scoring is not None:
        challenger = replace(challenger, further=scoring.of_challenger(challenger.further))
    return Scorecard(
        rows=len(labels),
        labels=classes,
        confidence=settings.confidence,
        challenger=challenger,
        mistakes=worst_mistakes(
            rows,
            labels,
            probabilities,
            classes,
            settings.worst_mistakes,
            shown if scoring is None else scoring.show,
            by_distance=scoring is not None and scoring.by_distance,
        ),
        training_overlap=overlap,
        challenger_on_clean_rows=ours_on_clean,
        champion=champion_scores,
        paired=paired,
        champion_error=champion.reason if isinstance(champion, ChampionFailure) else None,
    )


def _score(
    labels: Indices,
    predicted: Indices,
    classes: Sequence[str],
    settings: Evaluation,
    seed: int,
    scoring: Scoring | None,
) -> ModelScores:
    (drawn,) = _resample(labels, [predicted], classes, settings, seed, scoring)
    confidence = settings.confidence
    return ModelScores(
        **vars(measure(labels, predicted, classes)),
        intervals={
            name: bootstrap.interval(drawn[name], confidence)
            for name in ("macro_f1", "accuracy", "weighted_f1")
        },
        lower_bounds={
            name: bootstrap.lower_bound(drawn[name], confidence) for name in ("macro_f1", "accuracy")
        },
        further={} if scoring is None else scoring.of_model(labels, predicted, drawn, confidence),
    )


def _compare(
    labels: Indices,
    challenger: Indices,
    champion: Indices,
    classes: Sequence[str],
    settings: Evaluation,
    seed: int,
    scoring: Scoring | None,
) -> Paired:
    ours, theirs = measure(labels, challenger, classes), measure(labels, champion, classes)
    drawn_ours, drawn_theirs = _resample(labels, [challenger, champion], classes, settings, seed, scoring)
    macro_f1 = drawn_ours["macro_f1"] - drawn_theirs["macro_f1"]
    class_f1 = drawn_ours["class_f1"] - drawn_theirs["class_f1"]
    confidence = settings.confidence
    return Paired(
        macro_f1_difference=ours.macro_f1 - theirs.macro_f1,
        lower_bound=bootstrap.lower_bound(macro_f1, confidence),
        upper_bound=bootstrap.upper_bound(macro_f1, confidence),
        class_f1_difference={
            name: ours.per_class[c].f1 - theirs.per_class[c].f1 for c, name in enumerate(classes)
        },
        class_f1_intervals={
            name: bootstrap.interval(class_f1[:, c], confidence) for c, name in enumerate(classes)
        },
        further={}
        if scoring is None
        else scoring.of_difference(labels, (challenger, champion), (drawn_ours, drawn_theirs), confidence),
    )


def _resample(
    labels: Indices,
    models: Sequence[Indices],
    classes: Sequence[str],
    settings: Evaluation,
    seed: int,
    scoring: Scoring | None,
) -> tuple[bootstrap.Metrics, ...]:
    measured = resampled_metrics if scoring is None else scoring.resampled
    return resample(labels, models, len(classes), settings.bootstrap_resamples, seed, measured)
