"""What pages show of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gauntlet.components.validate_data.report import validation_page
from gauntlet.pages.charts import histogram
from gauntlet.pages.page import partial

if TYPE_CHECKING:
    from gauntlet.components.validate_data.inspection import Inspection
    from gauntlet.tasks.images.pictures import Strip
    from gauntlet.tasks.images.statistics import ImageStatistics


def data_page(
    statistics: ImageStatistics,
    inspection: Inspection,
    rows_read: int,
    strips: Sequence[Strip],
    things: str = "images",
) -> str:
    """The page of validate-data, with rows of each class; `things` is what a row is."""
    described = data(statistics, strips, things)
    return validation_page(statistics, inspection, rows_read, described, things)


def data(statistics: Any, strips: Sequence[Strip] = (), things: str = "images") -> Markup:
    """The body of the section about the statistics of images."""
    counts = {split: pixels.brightness for split, pixels in statistics.pixels.items()}
    edges = next((pixels.edges for pixels in statistics.pixels.values()), ())
    chart = histogram("Brightness", "mean of the pixels", things, edges, counts)
    return partial(
        "gauntlet.tasks.images:data.html.jinja",
        data=statistics,
        strips=strips,
        things=things,
        histogram=chart,
    )
