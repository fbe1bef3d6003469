"""When a figure may be believed: a finite number, of the right type, that its kind can be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()
"""Stands for a figure that no step wrote; it reads as `nothing` in a message."""


@dataclass(frozen=True)
class Domain:
    """The numbers that a kind of figure can be, ends included; `words` names them in a message."""

    lowest: float
    highest: float
    words: str


FRACTION = Domain(0.0, 1.0, "a number from 0 to 1")
CHANGE = Domain(-math.inf, math.inf, "a finite number")
DIFFERENCE = Domain(-1.0, 1.0, "a number from -1 to 1")
QWK_DIFFERENCE = Domain(-2.0, 2.0, "a number from -2 to 2")
POSITIVE = Domain(math.ulp(0.0), math.inf, "a number over 0")
NOT_NEGATIVE = Domain(0.0, math.inf, "a number of 0 or more")


def number_or_fault(value: object, domain: Domain) -> float | str:
    """The value as a float, or what is wrong with it.

    A bool or a text is no number, whatever it looks like: a figure of the wrong type came from a fault.
    """
    fault = f"found {value!r}, expected {domain.words}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return fault
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1.8e308, which JSON allows
        return fault
    if not math.isfinite(number) or not domain.lowest <= number <= domain.highest:
        return fault
    return number
