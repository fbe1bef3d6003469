"""Serves graders of cards: front and back in, a grade, the expected grade and the centering out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gauntlet.serving.interface import Image, InputError, Rows
from gauntlet.tasks.images.serving import FILES, ImageModel, open_inputs

__all__ = ["FILES", "open_inputs", "open_model"]


class CardGrader(ImageModel):
    """A grader of cards, each of two image files: front and back."""

    columns = ("front", "back")
    label_column = "grade"
    are_scans = True

    def read(self, given: Sequence[str]) -> list[Image]:
        """Front and back of each card, in turn; an `InputError` if one is missing or no image."""
        if len(given) % 2:
            raise InputError(
                f"{given[-1]}: found {len(given)} image files, expected front and back of each card, in turn."
            )
        sides = super().read(given)
        return [np.stack(pair) for pair in zip(sides[::2], sides[1::2], strict=True)]

    def details(self, rows: Rows) -> Mapping[str, Sequence[str]]:
        """The expected grade, and how the borders of both sides are centered."""
        expected, centering = self.outputs(rows, ("expected_grade", "centering"))
        shares = [[f"{share:.0f}/{100 - share:.0f}" for share in of_card] for of_card in centering]
        return {
            "expected": [f"{grade:.2f}" for grade in expected],
            "centering of the front": [", ".join(of_card[:2]) for of_card in shares],
            "of the back": [", ".join(of_card[2:]) for of_card in shares],
        }


def open_model(folder: Path, sha256: str | None = None) -> CardGrader:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return CardGrader(folder, sha256=sha256)
