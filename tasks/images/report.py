"""What pages show of images and of their classifier; a kind that reads images may use parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.components.pictures import ClassPicture
from gauntlet.pages.charts import histogram
from gauntlet.pages.page import partial
from gauntlet.tasks.classification.report import *  # noqa: F403
from gauntlet.tasks.classification.report import class_counts

if TYPE_CHECKING:
    from gauntlet.tasks.images.data import Statistics

ROWS = "images"
TRY_IT = ("Score an image with the new champion.", "IMAGE.png")


def data(statistics: Statistics, pictures: Sequence[ClassPicture] = (), rows: str = ROWS) -> Markup:
    """The body of the section about a dataset of images; `rows` is what a row is."""
    pixels = statistics.pixels or {}
    edges = next((of_split.edges for of_split in pixels.values()), ())
    counts = {split: of_split.brightness for split, of_split in pixels.items()}
    return partial(
        "gauntlet.tasks.images:data.html.jinja",
        data=statistics,
        classes=class_counts(statistics),
        pictures=pictures,
        rows=rows,
        histogram=histogram("Brightness", "mean of the pixels", rows, edges, counts),
    )
