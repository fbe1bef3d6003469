"""Evaluation by the task that a section is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gauntlet.manifests.evaluation import CommonEvaluation
from gauntlet.tasks.classification.evaluation import evaluate as evaluate_classifier
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.language.manifest import LanguageEvaluation


@dataclass(frozen=True)
class Evaluated:
    """What the step logs: figures by name and, of a classifier, its labels and its confusion matrix."""

    headline: Mapping[str, float]
    confusion: tuple[list[str], list[list[int]]] | None = None


def evaluate(settings: CommonEvaluation, **where: Any) -> Evaluated:
    """Score the bundle by its task; `where` is that of `run.evaluate` and `language.run.evaluate`."""
    if isinstance(settings, LanguageEvaluation):
        from gauntlet.tasks.language.evaluation import evaluate as evaluate_language_model

        return Evaluated(evaluate_language_model(settings, **where).headline())
    assert isinstance(settings, Evaluation)
    scorecard = evaluate_classifier(settings, **where)
    matrix = [list(row) for row in scorecard.challenger.confusion]
    return Evaluated(scorecard.headline(), (list(scorecard.labels), matrix))
