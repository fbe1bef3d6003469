"""Serves classifiers: the likeliest label of each row and the probability of every label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gauntlet.serving.interface import Answer, Field, Row
from gauntlet.serving.scoring import Floats, ScoringModel


class Classifier(ScoringModel):
    """A bundle that gives each row one of its labels.

    Attributes:
        label_column: What a table calls the label.
    """

    label_column: ClassVar[str] = "label"

    @property
    def fields(self) -> tuple[Field, ...]:
        """The label, and the probabilities in the order of the labels."""
        return Field("label", "BYTES"), Field("probabilities", "FP32", (len(self.info.labels),))

    def details(self, outputs: Sequence[Floats]) -> Mapping[str, Sequence[str]]:  # noqa: ARG002
        """More that the outputs say of each row, by column."""
        return {}

    def answers(self, rows: Sequence[Row], outputs: Sequence[Floats]) -> list[Answer]:
        """The label of each row."""
        labels, details = self.info.labels, self.details(outputs)
        found = []
        for at, (row, probabilities) in enumerate(zip(rows, self.scores(outputs[0]), strict=True)):
            best = int(probabilities.argmax())
            more = {column: cells[at] for column, cells in details.items()}
            shown = {self.label_column: labels[best], "probability": f"{probabilities[best]:.3f}"}
            content = {
                "label": labels[best],
                "probabilities": dict(zip(labels, map(float, probabilities), strict=True)),
            }
            cells = {**row.given, **shown, **more}
            content = {**row.given, **content, **more}
            found.append(Answer(cells, content, self.note(row), outputs[0][at]))
        return found

    def logged(self, answer: Answer) -> Mapping[str, Any]:
        """The label, how sure it is, and all probabilities; see `interface.LoggedModel`.

        The energy is that of https://arxiv.org/abs/2010.03759 at temperature 1.
        """
        probabilities = np.array(list(answer.content["probabilities"].values()))
        likely = probabilities[probabilities > 0]
        return {
            "predicted": answer.content["label"],
            "confidence": float(probabilities.max()),
            "entropy": float(-(likely * np.log(likely)).sum()),
            "energy": None if answer.logits is None else float(-np.logaddexp.reduce(answer.logits)),
            "probabilities": probabilities.tolist(),
        }

    def describe(self, answer: Answer) -> str:
        """The label and its probability."""
        label = answer.content["label"]
        return f"is {label} ({answer.content['probabilities'][label]:.2f})"
