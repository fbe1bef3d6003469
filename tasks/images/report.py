"""What the report says of images."""

from __future__ import annotations

from collections.abc import Sequence

from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.components.validate_data.report import Histogram, class_shares
from gauntlet.components.validate_data.report import render as render_page
from gauntlet.tasks.images.pictures import Strip
from gauntlet.tasks.images.statistics import BRIGHTNESS_EDGES, ImageStatistics


def render(
    statistics: ImageStatistics,
    inspection: Inspection,
    rows_read: int,
    strips: Sequence[Strip],
    things: str = "images",
) -> str:
    """The page, with rows of each class and a histogram of their brightness; `things` is what a row is."""
    counts = {split: pixels.brightness for split, pixels in statistics.pixels.items()}
    return render_page(
        "images/report.html.jinja",
        statistics,
        inspection,
        rows_read,
        Histogram(things, BRIGHTNESS_EDGES, counts),
        class_shares(statistics),
        histogram_of="Histogram of brightness",
        strips=strips,
        things=things,
    )
