"""Serves graders of cards: front and back in, a grade, the expected grade and the centering out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gauntlet.serving.interface import Field
from gauntlet.serving.scoring import Floats
from gauntlet.tasks.classification.serving import Classifier
from gauntlet.tasks.images.serving import FILES, open_inputs

__all__ = ["FILES", "open_inputs", "open_model"]
EXPECTED, FRONT, BACK = "expected", "centering of the front", "of the back"


class CardGrader(Classifier):
    """A grader of cards, each of two image files: front and back."""

    sides = ("front", "back")
    label_column = "grade"
    are_scans = True
    outputs_read = ("logits", "expected_grade", "centering")

    @property
    def fields(self) -> tuple[Field, ...]:
        """Those of a classifier, and the details."""
        return (*super().fields, *(Field(name, "BYTES") for name in (EXPECTED, FRONT, BACK)))

    def details(self, outputs: Sequence[Floats]) -> Mapping[str, Sequence[str]]:
        """The expected grade, and how the borders of both sides are centered."""
        _, expected, centering = outputs
        shares = [[f"{share:.0f}/{100 - share:.0f}" for share in of_card] for of_card in centering]
        return {
            EXPECTED: [f"{grade:.2f}" for grade in expected],
            FRONT: [", ".join(of_card[:2]) for of_card in shares],
            BACK: [", ".join(of_card[2:]) for of_card in shares],
        }


def open_model(folder: Path, sha256: str | None = None) -> CardGrader:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return CardGrader(folder, sha256=sha256)
