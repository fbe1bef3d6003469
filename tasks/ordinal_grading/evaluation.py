"""evaluate-model for a grader: how far off its grades are, and where on a card it looks.

Covering a part of a card shows how much the grade depends on it (Zeiler & Fergus, 2013).
C = channels, H = height, W = width, S = sides; Y × X are the places that are covered one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.pictures import data_uri
from gauntlet.manifests.errors import GauntletError
from gauntlet.pages.formatting import minus
from gauntlet.serving.bundle import Bundle, BundleError
from gauntlet.serving.interface import Image, Rows
from gauntlet.tasks.classification import evaluation as classifiers
from gauntlet.tasks.classification.evaluation import HeldOutRows, registry_scores
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import Indices, Probabilities, Resamples, worst_mistakes
from gauntlet.tasks.classification.scorecard import Scoring
from gauntlet.tasks.classification.scores import Graded, Mistake, Paired, Scored
from gauntlet.tasks.ordinal_grading.data import read_card_split
from gauntlet.tasks.ordinal_grading.metrics import mean_known_error, measure_grades, resampled_grade_metrics

__all__ = ["evaluate", "registry_scores"]

PLACES = (16, 12)  # along the height and the width of a side
COVERED = 2  # places that one cover takes, along either
HEIGHT = 240  # pixels of the picture
LEAST_MOVE = 0.2  # of a grade: smaller moves are shown in proportion to it, so that nothing looks like much
STRONGEST = 0.65  # share that the tint has of a pixel where the grade moves most
RAISES, LOWERS = (255, 120, 0), (0, 110, 255)  # orange and blue


def occlusion_map(model: Bundle, card: Image) -> npt.NDArray[np.float32]:
    """How many grades the expected one rises if a part of a card (S, C, H, W) is covered, (S, Y, X).

    A part is covered by its side's mean colour. A rise means that the part cost the card points.
    """
    sides, _, height, width = card.shape
    rows, columns = (
        np.linspace(0, size, count + 1).astype(int)
        for size, count in zip((height, width), PLACES, strict=True)
    )
    covered = [card]
    for side in range(sides):
        colour = card[side].mean(axis=(1, 2)).astype(np.uint8)[:, None, None]
        for y in range(PLACES[0] - COVERED + 1):
            for x in range(PLACES[1] - COVERED + 1):
                changed = card.copy()
                changed[side, :, rows[y] : rows[y + COVERED], columns[x] : columns[x + COVERED]] = colour
                covered.append(changed)
    (expected,) = model.outputs(covered, ("expected_grade",))
    moves = (expected[1:] - expected[0]).reshape(sides, PLACES[0] - COVERED + 1, -1)
    # A place's move is the mean of those of all covers that it was under.
    total, covers = np.zeros((2, sides, *PLACES))
    for down in range(COVERED):
        for right in range(COVERED):
            window = (slice(None), slice(down, down + moves.shape[1]), slice(right, right + moves.shape[2]))
            total[window] += moves
            covers[window] += 1
    return np.asarray(total / covers, dtype=np.float32)


def occlusion_picture(model: Bundle, card: Image) -> str:
    """A PNG in a data URI of the sides: orange where covering raises the grade, blue where it lowers it."""
    moves = occlusion_map(model, card)
    strongest = max(LEAST_MOVE, float(np.abs(moves).max()))
    width = round(HEIGHT * card.shape[3] / card.shape[2])
    return data_uri(
        np.concatenate(
            [
                _tinted(side, of_side / strongest, (width, HEIGHT))
                for side, of_side in zip(card, moves, strict=True)
            ],
            axis=1,
        )
    )


def _tinted(side: Image, moves: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The side (C, H, W) as (height, width, 3), tinted by moves (Y, X) of -1 to 1."""
    picture = Pillow.fromarray(np.moveaxis(np.broadcast_to(side, (3, *side.shape[1:])), 0, 2).copy())
    pixels = np.asarray(picture.resize(size, Pillow.Resampling.BILINEAR), dtype=np.float32)
    smooth = np.asarray(Pillow.fromarray(moves).resize(size, Pillow.Resampling.BICUBIC)).clip(-1, 1)
    tint = np.where(smooth[..., None] > 0, RAISES, LOWERS)
    share = STRONGEST * np.abs(smooth)[..., None]
    return np.asarray(pixels * (1 - share) + tint * share).astype(np.uint8)


@dataclass(frozen=True)
class GradeScoring(Scoring):
    """Kappa and the mean error in grades too. `show` shows a card among the mistakes.

    `centering_error` is the challenger's mean absolute error in percentage points, if it is known.
    """

    show: Callable[[Any], Mapping[str, str]]
    centering_error: float | None = None

    def measure(self, labels: Indices, predicted: Indices) -> Scored:
        """With the grades' metrics."""
        grades = Graded(**asdict(measure_grades(labels, predicted, len(self.classes))))
        return super().measure(labels, predicted).model_copy(update={"grades": grades})

    def resampled(self, drawn: Resamples) -> bootstrap.Metrics:
        """Kappa and the mean error too."""
        return resampled_grade_metrics(drawn)

    def mistakes(
        self, rows: Rows, labels: Indices, probabilities: Probabilities, count: int
    ) -> tuple[Mistake, ...]:
        """Those whose grade is furthest from the true one come first."""
        return worst_mistakes(rows, labels, probabilities, self.classes, count, self.show, by_distance=True)

    def of_challenger(self, scored: Scored) -> Scored:
        """With the error of the centering."""
        return _with_grades(scored, centering_error=self.centering_error)

    def with_limits(self, scored: Scored, drawn: bootstrap.Metrics, confidence: float) -> Scored:
        """With the intervals of the grades' metrics, and the one-sided limits that the gate reads."""
        return _with_grades(
            super().with_limits(scored, drawn, confidence),
            intervals={name: bootstrap.interval(drawn[name], confidence) for name in ("qwk", "mae")},
            qwk_lower_bound=bootstrap.lower_bound(drawn["qwk"], confidence),
            mae_upper_bound=bootstrap.upper_bound(drawn["mae"], confidence),
        )

    def difference(
        self,
        ours: Scored,
        theirs: Scored,
        drawn: tuple[bootstrap.Metrics, bootstrap.Metrics],
        confidence: float,
    ) -> Paired:
        """With the difference in kappa."""
        assert ours.grades is not None
        assert theirs.grades is not None
        qwk = drawn[0]["qwk"] - drawn[1]["qwk"]
        return (
            super()
            .difference(ours, theirs, drawn, confidence)
            .model_copy(
                update={
                    "qwk_difference": minus(ours.grades.qwk, theirs.grades.qwk),
                    "qwk_lower_bound": bootstrap.lower_bound(qwk, confidence),
                    "qwk_upper_bound": bootstrap.upper_bound(qwk, confidence),
                }
            )
        )


def _with_grades(scored: Scored, **figures: Any) -> Scored:
    assert scored.grades is not None
    return scored.model_copy(update={"grades": scored.grades.model_copy(update=figures)})


def evaluate(run: EvaluationRun[Evaluation]) -> Evaluated:
    """As for every classifier, with the scores of a grader.

    Raises:
        DataError: The test split is empty or holds a label that the bundle does not know.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    cards = read_card_split(run.splits, "test")
    columns = {"row": cards.rows, "certificate": cards.certificates.tolist()}
    rows = HeldOutRows(cards.images, cards.labels, columns)
    try:
        model = Bundle(run.bundle)
    except BundleError as error:
        raise GauntletError(
            f"The converted model cannot be read: {error}. Run convert-to-onnx again."
        ) from None
    (centering,) = model.outputs(rows.inputs, ("centering",)) if len(cards.labels) else (cards.centering,)
    scoring = GradeScoring(
        model.info.labels,
        lambda card: {"picture": occlusion_picture(model, card)},
        mean_known_error(centering, cards.centering),
    )
    return classifiers.evaluate(run, rows, scoring)
