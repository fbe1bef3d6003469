"""The scorecard: what evaluate-model found, as the gate and the reports read it.

A pure function of labels and probabilities. Figures of a model alone are bootstrapped alone, so that they
do not depend on what it is compared with.

N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model.overlap import Overlap, clean_rows, describe_overlap
from gauntlet.components.training_rows import NO_FINGERPRINTS, Flags
from gauntlet.serving.interface import Rows
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import (
    Figures,
    GradeFigures,
    Indices,
    Mistake,
    measure,
    measure_grades,
    shown,
    worst_mistakes,
)
from gauntlet.tasks.ordinal_grading.metrics import mean_known_error

NOTHING_LEFT = (
    "No row is left to compare on: give the dataset a test split with rows that the champion has not seen."
)


@dataclass(frozen=True)
class GradeScores(GradeFigures):
    """Figures of grades with their doubt: two-sided `intervals`, and the one-sided limits that a gate reads.

    `centering_error` is the mean absolute error of the borders' shares in percentage points, where known.
    """

    intervals: Mapping[str, tuple[float, float]]
    qwk_lower_bound: float
    mae_upper_bound: float
    centering_error: float | None


@dataclass(frozen=True)
class ModelScores(Figures):
    """Figures with their doubt: two-sided `intervals` and one-sided `lower_bounds`, by figure.

    `grades` is of a grader alone.
    """

    intervals: Mapping[str, tuple[float, float]]
    lower_bounds: Mapping[str, float]
    grades: GradeScores | None


@dataclass(frozen=True)
class ChampionScores(ModelScores):
    """The champion's scores and its version in the registry."""

    version: str


@dataclass(frozen=True)
class Paired:
    """Challenger minus champion. Bounds are one-sided, class differences by label, QWK a grader's alone."""

    macro_f1_difference: float
    lower_bound: float
    upper_bound: float
    class_f1_difference: Mapping[str, float]
    class_f1_intervals: Mapping[str, tuple[float, float]]
    qwk_difference: float | None = None
    qwk_lower_bound: float | None = None
    qwk_upper_bound: float | None = None


@dataclass(frozen=True)
class OfGrader:
    """What the evaluation of a grader has beside its answers.

    Attributes:
        centering: Its answers, in percent, (N, 4).
        true_centering: (N, 4), NaN where it is not known.
        show: What shows a card among the mistakes.
    """

    centering: npt.NDArray[np.float32]
    true_centering: npt.NDArray[np.float32]
    show: Callable[[Any], Mapping[str, str]]


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
        """What `json.dumps` takes; what there is not is absent, never null."""
        return asdict(
            self, dict_factory=lambda items: {key: value for key, value in items if value is not None}
        )

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
        if challenger.grades is not None:
            own = {key: value for key, value in asdict(challenger.grades).items() if isinstance(value, float)}
            figures |= own
        if self.champion is not None and self.paired is not None:
            figures["champion_macro_f1"] = self.champion.macro_f1
            figures["macro_f1_difference"] = self.paired.macro_f1_difference
        return figures


def assess(
    rows: Rows,
    labels: Indices,
    probabilities: npt.NDArray[np.float32],
    classes: tuple[str, ...],
    champion: ChampionPredictions | ChampionFailure | None,
    settings: Evaluation,
    seed: int,
    of_grader: OfGrader | None = None,
    trained_on: Flags | str = NO_FINGERPRINTS,
) -> Scorecard:
    """Score the challenger's `probabilities`, (N, C), and compare it with the champion on the clean rows.

    `trained_on` says which rows the challenger was trained on, (N,), or why that is not known.
    """
    are_grades = of_grader is not None
    error = None if of_grader is None else mean_known_error(of_grader.centering, of_grader.true_centering)
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
            scores = _score(truth, theirs, classes, settings, seed, are_grades)
            champion_scores = ChampionScores(**vars(scores), version=champion.version)
            paired = _compare(truth, ours, theirs, classes, settings, seed, are_grades)
            if not clean.all():
                ours_on_clean = _score(truth, ours, classes, settings, seed, are_grades)
        else:
            champion = ChampionFailure(f"{overlap.summary} {NOTHING_LEFT}")
    return Scorecard(
        rows=len(labels),
        labels=classes,
        confidence=settings.confidence,
        challenger=_score(labels, predicted, classes, settings, seed, are_grades, error),
        mistakes=worst_mistakes(
            rows,
            labels,
            probabilities,
            classes,
            settings.worst_mistakes,
            shown if of_grader is None else of_grader.show,
            by_distance=are_grades,
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
    are_grades: bool,
    centering_error: float | None = None,
) -> ModelScores:
    (drawn,) = bootstrap.resample(labels, [predicted], len(classes), settings.bootstrap_resamples, seed)
    sampled = {"macro_f1": drawn.macro_f1, "accuracy": drawn.accuracy, "weighted_f1": drawn.weighted_f1}
    confidence = settings.confidence
    return ModelScores(
        **vars(measure(labels, predicted, classes)),
        intervals={figure: bootstrap.interval(values, confidence) for figure, values in sampled.items()},
        lower_bounds={
            figure: bootstrap.lower_bound(sampled[figure], confidence) for figure in ("macro_f1", "accuracy")
        },
        grades=GradeScores(
            **vars(measure_grades(labels, predicted, len(classes))),
            intervals={
                "qwk": bootstrap.interval(drawn.qwk, confidence),
                "mae": bootstrap.interval(drawn.mae, confidence),
            },
            qwk_lower_bound=bootstrap.lower_bound(drawn.qwk, confidence),
            mae_upper_bound=bootstrap.upper_bound(drawn.mae, confidence),
            centering_error=centering_error,
        )
        if are_grades
        else None,
    )


def _compare(
    labels: Indices,
    challenger: Indices,
    champion: Indices,
    classes: Sequence[str],
    settings: Evaluation,
    seed: int,
    are_grades: bool,
) -> Paired:
    ours, theirs = measure(labels, challenger, classes), measure(labels, champion, classes)
    drawn_ours, drawn_theirs = bootstrap.resample(
        labels, [challenger, champion], len(classes), settings.bootstrap_resamples, seed
    )
    macro_f1 = drawn_ours.macro_f1 - drawn_theirs.macro_f1
    class_f1 = drawn_ours.class_f1 - drawn_theirs.class_f1
    return Paired(
        macro_f1_difference=ours.macro_f1 - theirs.macro_f1,
        lower_bound=bootstrap.lower_bound(macro_f1, settings.confidence),
        upper_bound=bootstrap.upper_bound(macro_f1, settings.confidence),
        class_f1_difference={
            name: ours.per_class[c].f1 - theirs.per_class[c].f1 for c, name in enumerate(classes)
        },
        class_f1_intervals={
            name: bootstrap.interval(class_f1[:, c], settings.confidence) for c, name in enumerate(classes)
        },
        **(
            _compare_grades(
                labels, challenger, champion, drawn_ours.qwk - drawn_theirs.qwk, settings, classes
            )
            if are_grades
            else {}
        ),
    )


def _compare_grades(
    labels: Indices,
    challenger: Indices,
    champion: Indices,
    drawn: bootstrap.Floats,
    settings: Evaluation,
    classes: Sequence[str],
) -> dict[str, float]:
    ours, theirs = (measure_grades(labels, model, len(classes)).qwk for model in (challenger, champion))
    return {
        "qwk_difference": ours - theirs,
        "qwk_lower_bound": bootstrap.lower_bound(drawn, settings.confidence),
        "qwk_upper_bound": bootstrap.upper_bound(drawn, settings.confidence),
    }
