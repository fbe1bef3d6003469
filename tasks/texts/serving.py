"""Serves text classifiers."""

from __future__ import annotations

from pathlib import Path

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.classification.serving import Classifier

FILES = (MODEL_FILE, TOKENIZER_FILE)
open_inputs = TextInputs.of_bundle


def open_model(folder: Path, sha256: str | None = None) -> Classifier:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return Classifier(folder, sha256=sha256)
