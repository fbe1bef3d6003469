"""The evaluation as one self-contained HTML page: no script, no network, readable in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gauntlet.tasks.classification.scorecard import ModelScores, Scorecard

TEMPLATE = "report.html.jinja"
FIGURES = {"macro_f1": "Macro-F1", "weighted_f1": "Weighted F1", "accuracy": "Accuracy"}


@dataclass(frozen=True)
class Cell:
    """A count of a confusion matrix and its share of the true class's rows, which is its shade."""

    count: int
    share: float
    correct: bool


@dataclass(frozen=True)
class Matrix:
    """A shaded confusion matrix; `rows` are true classes."""

    title: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def render(scorecard: Scorecard, name: str) -> str:
    """The page for the model `name`. Texts of the data are escaped."""
    environment = Environment(
        loader=PackageLoader("gauntlet.components.evaluate_model", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    matrices = [_shade("Challenger", scorecard.challenger)]
    if scorecard.champion is not None:
        matrices.append(_shade(f"Champion, version {scorecard.champion.version}", scorecard.champion))
    context: dict[str, Any] = {
        "name": name,
        "scorecard": scorecard,
        "figures": FIGURES,
        "matrices": matrices,
    }
    return environment.get_template(TEMPLATE).render(context)


def _shade(title: str, scores: ModelScores) -> Matrix:
    rows = tuple(
        (
            figures.label,
            tuple(
                Cell(count, count / figures.support if figures.support else 0.0, correct=column == row)
                for column, count in enumerate(scores.confusion[row])
            ),
        )
        for row, figures in enumerate(scores.per_class)
    )
    return Matrix(title, rows)
