"""Serves classifiers: the likeliest label of each row and the probability of every label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from gauntlet.serving.bundle import Bundle, BundleError
from gauntlet.serving.interface import Answer, Request, Rows
from gauntlet.serving.verification import require_alike


class Classifier(Bundle, ABC):
    """A bundle that gives each row one of its labels. A kind says how its rows are read.

    Attributes:
        columns: What a row is given as, one column of a table for each part.
        label_column: What a table calls the label.
    """

    columns: ClassVar[tuple[str, ...]]
    label_column: ClassVar[str] = "label"

    @abstractmethod
    def read(self, given: Sequence[str]) -> Rows:
        """Rows from `columns` texts or paths each.

        Raises:
            InputError: They are not what the model takes.
        """

    @abstractmethod
    def smoke_rows(self) -> tuple[Rows, str]:
        """Two made-up rows that the model takes, and what to call the second."""

    def details(self, rows: Rows) -> Mapping[str, Sequence[str]]:  # noqa: ARG002
        """More that the model says of each row, by column."""
        return {}

    def answer(self, request: Request) -> list[Answer]:
        """The label of each row.

        Raises:
            InputError: The model cannot take one of them.
        """
        rows, labels, parts = self.read(request.rows), self.info.labels, len(self.columns)
        details = self.details(rows)
        cut = set(self.cut(rows))
        answers = []
        for at, probabilities in enumerate(self.probabilities(rows)):
            given = dict(zip(self.columns, request.rows[at * parts : (at + 1) * parts], strict=True))
            best = int(probabilities.argmax())
            more = {column: cells[at] for column, cells in details.items()}
            shown = {self.label_column: labels[best], "probability": f"{probabilities[best]:.3f}"}
            content = {
                "label": labels[best],
                "probabilities": dict(zip(labels, map(float, probabilities), strict=True)),
            }
            note = f"cut at {self.info.max_length} tokens, as in training; the rest is not read"
            answers.append(
                Answer({**given, **shown, **more}, {**given, **content, **more}, note if at in cut else None)
            )
        return answers

    def prove(self, bound: float) -> str:
        """See `serving.interface.GraphModel`."""
        rows, name = self.smoke_rows()
        together = self.probabilities(rows)
        alone = np.concatenate([self.probabilities(rows[at : at + 1]) for at in range(len(rows))])
        if not np.isfinite(together).all():
            raise BundleError(f"{self.folder}: a prediction is not finite")
        require_alike(together, alone, bound)
        label = self.info.labels[int(together[1].argmax())]
        return f"{name} is {label} ({together[1].max():.2f})"
