"""What pages show of texts and of a model that labels them."""

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
    from gauntlet.tasks.texts.data import LabelledTextStatistics, TextStatistics

ROWS = "rows"
TRY_IT = ("Score a text with the new champion.", '"TEXT"')


def data(statistics: LabelledTextStatistics, pictures: Sequence[ClassPicture] = ()) -> Markup:  # noqa: ARG001
    """The body of the section about a dataset of texts with labels, of which there are no `pictures`."""
    return described(statistics, class_counts(statistics))


def described(statistics: TextStatistics, targets: Markup) -> Markup:
    """What is shown of any dataset of texts, beside what a kind shows of its targets."""
    lengths = {split: length for split, length in (statistics.text_length or {}).items() if length.counts}
    counts = {split: length.counts for split, length in lengths.items()}
    edges = next((length.edges for length in lengths.values()), ())
    chart = histogram("Text length", "characters", "texts", edges, counts)
    return partial("gauntlet.tasks.texts:data.html.jinja", data=statistics, targets=targets, histogram=chart)
