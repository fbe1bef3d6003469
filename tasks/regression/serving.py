"""Serves models that answer with a number, and with the interval that holds most true numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, BundleInfo
from gauntlet.serving.images import ImageInputs
from gauntlet.serving.interface import Answer, Field, Inputs, Row, Rows
from gauntlet.serving.scoring import Floats, ScoringModel
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.regression.target import TARGET_FILE, Target

FILES = (MODEL_FILE, TARGET_FILE)
HALF_WIDTH = "interval_half_width"
"""The key of a bundle's `quality`: half of the width of an interval, measured on the validation split."""


def open_inputs(folder: Path, info: BundleInfo) -> Inputs:
    """Texts if the bundle has a tokenizer, else images."""
    return (TextInputs if TOKENIZER_FILE in info.files else ImageInputs).of_bundle(folder, info)


class NumberModel(ScoringModel):
    """A verified bundle that gives each row a number."""

    def __init__(self, folder: Path, sha256: str | None = None) -> None:
        """Verify the bundle and load it.

        Raises:
            BundleError: It is incomplete or altered.
        """
        super().__init__(folder, sha256=sha256)
        try:
            self.target = Target.read(self.folder)
        except ValueError as error:
            raise BundleError(str(error)) from None
        self.half_width = self.info.quality.get(HALF_WIDTH)

    def numbers(self, rows: Rows) -> npt.NDArray[np.float64]:
        """The answer for each row, (N,), in the unit of the target.

        Raises:
            InputError: The model cannot take these rows.
        """
        return np.asarray(self.logits(rows)[:, 0], dtype=np.float64)

    def intervals(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        """The low and the high end of each answer's interval, (N, 2), for answers (N,)."""
        if self.target.coverage is None or self.half_width is None:
            return None
        ends = numbers[:, None] + np.array([-self.half_width, self.half_width])
        low, high = self.target.min, self.target.max
        return np.asarray(ends.clip(-np.inf if low is None else low, np.inf if high is None else high))

    @property
    def fields(self) -> tuple[Field, ...]:
        """The number, and its interval if the bundle has one."""
        ends = () if self.target.coverage is None or self.half_width is None else ("low", "high")
        return tuple(Field(name, "FP64") for name in ("value", *ends))

    def scores(self, logits: Floats) -> Floats:
        """The answers in standard deviations of the target, (N, 1)."""
        return np.asarray(logits / np.float32(self.target.std), dtype=np.float32)

    def answers(self, rows: Sequence[Row], outputs: Sequence[Floats]) -> list[Answer]:
        """The number for each row."""
        numbers = np.asarray(outputs[0][:, 0], dtype=np.float64)
        intervals = self.intervals(numbers)
        answers = []
        for at, (row, number) in enumerate(zip(rows, numbers.tolist(), strict=True)):
            cells = {**row.given, self.target.name: self._shown(number)}
            content: dict[str, object] = {**row.given, "target": self.target.name, "value": number}
            if intervals is not None:
                low, high = intervals[at].tolist()
                cells[f"{self.target.coverage:.0%} interval"] = f"{self._shown(low)} to {self._shown(high)}"
                content |= {"low": low, "high": high, "coverage": self.target.coverage}
            answers.append(Answer(cells, content, self.note(row)))
        return answers

    def logged(self, answer: Answer) -> Mapping[str, Any]:
        """The number; see `interface.LoggedModel`."""
        return {"predicted": answer.cells[self.target.name], "value": answer.content["value"]}

    def describe(self, answer: Answer) -> str:
        """The number."""
        return f"has the {self.target.name} {answer.cells[self.target.name]}"

    def _shown(self, number: float) -> str:
        """Rounded to less than a hundredth of the target's standard deviation, if that has decimals."""
        digits = int(np.clip(2 - np.floor(np.log10(self.target.std)), 0, 9))
        return f"{number:.{digits}f}"


def open_model(folder: Path, sha256: str | None = None) -> NumberModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return NumberModel(folder, sha256=sha256)
