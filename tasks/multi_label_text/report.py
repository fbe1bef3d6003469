"""What pages show of texts with several labels and of a model that gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.components.pictures import ClassPicture
from gauntlet.pages.page import partial
from gauntlet.tasks.classification.report import *  # noqa: F403
from gauntlet.tasks.classification.report import class_counts
from gauntlet.tasks.texts.report import described

if TYPE_CHECKING:
    from gauntlet.tasks.multi_label_text.data import Statistics

ROWS = "rows"
SHOWN_TOGETHER = 30
TRY_IT = ("Label a text with the new champion.", '"TEXT"')


def data(statistics: Statistics, pictures: Sequence[ClassPicture] = ()) -> Markup:  # noqa: ARG001
    """The body of the section about a dataset of texts with several labels."""
    most = sorted(statistics.labels, key=lambda label: -statistics.class_counts["train"].get(label, 0))
    shown = [label for label in statistics.labels if label in set(most[:SHOWN_TOGETHER])]
    numbers = sorted({number for of_split in statistics.labels_per_row.values() for number in of_split})
    together = partial(
        "gauntlet.tasks.multi_label_text:together.html.jinja", data=statistics, numbers=numbers, shown=shown
    )
    return described(statistics, class_counts(statistics)) + together
