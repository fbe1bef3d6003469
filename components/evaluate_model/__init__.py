"""evaluate-model: the bundle and the champion on the same test rows, with the limits of each metric.

The kind scores them: `evaluate` of its module `evaluation` returns an `Evaluated`. `overlap` says which test
rows the models were trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluated:
    """What the step logs.

    Attributes:
        headline: The few figures that a run is listed and compared by.
        confusion: Of a classifier: its labels, and rows by true and by predicted class.
    """

    headline: Mapping[str, float]
    confusion: tuple[list[str], list[list[int]]] | None = None
