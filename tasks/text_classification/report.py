"""What pages show of texts and of their classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gauntlet.components.validate_data.report import validation_page
from gauntlet.components.write_report.artifacts import Statistics
from gauntlet.pages.charts import histogram
from gauntlet.pages.page import partial
from gauntlet.tasks.classification.report import (
    CANDIDATE_COLUMNS,
    SCORES,
    compare,
    evaluation,
    metrics,
    tiles,
)

if TYPE_CHECKING:
    from gauntlet.components.validate_data.inspection import Inspection
    from gauntlet.tasks.text_classification.statistics import TextStatistics

__all__ = [
    "CANDIDATE_COLUMNS",
    "SCORES",
    "STATISTICS",
    "TRY_IT",
    "compare",
    "data",
    "data_page",
    "evaluation",
    "metrics",
    "tiles",
]

STATISTICS = Statistics

TRY_IT = ("Score a text with the new champion.", '"TEXT"')


def data_page(statistics: TextStatistics, inspection: Inspection, rows_read: int) -> str:
    """The page of validate-data."""
    return validation_page(statistics, inspection, rows_read, data(statistics))


def data(statistics: Any) -> Markup:
    """The body of the section about the statistics of texts."""
    counts = {split: length.counts for split, length in statistics.text_length.items()}
    edges = next((length.edges for length in statistics.text_length.values()), ())
    chart = histogram("Text length", "characters", "texts", edges, counts)
    return partial("gauntlet.tasks.text_classification:data.html.jinja", data=statistics, histogram=chart)
