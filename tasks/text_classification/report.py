"""What the report says of texts."""

from __future__ import annotations

from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.components.validate_data.report import Histogram, class_shares
from gauntlet.components.validate_data.report import render as render_page
from gauntlet.tasks.text_classification.statistics import LENGTH_EDGES, TextStatistics


def render(statistics: TextStatistics, inspection: Inspection, rows_read: int) -> str:
    """The page, with a histogram of the texts' lengths."""
    counts = {split: length.counts for split, length in statistics.text_length.items()}
    return render_page(
        "texts/report.html.jinja",
        statistics,
        inspection,
        rows_read,
        Histogram("texts", LENGTH_EDGES, counts),
        class_shares(statistics),
        histogram_of="Histogram of text lengths",
    )
