"""What pages show of cards and of the model that reads them."""

from gauntlet.components.write_report.artifacts import Statistics
from gauntlet.tasks.classification.report import (
    CANDIDATE_COLUMNS,
    SCORES,
    compare,
    evaluation,
    metrics,
    tiles,
)
from gauntlet.tasks.images.report import data

__all__ = [
    "CANDIDATE_COLUMNS",
    "SCORES",
    "STATISTICS",
    "TRY_IT",
    "compare",
    "data",
    "evaluation",
    "metrics",
    "tiles",
]

STATISTICS = Statistics

TRY_IT = ("Grade a card with the new champion.", "FRONT.jpg BACK.jpg")
