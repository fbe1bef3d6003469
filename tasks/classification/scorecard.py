"""What evaluate-model finds about a classifier: a pure function of labels and answers.

The figures of each model are resampled without the other model, so they do not depend on the champion.

N = rows, C = classes, S = sets of classes (`metrics`). Labels and answers are numbers of sets, (N,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.components.training_rows import NO_FINGERPRINTS, Flags, clean_rows, describe_overlap
from gauntlet.serving.interface import Rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import (
    Indices,
    Probabilities,
    Resamples,
    Sets,
    measure,
    resample,
    resampled_metrics,
    single_sets,
    worst_mistakes,
)
from gauntlet.tasks.classification.scores import Mistake, Paired, Scored, Scores

NOTHING_LEFT = (
    "No row is left to compare on: give the dataset a test split with rows that the champion has not seen."
)


@dataclass(frozen=True)
class Scoring:
    """How answers are scored: by default each row has one class. A kind may add metrics in a subclass.

    Attributes:
        classes: Their names.
        with_intervals: Metrics of `resampled` that get a confidence interval.
        with_bounds: Metrics that get a one-sided lower limit, for the gate.
    """

    classes: tuple[str, ...]

    with_intervals: ClassVar[Sequence[str]] = ("macro_f1", "accuracy", "weighted_f1")
    with_bounds: ClassVar[Sequence[str]] = ("macro_f1", "accuracy")

    @property
    def sets(self) -> Sets:
        """The classes of each set, (S, C)."""
        return single_sets(len(self.classes))

    def measure(self, labels: Indices, predicted: Indices) -> Scored:
        """The figures of one model."""
        return measure(labels, predicted, self.classes)

    def resampled(self, drawn: Resamples) -> bootstrap.Metrics:
        """The metrics of a model on each resample."""
        return resampled_metrics(drawn)

    def mistakes(
        self, rows: Rows, labels: Indices, probabilities: Probabilities, count: int
    ) -> tuple[Mistake, ...]:
        """At most `count` wrong rows, the surest first; `probabilities` is (N, C)."""
        return worst_mistakes(rows, labels, probabilities, self.classes, count)

    def of_challenger(self, scored: Scored) -> Scored:
        """The challenger's figures on all rows, with those that only a challenger has."""
        return scored

    def with_limits(self, scored: Scored, drawn: bootstrap.Metrics, confidence: float) -> Scored:
        """The figures with the limits that the resampled metrics give them."""
        return scored.model_copy(
            update={
                "intervals": {
                    name: bootstrap.interval(drawn[name], confidence) for name in self.with_intervals
                },
                "lower_bounds": {
                    name: bootstrap.lower_bound(drawn[name], confidence) for name in self.with_bounds
                },
            }
        )

    def difference(
        self,
        ours: Scored,
        theirs: Scored,
        drawn: tuple[bootstrap.Metrics, bootstrap.Metrics],
        confidence: float,
    ) -> Paired:
        """Challenger minus champion, of their figures and of their resampled metrics."""
        macro_f1, class_f1 = (drawn[0][name] - drawn[1][name] for name in ("macro_f1", "class_f1"))
        return Paired(
            macro_f1_difference=_minus(ours.macro_f1, theirs.macro_f1),
            lower_bound=bootstrap.lower_bound(macro_f1, confidence),
            upper_bound=bootstrap.upper_bound(macro_f1, confidence),
            class_f1_difference={
                one.label: _minus(one.f1, other.f1)
                for one, other in zip(ours.per_class, theirs.per_class, strict=True)
            },
            class_f1_intervals={
                name: bootstrap.interval(class_f1[:, c], confidence) for c, name in enumerate(self.classes)
            },
        )


@dataclass(frozen=True)
class ChampionPredictions:
    """What the champion answered on the same rows: numbers of sets, (N,), or the sets themselves, (N, C).

    `trained_on` says which rows it was trained on, (N,), or why that is not known.
    """

    version: str
    predicted: npt.NDArray[Any]
    trained_on: Flags | str = NO_FINGERPRINTS


@dataclass(frozen=True)
class ChampionFailure:
    """There is a champion, but it could not be compared: why, and what to do."""

    reason: str


def assess(
    labels: Indices,
    predicted: Indices,
    champion: ChampionPredictions | ChampionFailure | None,
    settings: Evaluation,
    seed: int,
    scoring: Scoring,
    trained_on: Flags | str = NO_FINGERPRINTS,
    mistakes: tuple[Mistake, ...] = (),
) -> Scores:
    """Score the challenger's answers, and compare it with the champion on the clean rows.

    `trained_on` says which rows the challenger was trained on, (N,), or why that is not known.
    """
    confidence = settings.confidence

    def drawn(labels: Indices, *models: Indices) -> tuple[bootstrap.Metrics, ...]:
        return resample(labels, models, scoring.sets, settings.bootstrap_resamples, seed, scoring.resampled)

    def scored(labels: Indices, predicted: Indices) -> Scored:
        (metrics,) = drawn(labels, predicted)
        return scoring.with_limits(scoring.measure(labels, predicted), metrics, confidence)

    theirs, paired, ours_on_clean = None, None, None
    overlap = describe_overlap(len(labels), trained_on, None)
    if isinstance(champion, ChampionPredictions):
        clean = clean_rows(len(labels), trained_on, champion.trained_on)
        rows = scoring.sets[labels]
        absent = rows.any(axis=0) & ~rows[clean].any(axis=0)
        without = [scoring.classes[c] for c in np.flatnonzero(absent)]
        overlap = describe_overlap(len(labels), trained_on, champion.trained_on, without)
        if clean.any():
            truth, ours, answers = labels[clean], predicted[clean], champion.predicted[clean]
            theirs = scored(truth, answers).model_copy(update={"version": champion.version})
            ours_drawn, theirs_drawn = drawn(truth, ours, answers)
            paired = scoring.difference(
                scoring.measure(truth, ours), theirs, (ours_drawn, theirs_drawn), confidence
            )
            if not clean.all():
                ours_on_clean = scored(truth, ours)
        else:
            champion = ChampionFailure(f"{overlap.summary} {NOTHING_LEFT}")
    return Scores(
        rows=len(labels),
        labels=scoring.classes,
        confidence=confidence,
        challenger=scoring.of_challenger(scored(labels, predicted)),
        mistakes=mistakes,
        training_overlap=overlap,
        challenger_on_clean_rows=ours_on_clean,
        champion=theirs,
        paired=paired,
        champion_error=champion.reason if isinstance(champion, ChampionFailure) else None,
    )


def _minus(ours: float | None, theirs: float | None) -> float:
    assert ours is not None
    assert theirs is not None
    return ours - theirs
