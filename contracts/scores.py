"""The part of evaluate-model's document `scores` that all task kinds share. A kind adds its own fields."""

from __future__ import annotations

from typing import ClassVar

from gauntlet.contracts.document import Document

NOT_MEASURED = "not_measured"
"""In place of a figure: why there is none, for what cannot be measured of a kind of model."""


class OfEvaluation(Document):
    """Base of the parts of `scores`: any field may be missing, since a report has to show the rest."""

    written_by: ClassVar[str] = "evaluate-model"
    omits_none: ClassVar[bool] = True


class TrainingOverlap(OfEvaluation):
    """Test rows that are training rows, or near-duplicates of one; None where a number is not known.

    Attributes:
        challenger, champion: How many are a training row of the model.
        clean_rows: On how many the models are compared: neither was trained on them, as far as that is known.
        summary: All of this in words.
        classes_without_clean_rows: Classes that have test rows, and none among the clean ones.
    """

    challenger: int | None = None
    champion: int | None = None
    clean_rows: int | None = None
    summary: str = ""
    classes_without_clean_rows: tuple[str, ...] = ()


class Scores(OfEvaluation):
    """The content of `scores`. `champion_error` says why a champion could not be compared."""

    rows: int | None = None
    confidence: float | None = None
    champion_error: str | None = None
    training_overlap: TrainingOverlap | None = None
