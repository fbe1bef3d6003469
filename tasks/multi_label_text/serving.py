"""Serves models that give texts any number of labels: those whose probability is at least their threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE
from gauntlet.serving.interface import Answer, Field, Row
from gauntlet.serving.scoring import Floats, ScoringModel
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.multi_label_text.thresholds import THRESHOLDS_FILE, read_thresholds, sigmoid

FILES = (MODEL_FILE, TOKENIZER_FILE, THRESHOLDS_FILE)
open_inputs = TextInputs.of_bundle


class MultiLabelModel(ScoringModel):
    """A bundle with a threshold for each label."""

    def __init__(self, folder: str | Path, threads: int | None = None, sha256: str | None = None) -> None:
        """As of `Bundle`.

        Raises:
            BundleError: The bundle is incomplete or altered, or its thresholds are not of its labels.
        """
        super().__init__(folder, threads, sha256)
        self.thresholds = read_thresholds(self.folder, self.info.labels)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The labels as a JSON list, and the probabilities in the order of the bundle's labels."""
        return Field("labels", "BYTES"), Field("probabilities", "FP32", (len(self.info.labels),))

    def scores(self, logits: Floats) -> Floats:
        """The probability of each label, independent of the others', (N, C)."""
        return sigmoid(logits)

    def answers(self, rows: Sequence[Row], outputs: Sequence[Floats]) -> list[Answer]:
        """The labels of each text."""
        found = zip(rows, self.scores(outputs[0]), outputs[0], strict=True)
        return [self._answer(row, probabilities, logits) for row, probabilities, logits in found]

    def _answer(self, row: Row, probabilities: Floats, logits: Floats) -> Answer:
        by_label = dict(zip(self.info.labels, map(float, probabilities), strict=True))
        given = [self.info.labels[c] for c in np.flatnonzero(probabilities >= self.thresholds)]
        given.sort(key=lambda label: -by_label[label])
        cells = {
            "labels": ", ".join(given) or "none",
            "probabilities": ", ".join(f"{by_label[label]:.3f}" for label in given),
        }
        thresholds = dict(zip(self.info.labels, map(float, self.thresholds), strict=True))
        content = {"labels": given, "probabilities": by_label, "thresholds": thresholds}
        return Answer({**row.given, **cells}, {**row.given, **content}, self.note(row), logits)

    def logged(self, answer: Answer) -> Mapping[str, Any]:
        """The labels, and how sure each is; see `interface.LoggedModel`.

        The confidence is that of the least sure label, given or not; the entropy is the sum over the labels;
        the energy is the joint energy of https://arxiv.org/abs/2109.14162.
        """
        probabilities = np.array(list(answer.content["probabilities"].values()))
        both = np.stack([probabilities, 1 - probabilities])
        likely = both[both > 0]
        return {
            "predicted": ", ".join(name for name in self.info.labels if name in answer.content["labels"]),
            "confidence": float(both.max(axis=0).min()),
            "entropy": float(-(likely * np.log(likely)).sum()),
            "energy": None if answer.logits is None else float(-np.logaddexp(0, answer.logits).sum()),
            "probabilities": probabilities.tolist(),
        }

    def describe(self, answer: Answer) -> str:
        """The labels."""
        return f"has the labels {answer.cells['labels']}"


def open_model(folder: Path, sha256: str | None = None) -> MultiLabelModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return MultiLabelModel(folder, sha256=sha256)
