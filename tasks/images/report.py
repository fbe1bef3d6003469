"""What pages show of the statistics of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.components.pictures import ClassPicture
from gauntlet.pages.charts import histogram
from gauntlet.pages.page import partial

if TYPE_CHECKING:
    from gauntlet.tasks.images.data import Statistics


def images_section(statistics: Statistics, pictures: Sequence[ClassPicture], rows: str) -> Markup:
    """The body of the section about a dataset of images; `rows` is what a row is."""
    pixels = statistics.pixels or {}
    edges = next((of_split.edges for of_split in pixels.values()), ())
    counts = {split: of_split.brightness for split, of_split in pixels.items()}
    return partial(
        "gauntlet.tasks.images:data.html.jinja",
        data=statistics,
        pictures=pictures,
        rows=rows,
        histogram=histogram("Brightness", "mean of the pixels", rows, edges, counts),
    )
