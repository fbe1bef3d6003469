"""Serves models that give texts any number of labels: those whose probability is at least their threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, Bundle, BundleError
from gauntlet.serving.interface import Answer, Request, Rows
from gauntlet.serving.texts import TextInputs
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet.tasks.multi_label_text.thresholds import (
    THRESHOLDS_FILE,
    Probabilities,
    read_thresholds,
    sigmoid,
)

FILES = (MODEL_FILE, TOKENIZER_FILE, THRESHOLDS_FILE)
open_inputs = TextInputs.of_bundle


class MultiLabelModel(Bundle):
    """A bundle with a threshold for each label."""

    def __init__(self, folder: str | Path, threads: int | None = None, sha256: str | None = None) -> None:
        """As of `Bundle`.

        Raises:
            BundleError: The bundle is incomplete or altered, or its thresholds are not of its labels.
        """
        super().__init__(folder, threads, sha256)
        self.thresholds = read_thresholds(self.folder, self.info.labels)

    def probabilities(self, rows: Rows, batch_size: int = 32) -> Probabilities:
        """The probability of each label, independent of the others', (N, C)."""
        return sigmoid(self.logits(rows, batch_size))

    def answer(self, request: Request) -> list[Answer]:
        """The labels of each text.

        Raises:
            InputError: The model cannot take one of them.
        """
        rows, cut = request.rows, set(self.cut(request.rows))
        note = f"cut at {self.info.max_length} tokens, as in training; the rest is not read"
        return [
            self._answer(text, found, note if at in cut else None)
            for at, (text, found) in enumerate(zip(rows, self.probabilities(rows), strict=True))
        ]

    def _answer(self, text: str, probabilities: Probabilities, note: str | None) -> Answer:
        by_label = dict(zip(self.info.labels, map(float, probabilities), strict=True))
        given = [self.info.labels[c] for c in np.flatnonzero(probabilities >= self.thresholds)]
        given.sort(key=lambda label: -by_label[label])
        cells = {
            "text": text,
            "labels": ", ".join(given) or "none",
            "probabilities": ", ".join(f"{by_label[label]:.3f}" for label in given),
        }
        thresholds = dict(zip(self.info.labels, map(float, self.thresholds), strict=True))
        content = {"text": text, "labels": given, "probabilities": by_label, "thresholds": thresholds}
        return Answer(cells, content, note)

    def prove(self, bound: float) -> str:
        """See `serving.interface.GraphModel`."""
        together = self.probabilities(SMOKE_TEXTS)
        alone = np.concatenate([self.probabilities([text]) for text in SMOKE_TEXTS])
        if not np.isfinite(together).all():
            raise BundleError(f"{self.folder}: a prediction is not finite")
        require_alike(together, alone, bound)
        answer = self._answer(SMOKE_TEXTS[1], together[1], None)
        return f"{SMOKE_TEXTS[1]!r} has the labels {answer.cells['labels']}"


def open_model(folder: Path, sha256: str | None = None) -> MultiLabelModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return MultiLabelModel(folder, sha256=sha256)
