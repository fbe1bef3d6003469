"""Models whose graph gives each row some scores: rows in, answers out, one by one or from several requests.

N = rows, C = scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import TOKENIZER_FILE, Bundle, BundleError, softmax
from gauntlet.serving.images import MOST_PIXELS, ImageInputs, read_image, read_resize
from gauntlet.serving.interface import Answer, Field, InputError, Part, Request, Resize, Row, Rows
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike

Floats = npt.NDArray[np.float32]
CUT = "cut at {} tokens, as in training; the rest is not read"
FILE_BATCH = 32
SHORTEST = 8  # tokens of the shortest rows that a model is warmed up with


def grouped(given: Sequence[str], columns: Sequence[str]) -> list[Sequence[str]]:
    """The parts of each row, one for each column, or an `InputError` if the last row is not whole."""
    width = len(columns)
    if len(given) % width:
        raise InputError(
            f"{given[-1]}: found {len(given)} image files, expected {' and '.join(columns)} of each "
            "card, in turn."
        )
    return [given[at : at + width] for at in range(0, len(given), width)]


class ScoringModel(Bundle, ABC):
    """A bundle of which a kind says what its scores mean. See `interface.RowModel`.

    Attributes:
        sides: The parts of a row that is several images.
        are_scans: Whether only image files are read that show shades exactly; see `open_image`.
        outputs_read: The outputs of the graph that an answer is made of, `logits` first.
    """

    sides: ClassVar[tuple[str, ...]] = ()
    are_scans: ClassVar[bool] = False
    outputs_read: ClassVar[tuple[str, ...]] = ("logits",)
    parameters: Mapping[str, float] = {}
    most_rows: int | None = None

    @property
    @abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """The parts of an answer."""

    @abstractmethod
    def answers(self, rows: Sequence[Row], outputs: Sequence[Floats]) -> list[Answer]:
        """What `outputs_read`, each (N, …), say of each row."""

    @abstractmethod
    def describe(self, answer: Answer) -> str:
        """An answer in a few words."""

    def scores(self, logits: Floats) -> Floats:
        """What is compared between two runs, (N, C) of logits (N, C): the probability of each label."""
        return softmax(logits)

    def probabilities(self, rows: Rows, batch_size: int = 32) -> Floats:
        """`scores` of rows, (N, C)."""
        return self.scores(self.logits(rows, batch_size))

    @cached_property
    def medium(self) -> Literal["text", "image"]:
        """Texts if the bundle has a tokenizer, else images."""
        return "text" if TOKENIZER_FILE in self.info.files else "image"

    @property
    def columns(self) -> tuple[str, ...]:
        """The parts of a row."""
        return self.sides or (self.medium,)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Powers of two up to the most tokens of a text; 1 for images."""
        if self.info.max_length is None:
            return (1,)
        powers = (SHORTEST * 2**at for at in range(self.info.max_length.bit_length()))
        return (*(length for length in powers if length < self.info.max_length), self.info.max_length)

    def sample(self, length: int) -> Row:
        """A made-up text of `length` tokens, or an image of noise."""
        if self.medium == "image":
            return self._inputs.row(self._noise(1)[0])
        tokens = self._inputs.row(SMOKE_TEXTS[1]).inputs
        return Row({name: np.resize(values, (1, length)) for name, values in tokens.items()}, length)

    def read(
        self,
        parts: Sequence[Part],
        parameters: Mapping[str, float] | None = None,  # noqa: ARG002
        most_pixels: int = MOST_PIXELS,
    ) -> Row:
        """A row from its parts; see `interface.RowModel`."""
        if self.medium == "text":
            return self._inputs.row(parts[0])
        shape = self.info.inputs[0].shape[1:]
        images = [read_image(part, shape, self._resize, self.are_scans, most_pixels) for part in parts]  # type: ignore[arg-type]
        return self._inputs.row(np.stack(images) if self.sides else images[0])

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each row of one batch; see `interface.RowModel`."""
        outputs = self.compute(self.outputs_read, self._inputs.stacked(rows))
        if not all(np.isfinite(output).all() for output in outputs):
            raise BundleError(f"{self.folder}: a prediction is not finite")
        return self.answers(rows, outputs)

    def answer(self, request: Request) -> list[Answer]:
        """The answer to each row of a request, whose rows are texts or paths; see `interface.ServedModel`."""
        rows = []
        for parts in grouped(request.rows, self.columns):
            row = self.read(parts if self.medium == "text" else [Path(part) for part in parts])
            row.given = dict(zip(self.columns, parts, strict=True))
            rows.append(row)
        order = sorted(range(len(rows)), key=lambda at: rows[at].length)
        found: dict[int, Answer] = {}
        for start in range(0, len(order), FILE_BATCH):
            chosen = order[start : start + FILE_BATCH]
            found |= zip(chosen, self.run([rows[at] for at in chosen]), strict=True)
        return [found[at] for at in range(len(rows))]

    def prove(self, bound: float) -> str:
        """Score made-up rows together and alone; see `interface.GraphModel`."""
        rows: Rows = SMOKE_TEXTS if self.medium == "text" else self._noise(2)
        together = self.probabilities(rows)
        if not np.isfinite(together).all():
            raise BundleError(f"{self.folder}: a prediction is not finite")
        require_alike(together, np.asarray(self.golden(), dtype=np.float32), bound)
        name = repr(SMOKE_TEXTS[1]) if self.medium == "text" else "an image of noise"
        [answer] = self.run([self._inputs.row(rows[1])])
        return f"{name} {self.describe(answer)}"

    def golden(self) -> list[list[float]]:
        """The scores of made-up rows, each alone; see `interface.GraphModel`."""
        rows: Rows = SMOKE_TEXTS if self.medium == "text" else self._noise(2)
        return [self.probabilities(rows[at : at + 1])[0].tolist() for at in range(len(rows))]

    def features(self, parts: Sequence[Part], row: Row) -> Mapping[str, float]:
        """How long a text is, and whether it was cut; how bright images are, and how much pixels differ."""
        if self.medium == "text":
            return {"characters": len(str(parts[0])), "tokens": row.length, "cut": row.cut}
        pixels = np.stack(list(row.inputs.values())).astype(np.float32)
        return {"brightness": float(pixels.mean()), "contrast": float(pixels.std())}

    def note(self, row: Row) -> str | None:
        """What a reader should know of the answer to a row."""
        return CUT.format(self.info.max_length) if row.cut else None

    @cached_property
    def _resize(self) -> Resize:
        return read_resize(self.folder, self.info)

    def _noise(self, count: int) -> npt.NDArray[np.uint8]:
        shape = tuple(int(size) for size in ImageInputs.of_bundle(self.folder, self.info).row_shape)
        return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
