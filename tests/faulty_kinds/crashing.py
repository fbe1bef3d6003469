"""A model that ends the process that loads it, as a fault in native code does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.classification.serving import Classifier

FILES = (MODEL_FILE, TOKENIZER_FILE)
open_inputs = TextInputs.of_bundle


def open_model(folder: Path, sha256: str | None = None) -> Classifier:
    """No model."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError
