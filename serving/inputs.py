"""Rows as a graph takes them: what the tasks have in common.

`texts` and `images` know one kind of row each, and load only what that one needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""(C, H, W), its values as they are in the file; C is 1 for grey images, else 3 for red, green, blue.

Where a row is several images, such as the two sides of a card, they are stacked, (S, C, H, W).
"""

Rows = Sequence[str] | Sequence[Image] | Image
"""Texts, or images one by one or as one array (N, C, H, W)."""

Batch = dict[str, npt.NDArray[Any]]
"""The graph's inputs by name."""


class InputError(Exception):
    """A row that the model cannot take."""


class Inputs(Protocol):
    """Turns rows of one kind into a batch."""

    def cut(self, rows: Any) -> list[int]:
        """The positions of the rows that are not read to their end."""

    def batch(self, rows: Any) -> Batch:
        """The graph's inputs of `rows`.

        Raises:
            InputError: These are no rows that the model can take.
        """
