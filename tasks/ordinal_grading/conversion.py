"""Converts graders of cards: both sides in, logits and what else the network reads off a card out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gauntlet.components.convert_to_onnx.export import Signature, signature_of_images
from gauntlet.manifests.dataset import SplitName
from gauntlet.tasks.images.conversion import ImageRows, ImageSubject
from gauntlet.tasks.ordinal_grading.data import read_card_split
from gauntlet.tasks.ordinal_grading.manifest import SIDES
from gauntlet.tasks.ordinal_grading.network import Grading


@dataclass(frozen=True)
class GraderSubject(ImageSubject):
    """A grader of cards."""

    def read_rows(self, split: SplitName) -> ImageRows:
        """Read the cards of a split."""
        cards = read_card_split(self.splits, split)
        return ImageRows(cards.images, cards.labels, cards.rows, self.record.labels, SIDES)

    @property
    def span(self) -> float:
        """The range of the grades."""
        grades = [float(label) for label in self.record.labels]
        return max(grades) - min(grades)

    @property
    def signature(self) -> Signature:
        """Front and back in, the outputs of `Grading` out."""
        return replace(signature_of_images(self.record.input_shape, SIDES), outputs=Grading._fields)


open_subject = GraderSubject
