"""The document `scores` of a language model, as evaluate-model writes it and the reports read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from gauntlet.contracts.scores import OfEvaluation
from gauntlet.contracts.scores import Scores as AnyScores


class Estimate(OfEvaluation):
    """A metric on all rows, its two-sided interval and its one-sided limits."""

    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    lower_bound: float | None = None
    upper_bound: float | None = None


class OtherModel(OfEvaluation):
    """A model that answered the same prompts. A gain over it is positive where the challenger is better.

    The champion's figures are of the clean prompts, which come from `conversations` conversations.
    """

    name: str = ""
    figures: Mapping[str, Estimate] = Field(default_factory=dict)
    gains: Mapping[str, Estimate] = Field(default_factory=dict)
    version: str | int | None = None
    conversations: int | None = None


class Scores(AnyScores):
    """The content of `scores`.

    Attributes:
        tokens: Of the references, if they are known.
        therapy: The judgement of the evaluators for conversations, if the manifest asks for it.
        not_measured: Why a metric is missing, by its name.
    """

    conversations: int | None = None
    tokens: int | None = None
    challenger: Mapping[str, Estimate] = Field(default_factory=dict)
    baseline: OtherModel = OtherModel()
    champion: OtherModel | None = None
    therapy: Mapping[str, Any] | None = None
    not_measured: Mapping[str, str] | None = None

    def headline(self) -> dict[str, float]:
        """The few figures that a run is listed and compared by."""
        theirs = self.baseline.figures
        found = {name: figure.value for name, figure in self.challenger.items()}
        found |= {
            f"baseline_{name}": theirs[name].value for name in ("perplexity", "rouge_l") if name in theirs
        }
        judged = self.therapy["figures"] if self.therapy else {}
        found |= {name: figure["value"] for name, figure in judged.items() if "value" in figure}
        return {name: value for name, value in found.items() if value is not None}
