"""What evaluate-model left, as data: `artifacts` has the other steps'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from gauntlet.components.write_report.artifacts import Figure, Interval


@dataclass(frozen=True)
class ClassScore:
    """One class on the test split."""

    label: str
    precision: Figure = None
    recall: Figure = None
    f1: Figure = None
    support: int | None = None


@dataclass(frozen=True)
class Graded:
    """What a grader's scores have beside a classifier's; the error of centering is in percentage points."""

    qwk: Figure = None
    mae: Figure = None
    within_one: Figure = None
    centering_error: Figure = None
    qwk_lower_bound: Figure = None
    mae_upper_bound: Figure = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A model on the test split. `confusion[i][j]`: rows of class i that were predicted as j."""

    accuracy: Figure = None
    macro_f1: Figure = None
    weighted_f1: Figure = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    lower_bounds: Mapping[str, Figure] = field(default_factory=dict)
    grades: Graded | None = None
    version: str | int | None = None


@dataclass(frozen=True)
class Paired:
    """Challenger minus champion on the same resampled rows; both bounds of macro-F1 are one-sided."""

    macro_f1_difference: Figure = None
    lower_bound: Figure = None
    upper_bound: Figure = None
    class_f1_difference: Mapping[str, Figure] = field(default_factory=dict)
    class_f1_intervals: Mapping[str, Interval] = field(default_factory=dict)
    qwk_difference: Figure = None
    qwk_lower_bound: Figure = None
    qwk_upper_bound: Figure = None


@dataclass(frozen=True)
class Mistake:
    """A test row that the challenger got wrong: a text, or a picture in a data URI."""

    label: str
    predicted: str
    confidence: Figure = None
    text: str = ""
    picture: Annotated[str, Field(pattern=r"^(data:image/png;base64,[A-Za-z0-9+/=]+)?$")] = ""


@dataclass(frozen=True)
class TrainingOverlap:
    """How many test rows the models were trained on, and how many clean ones were compared."""

    challenger: int | None = None
    champion: int | None = None
    clean_rows: int | None = None
    summary: str = ""


@dataclass(frozen=True)
class Scores:
    """The content of `scores`; `champion_error` says why a champion could not be compared.

    The champion's figures and the paired ones are of the clean rows. If some rows are not clean,
    `challenger_on_clean_rows` has the challenger's figures on the clean rows.
    """

    challenger: Scored
    champion: Scored | None = None
    champion_error: str | None = None
    paired: Paired | None = None
    training_overlap: TrainingOverlap | None = None
    challenger_on_clean_rows: Scored | None = None
    rows: int | None = None
    labels: tuple[str, ...] = ()
    confidence: Figure = None
    mistakes: tuple[Mistake, ...] = ()


@dataclass(frozen=True)
class Doubted:
    """A figure and its interval."""

    value: Figure = None
    interval: Interval = (None, None)


@dataclass(frozen=True)
class OtherModel:
    """A model that answered the same prompts, and by how much the challenger is better than it."""

    name: str = ""
    figures: Mapping[str, Doubted] = field(default_factory=dict)
    gains: Mapping[str, Doubted] = field(default_factory=dict)
    version: str | int | None = None


@dataclass(frozen=True)
class LanguageScores:
    """The content of `scores` for a language model."""

    challenger: Mapping[str, Doubted]
    baseline: OtherModel
    champion: OtherModel | None = None
    champion_error: str | None = None
    not_measured: Mapping[str, str] = field(default_factory=dict)
    training_overlap: TrainingOverlap | None = None
    rows: int | None = None
    tokens: int | None = None
    confidence: Figure = None
