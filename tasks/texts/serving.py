"""Serves text classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE
from gauntlet.serving.interface import Rows
from gauntlet.serving.texts import TextInputs
from gauntlet.serving.verification import SMOKE_TEXTS
from gauntlet.tasks.classification.serving import Classifier

FILES = (MODEL_FILE, TOKENIZER_FILE)
open_inputs = TextInputs.of_bundle


class TextModel(Classifier):
    """A classifier of texts."""

    columns = ("text",)

    def read(self, given: Sequence[str]) -> Rows:
        """The texts themselves."""
        return given

    def smoke_rows(self) -> tuple[Rows, str]:
        """Two texts of different lengths."""
        return SMOKE_TEXTS, repr(SMOKE_TEXTS[1])


def open_model(folder: Path, sha256: str | None = None) -> TextModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return TextModel(folder, sha256=sha256)
