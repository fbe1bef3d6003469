"""The document `scores` of a language model, as its readers need it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as AnyScores


class Estimate(OfEvaluation):
    """A figure and its interval."""

    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)


class OtherModel(OfEvaluation):
    """A model that answered the same prompts, and by how much the challenger is better than it."""

    name: str = ""
    figures: Mapping[str, Estimate] = Field(default_factory=dict)
    gains: Mapping[str, Estimate] = Field(default_factory=dict)
    version: str | int | None = None


class Scores(AnyScores):
    """The content of `scores`. `not_measured` says of a metric why there is none."""

    challenger: Mapping[str, Estimate] = Field(default_factory=dict)
    baseline: OtherModel = OtherModel()
    champion: OtherModel | None = None
    not_measured: Mapping[str, str] = Field(default_factory=dict)
    tokens: int | None = None
