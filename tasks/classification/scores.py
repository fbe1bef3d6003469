"""The document `scores` of a classifier, a grader too, as its readers need it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as AnyScores

Figure = float | None
Interval = tuple[Figure, Figure]


class ClassScore(OfEvaluation):
    """One class on the test split."""

    label: str
    precision: Figure = None
    recall: Figure = None
    f1: Figure = None
    support: int | None = None


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
    """A model on the test split. `confusion[i][j]`: rows of class i that were predicted as j."""

    accuracy: Figure = None
    macro_f1: Figure = None
    weighted_f1: Figure = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    intervals: Mapping[str, Interval] = Field(default_factory=dict)
    lower_bounds: Mapping[str, Figure] = Field(default_factory=dict)
    grades: Graded | None = None
    version: str | int | None = None


class Paired(OfEvaluation):
    """Challenger minus champion on the same resampled rows; both bounds of macro-F1 are one-sided."""

    macro_f1_difference: Figure = None
    lower_bound: Figure = None
    upper_bound: Figure = None
    class_f1_difference: Mapping[str, Figure] = Field(default_factory=dict)
    class_f1_intervals: Mapping[str, Interval] = Field(default_factory=dict)
    qwk_difference: Figure = None
    qwk_lower_bound: Figure = None
    qwk_upper_bound: Figure = None


class Mistake(OfEvaluation):
    """A test row that the challenger got wrong: a text, or a picture in a data URI."""

    label: str
    predicted: str
    confidence: Figure = None
    text: str = ""
    picture: str = Field(default="", pattern=r"^(data:image/png;base64,[A-Za-z0-9+/=]+)?$")


class Scores(AnyScores):
    """The content of `scores`.

    The champion's figures and the paired ones are of the clean rows. If some rows are not clean,
    `challenger_on_clean_rows` has the challenger's figures on the clean rows.
    """

    challenger: Scored = Scored()
    champion: Scored | None = None
    paired: Paired | None = None
    challenger_on_clean_rows: Scored | None = None
    labels: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
