"""What serving and the serving module of a task kind give each other.

A kind's serving module defines `FILES` and `open_model`, and `open_inputs` if it uses `bundle.Bundle`.
docs/how-to/add_a_task_kind.md describes them. It never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


class Inputs(Protocol):
    """Turns rows of one kind into a batch."""

    def cut(self, rows: Any) -> list[int]:
        """The positions of the rows of which only a part is read."""

    def batch(self, rows: Any) -> Batch:
        """The graph's inputs of `rows`.

        Raises:
            InputError: The model cannot take these rows.
        """


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
    """

    cells: Mapping[str, str]
    content: Mapping[str, Any]
    note: str | None = None


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
