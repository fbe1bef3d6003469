"""What serving and the serving module of a task kind give each other.

A kind's serving module defines `FILES` and `open_model`, and `open_inputs` if it uses `bundle.Bundle`.
docs/how-to/add_a_task_kind.md describes them. It never imports torch.

N = rows, B = batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # `gauntlet check` opens tokenizers without it
    import onnxruntime

Image = npt.NDArray[np.uint8]
"""(C, H, W), its values as they are in the file; C is 1 for grey images, else 3 for red, green, blue.

Where a row is several images, such as the two sides of a card, they are stacked, (S, C, H, W).
"""

Rows = Sequence[str] | Sequence[Image] | Image
"""Texts, or images one by one or as one array (N, C, H, W)."""

Resize = Literal["stretch", "crop", "pad"]
"""How a picture gets the height and width of a model: each side by itself; or both by one factor, where what
is outside of the middle is cut off, or what is missing is black.
"""

Batch = dict[str, npt.NDArray[Any]]
"""The graph's inputs by name."""


class InputError(Exception):
    """A row that the model cannot take."""


@dataclass(eq=False)
class Row:
    """A row that was read, alone.

    Attributes:
        inputs: The graph's inputs by name, each (1, …).
        length: What the row costs: the tokens of a text, and of its answer where that is text; 1 of an image.
        cut: Whether only a part of the row is read.
        given: What the row's answer repeats, by column; empty for a server.
        settings: The parameters of its request.
        is_wanted: False once nobody waits for the answer, so that a long one can be ended.
    """

    inputs: Batch
    length: int
    cut: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    is_wanted: bool = True


class Inputs(Protocol):
    """Turns rows of one kind into a batch."""

    def cut(self, rows: Any) -> list[int]:
        """The positions of the rows of which only a part is read."""

    def batch(self, rows: Any) -> Batch:
        """The graph's inputs of `rows`.

        Raises:
            InputError: The model cannot take these rows.
        """

    def row(self, row: Any) -> Row:
        """One row, alone. Raises as `batch`."""

    def stacked(self, rows: Sequence[Row]) -> Batch:
        """The graph's inputs of rows that were read one by one, each (B, …), padded to the longest."""


@dataclass(frozen=True)
class Request:
    """Rows to answer, as a person writes them: texts, or paths of image files.

    Attributes:
        max_new_tokens: The most tokens of an answer. Only language models read it.
    """

    rows: Sequence[str]
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Answer:
    """What a model answers to one row.

    Attributes:
        cells: For a table, by column; all answers of a model have the same columns.
        content: For a program, as a JSON object.
        note: What the reader should know about it, such as that the text was cut.
        logits: (C,), if the model gives each row some; for the request log.
    """

    cells: Mapping[str, str]
    content: Mapping[str, Any]
    note: str | None = None
    logits: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


class ServedModel(Protocol):
    """The model of a verified bundle."""

    def answer(self, request: Request) -> list[Answer]:
        """The answer to each row.

        Raises:
            InputError: The model cannot take one of them.
        """


class GraphModel(ServedModel, Protocol):
    """A model whose graph is in the bundle: every one that no service serves."""

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session of its graph."""

    def prove(self, bound: float) -> str:
        """Score made-up rows together and alone; return one of the answers in words.

        `bound` is how much a probability may differ: `verification.require_alike` checks it.

        Raises:
            BundleError: A score is not finite, or the other rows of its batch change a row's answer.
        """

    def golden(self) -> Sequence[Sequence[float]]:
        """The scores of made-up rows, each alone: `verification` compares them with those of the proof."""


Part = str | bytes | Path
"""A part of a row: a text, or an image as the bytes of a file or as its path."""


@dataclass(frozen=True)
class Field:
    """A part of every answer as the Open Inference Protocol describes it.

    Attributes:
        name: Its key in an answer's `content`.
        datatype: `BYTES` for a text, else a number such as `FP32`.
        shape: Without the rows.
    """

    name: str
    datatype: Literal["BYTES", "FP32", "FP64"]
    shape: tuple[int, ...] = ()


class RowModel(GraphModel, Protocol):
    """A model that a server asks row by row, with rows of several requests in one batch.

    Attributes:
        parameters: What a request may set, by name, with the default.
        most_rows: How many rows may share a batch; None is any number.
    """

    parameters: Mapping[str, float]
    most_rows: int | None

    @property
    def medium(self) -> Literal["text", "image"]:
        """What each part of a row is."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The parts of a row, by name."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The parts of an answer."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of rows that the model is warmed up with, ascending."""

    def sample(self, length: int) -> Row:
        """A made-up row of that length."""

    def read(self, parts: Sequence[Part], parameters: Mapping[str, float], most_pixels: int) -> Row:
        """A row from its parts, one for each column.

        `parameters` has a value for each of the model's. `most_pixels` bounds an image before it is decoded.

        Raises:
            InputError: The model cannot take it.
        """

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each row of one batch.

        Raises:
            InputError: The model cannot take one of them.
            BundleError: An answer is not finite.
        """


class LoggedModel(RowModel, Protocol):
    """A model whose requests can be logged, as `request_log` describes it."""

    def features(self, parts: Sequence[Part], row: Row) -> Mapping[str, float]:
        """Numbers that describe a row, always the same names."""

    def logged(self, answer: Answer) -> Mapping[str, Any]:
        """What an answer has for the columns from `predicted` on."""


@dataclass(frozen=True)
class Piece:
    """What a step added to the answer of a row.

    Attributes:
        text: Whole characters, maybe none.
        tokens: How many the answer has so far.
        finish: Why it has ended, with the whole `answer`; None while it goes on.
    """

    row: Row
    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None
    answer: Answer | None = None


class RowStreams(Protocol):
    """Answers that are made piece by piece, in steps that they share."""

    def join(self, row: Row) -> Piece:
        """Begin the answer to a row. Raises as `RowModel.run`."""

    def step(self) -> list[Piece]:
        """The next piece of each answer; those that have ended leave."""

    def drop(self, row: Row) -> None:
        """End the answer to a row that nobody waits for."""


class StreamModel(RowModel, Protocol):
    """A model whose answers are made piece by piece."""

    def streams(self) -> RowStreams:
        """No answers yet."""
