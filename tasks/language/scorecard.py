"""The scorecard of a language model: what evaluate-model found, as the gate and the reports read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model.overlap import Overlap, clean_rows, describe_overlap
from gauntlet.components.training_rows import NO_FINGERPRINTS, Flags
from gauntlet.manifests.kinds import known_metric
from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.metrics import (
    Floats,
    draws,
    figures,
    measure_rows,
)

FEWEST_COMPARED = 2
"""Conversations: from a single one, the spread between conversations cannot be estimated."""

TOO_FEW_LEFT = (
    "Too few are left to compare on: give the dataset a test split with conversations that the champion has "
    "not seen."
)


@dataclass(frozen=True)
class Figure:
    """A metric on all rows, its two-sided interval and its one-sided bounds."""

    value: float
    interval: tuple[float, float]
    lower_bound: float
    upper_bound: float


@dataclass(frozen=True)
class Contender:
    """A model by a name: the bundle's, the base model's, or the champion's version.

    `trained_on` says which prompts a champion was trained on, (N,), or why that is not known.
    """

    name: str
    answers: Answers
    version: str | None = None
    trained_on: Flags | str = NO_FINGERPRINTS


@dataclass(frozen=True)
class Compared:
    """Another model's figures, and by how much the tuned model is better (positive) in each.

    The champion's figures are of the clean prompts, which come from `conversations` conversations.
    """

    name: str
    figures: Mapping[str, Figure]
    gains: Mapping[str, Figure]
    version: str | None = None
    conversations: int | None = None


@dataclass(frozen=True)
class LanguageScorecard:
    """The whole evaluation. Without `champion`, none is registered or `champion_error` says why it failed.

    `therapy` is the judgement of the evaluators for conversations, if the manifest asks for it.
    `not_measured` says why a metric is missing, by its name. `tokens` are those of the references, if known.
    """

    rows: int
    conversations: int
    tokens: int | None
    confidence: float
    challenger: Mapping[str, Figure]
    baseline: Compared
    training_overlap: Overlap
    champion: Compared | None = None
    champion_error: str | None = None
    therapy: Mapping[str, Any] | None = None
    not_measured: Mapping[str, str] | None = None

    def as_json(self) -> dict[str, Any]:
        """The content as JSON types. What is absent has no key, instead of null."""
        return asdict(
            self, dict_factory=lambda items: {key: value for key, value in items if value is not None}
        )

    def headline(self) -> dict[str, float]:
        """The few figures that a run is listed and compared by."""
        ours = {name: figure.value for name, figure in self.challenger.items()}
        theirs = self.baseline.figures
        judged = {} if self.therapy is None else self.therapy["figures"]
        return (
            ours
            | {f"baseline_{name}": theirs[name].value for name in ("perplexity", "rouge_l") if name in theirs}
            | {name: figure["value"] for name, figure in judged.items() if "value" in figure}
        )


def assess(
    prompts: Prompts,
    tuned: Answers,
    baseline: Contender,
    champion: Contender | str | None,
    settings: LanguageEvaluation,
    seed: int,
    trained_on: Flags | str = NO_FINGERPRINTS,
) -> LanguageScorecard:
    """Score all models on the same resamples; for a champion that failed, `champion` says why.

    The champion is compared on the clean prompts. `trained_on` says which prompts the tuned model was trained
    on, (N,), or why that is not known.
    """
    weights = draws(prompts.conversations, settings.bootstrap_resamples, seed)
    ours = _drawn(prompts, tuned, weights)
    overlap = describe_overlap(len(prompts.ids), trained_on, None, rows="prompts")
    against: Compared | None = None
    if isinstance(champion, Contender):
        clean = clean_rows(len(prompts.ids), trained_on, champion.trained_on)
        overlap = describe_overlap(len(prompts.ids), trained_on, champion.trained_on, rows="prompts")
        conversations = len(set(np.array(prompts.conversations)[clean].tolist()))
        if conversations >= FEWEST_COMPARED:
            left = prompts.where(clean)
            drawn = draws(left.conversations, settings.bootstrap_resamples, seed)
            theirs = _drawn(left, champion.answers.where(clean), drawn)
            on_clean = ours if clean.all() else _drawn(left, tuned.where(clean), drawn)
            against = _compared(champion, theirs, on_clean, settings, conversations)
        else:
            champion = f"{overlap.summary} {TOO_FEW_LEFT}"
    return LanguageScorecard(
        rows=len(prompts.ids),
        conversations=len(set(prompts.conversations)),
        tokens=sum(len(row.target) for row in prompts.rows) if prompts.rows else None,
        confidence=settings.confidence,
        challenger=_summed(ours, settings),
        baseline=_compared(baseline, _drawn(prompts, baseline.answers, weights), ours, settings),
        training_overlap=overlap,
        champion=against,
        champion_error=champion if isinstance(champion, str) else None,
    )


def _compared(
    other: Contender,
    theirs: Mapping[str, Floats],
    ours: Mapping[str, Floats],
    settings: LanguageEvaluation,
    conversations: int | None = None,
) -> Compared:
    """Both models' figures of all rows and of each resample, paired."""
    gains = {
        name: theirs[name] - ours[name] if known_metric(name).better == "lower" else ours[name] - theirs[name]
        for name in ours
    }
    summed = _summed(theirs, settings), _summed(gains, settings)
    return Compared(other.name, *summed, other.version, conversations)


def _drawn(prompts: Prompts, answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Each figure of all rows, and then of each resample."""
    return figures(measure_rows(prompts, answers), np.vstack([np.ones(weights.shape[1]), weights]))


def _summed(drawn: Mapping[str, Floats], settings: LanguageEvaluation) -> dict[str, Figure]:
    confidence = settings.confidence
    return {
        name: Figure(
            float(drawn[name][0]),
            bootstrap.interval(drawn[name][1:], confidence),
            bootstrap.lower_bound(drawn[name][1:], confidence),
            bootstrap.upper_bound(drawn[name][1:], confidence),
        )
        for name in drawn
    }
