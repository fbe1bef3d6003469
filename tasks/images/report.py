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
RESIZED = {
    "stretch": "stretched to the shape",
    "crop": "brought to the shape by one factor, and cut at the sides",
    "pad": "brought to the shape by one factor, and filled up with black",
}
LABELS_FROM = {
    "manifest": "those of the manifest",
    "folders": "the names of the folders",
    "table": "the values of the table's column",
}
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
        resized=RESIZED.get(statistics.resize or ""),
        labels_from=LABELS_FROM.get(statistics.labels_from or ""),
        histogram=histogram("Brightness", "mean of the pixels", rows, edges, counts),
    )
