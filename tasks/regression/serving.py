"""Serves models that answer with a number, and with the interval that holds most true numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, Bundle, BundleError, BundleInfo
from gauntlet.serving.images import ImageInputs, read_image, read_resize
from gauntlet.serving.interface import Answer, Inputs, Request, Rows
from gauntlet.serving.texts import TextInputs
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet.tasks.regression.target import TARGET_FILE, Target

FILES = (MODEL_FILE, TARGET_FILE)
HALF_WIDTH = "interval_half_width"
"""The key of a bundle's `quality`: half of the width of an interval, measured on the validation split."""


def open_inputs(folder: Path, info: BundleInfo) -> Inputs:
    """Texts if the bundle has a tokenizer, else images."""
    return (TextInputs if TOKENIZER_FILE in info.files else ImageInputs).of_bundle(folder, info)


class NumberModel(Bundle):
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
        self.reads_texts = TOKENIZER_FILE in self.info.files
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

    def answer(self, request: Request) -> list[Answer]:
        """The number for each text, or for the image in each file.

        Raises:
            InputError: The model cannot take one of them.
        """
        rows: Rows = request.rows
        if not self.reads_texts:
            shape, resize = self.info.inputs[0].shape[1:], read_resize(self.folder, self.info)
            rows = [read_image(Path(path), shape, resize) for path in request.rows]
        cut = set(self.cut(rows))
        numbers = self.numbers(rows)
        intervals = self.intervals(numbers)
        answers = []
        for at, (given, number) in enumerate(zip(request.rows, numbers.tolist(), strict=True)):
            column = "text" if self.reads_texts else "image"
            cells = {column: given, self.target.name: self._shown(number)}
            content: dict[str, object] = {column: given, "target": self.target.name, "value": number}
            if intervals is not None:
                low, high = intervals[at].tolist()
                cells[f"{self.target.coverage:.0%} interval"] = f"{self._shown(low)} to {self._shown(high)}"
                content |= {"low": low, "high": high, "coverage": self.target.coverage}
            note = f"cut at {self.info.max_length} tokens, as in training; the rest is not read"
            answers.append(Answer(cells, content, note if at in cut else None))
        return answers

    def prove(self, bound: float) -> str:
        """See `serving.interface.GraphModel`. `bound` is in standard deviations of the target."""
        rows: Rows = SMOKE_TEXTS
        if not self.reads_texts:
            shape = tuple(int(size) for size in self.info.inputs[0].shape[1:])
            rows = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
        together = self.numbers(rows)
        alone = np.concatenate([self.numbers(rows[at : at + 1]) for at in range(len(rows))])
        if not np.isfinite(together).all():
            raise BundleError(f"{self.folder}: a prediction is not finite")
        std = np.float32(self.target.std)
        require_alike(together.astype(np.float32) / std, alone.astype(np.float32) / std, bound)
        name = repr(SMOKE_TEXTS[1]) if self.reads_texts else "an image of noise"
        return f"{self.target.name} of {name} is {self._shown(together[1])}"

    def _shown(self, number: float) -> str:
        """Rounded to less than a hundredth of the target's standard deviation, if that has decimals."""
        digits = int(np.clip(2 - np.floor(np.log10(self.target.std)), 0, 9))
        return f"{number:.{digits}f}"


def open_model(folder: Path, sha256: str | None = None) -> NumberModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return NumberModel(folder, sha256=sha256)
