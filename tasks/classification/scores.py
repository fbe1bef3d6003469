"""The document `scores` of a classifier: what evaluate-model found, as the gate and the reports read it.

Graders and models that give a row several labels write it too; a field that does not suit a kind is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as AnyScores

Figure = float | None
Interval = tuple[Figure, Figure]
NO_LABEL = "no label"


class ClassScore(OfEvaluation):
    """One class on the test split: a figure over no rows is 0.

    `support` is the rows that have it. If rows may have several labels, `predicted` is the rows that were
    given it, because its probability was at least `threshold`; the bounds are one-sided limits.
    """

    label: str
    precision: Figure = None
    recall: Figure = None
    f1: Figure = None
    support: int | None = None
    predicted: int | None = None
    threshold: Figure = None
    f1_lower_bound: Figure = None
    recall_lower_bound: Figure = None


class Graded(OfEvaluation):
    """The additional scores of a grader; the error of centering is in percentage points."""

    qwk: Figure = None
    mae: Figure = None
    within_one: Figure = None
    centering_error: Figure = None
    qwk_lower_bound: Figure = None
    mae_upper_bound: Figure = None
    intervals: Mapping[str, Interval] = Field(default_factory=dict)


class Scored(OfEvaluation):
    """A model on the test split: metrics with their two-sided `intervals` and one-sided `lower_bounds`.

    `accuracy` is the share of rows whose whole answer is right. `confusion[i][j]`: rows of class i that were
    predicted as j.
    """

    accuracy: Figure = None
    macro_f1: Figure = None
    micro_f1: Figure = None
    weighted_f1: Figure = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] | None = None
    intervals: Mapping[str, Interval] = Field(default_factory=dict)
    lower_bounds: Mapping[str, Figure] = Field(default_factory=dict)
    grades: Graded | None = None
    version: str | int | None = None


class Paired(OfEvaluation):
    """Challenger minus champion on the same resampled rows; bounds are one-sided, classes by label."""

    macro_f1_difference: Figure = None
    lower_bound: Figure = None
    upper_bound: Figure = None
    class_f1_difference: Mapping[str, Figure] = Field(default_factory=dict)
    class_f1_intervals: Mapping[str, Interval] = Field(default_factory=dict)
    qwk_difference: Figure = None
    qwk_lower_bound: Figure = None
    qwk_upper_bound: Figure = None


class Mistake(OfEvaluation):
    """A test row that the challenger got wrong: a text, or a picture in a data URI.

    `confidence` is the probability that it gave to its wrong answer.
    """

    label: str
    predicted: str
    confidence: Figure = None
    text: str | None = None
    picture: str | None = Field(default=None, pattern=r"^data:image/png;base64,[A-Za-z0-9+/=]+$")


class Scores(AnyScores):
    """The content of `scores`.

    The challenger is scored on all rows, the champion and the difference on the clean rows
    (`components.training_rows`). If some rows are not clean, `challenger_on_clean_rows` has the
    challenger's figures on those that are.
    """

    challenger: Scored = Scored()
    champion: Scored | None = None
    paired: Paired | None = None
    challenger_on_clean_rows: Scored | None = None
    labels: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    def headline(self) -> dict[str, float]:
        """The few figures that a run is listed and compared by."""
        ours, grades = self.challenger, self.challenger.grades
        found: dict[str, object] = {name: getattr(ours, name) for name in METRICS}
        found |= {f"{name}_lower_bound": bound for name, bound in ours.lower_bounds.items()}
        found |= dict(grades) if grades else {}
        if self.champion is not None and self.paired is not None:
            found["champion_macro_f1"] = self.champion.macro_f1
            found["macro_f1_difference"] = self.paired.macro_f1_difference
        return {name: figure for name, figure in found.items() if isinstance(figure, float)}


METRICS = ("accuracy", "macro_f1", "micro_f1", "weighted_f1")


def name_labels(labels: Sequence[str]) -> str:
    """Several labels of a row in words; a name with a comma is in quotes."""
    return ", ".join(f'"{label}"' if "," in label else label for label in labels) or NO_LABEL
