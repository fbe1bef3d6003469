"""What pages show of cards and of their grader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.components.pictures import ClassPicture
from gauntlet.tasks.classification.report import *  # noqa: F403
from gauntlet.tasks.images import report as of_images

if TYPE_CHECKING:
    from gauntlet.tasks.images.data import Statistics

ROWS = "cards"
TRY_IT = ("Grade a card with the new champion.", "FRONT.jpg BACK.jpg")


def data(statistics: Statistics, pictures: Sequence[ClassPicture] = ()) -> Markup:
    """The body of the section about a dataset of cards."""
    return of_images.data(statistics, pictures, ROWS)
