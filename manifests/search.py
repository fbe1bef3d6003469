"""The search space of `gauntlet tune`: `training.search` maps training keys to the values worth trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gauntlet.manifests.section import Section

Value = int | float | str

MOST_VALUES = 1_000
"""In a list, which is what Vertex AI takes. Of a wider range of whole numbers the ends alone are checked."""

STEP_TOLERANCE = 1e-9


class Dimension(Section):
    """The values of one key: a range from `low` to `high`, both included, or a list of `choices`.

    `step` is the distance between neighbouring values, `log` tries as many values between 1e-5 and 1e-4 as
    between 1e-4 and 1e-3.
    """

    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(None, gt=0)
    log: bool = False
    choices: tuple[int | float | str, ...] | None = Field(None, min_length=2)

    @model_validator(mode="after")
    def _range_or_choices(self) -> Self:
        if self.choices is not None:
            if (self.low, self.high, self.step, self.log) != (None, None, None, False):
                raise ValueError("choices without low, high, step and log")
            if len(set(self.choices)) < len(self.choices):
                raise ValueError("choices that differ from each other")
            return self
        if self.low is None or self.high is None:
            raise ValueError("low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"a low under high, but {self.low:g} is not under {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a low over 0 where log is true, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("either log or step")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if steps >= MOST_VALUES:
                raise ValueError(f"a step that gives at most {MOST_VALUES} values, not {self.step:g}")
            if abs(steps - round(steps)) > STEP_TOLERANCE * steps:
                raise ValueError(f"a step that leads from {self.low:g} to {self.high:g}, not {self.step:g}")
        return self

    @property
    def ends(self) -> tuple[int | float, int | float]:
        """The range's low and high end."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def listed(self) -> tuple[Value, ...] | None:
        """Every value of choices or of a range with a step; None for other ranges."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        low, high = self.ends
        return tuple(on_grid(low, self.step, at) for at in range(round((high - low) / self.step) + 1))

    def holds(self, value: Value) -> bool:
        """Whether the value is one of those to try."""
        if self.step is not None and not isinstance(value, str):
            value = nearest_on_grid(self.ends[0], self.step, value)
        if (listed := self.listed()) is not None:
            return value in listed
        low, high = self.ends
        return not isinstance(value, str) and low <= value <= high

    def checked(self) -> Iterator[Value]:
        """The values that are checked against the key's own bounds."""
        if (listed := self.listed()) is not None:
            yield from listed
            return
        low, high = self.ends
        yield from (low, high)
        if isinstance(low, int) and isinstance(high, int) and high - low < MOST_VALUES:
            yield from range(low + 1, high)


def on_grid(low: int | float, step: int | float, at: int) -> int | float:
    """The value `at` steps above `low`, in decimal: three steps of 0.1 are 0.3, not 0.30000000000000004."""
    value = Decimal(str(low)) + at * Decimal(str(step))
    return int(value) if isinstance(low, int) and isinstance(step, int) else float(value)


def nearest_on_grid(low: int | float, step: int | float, value: int | float) -> int | float:
    """The grid's own value where `value` differs from it by no more than rounding; else `value`."""
    at = (value - low) / step
    if not math.isfinite(at) or abs(at - round(at)) > STEP_TOLERANCE * max(1, abs(at)):
        return value
    return on_grid(low, step, round(at))


class Search(Section):
    """The keys that can be tuned for every task. A key that is not given keeps its value."""

    epochs: Dimension | None = None
    batch_size: Dimension | None = None
    learning_rate: Dimension | None = None
    schedule: Dimension | None = None
    warmup_fraction: Dimension | None = None
    weight_decay: Dimension | None = None
    label_smoothing: Dimension | None = None
    dropout: Dimension | None = None
    max_grad_norm: Dimension | None = None

    @model_validator(mode="after")
    def _searches(self) -> Self:
        if not self.dimensions():
            raise ValueError(f"at least one of {', '.join(type(self).model_fields)}")
        return self

    def dimensions(self) -> dict[str, Dimension]:
        """The keys to tune with their values, in the order of the schema."""
        values = {key: getattr(self, key) for key in type(self).model_fields}
        return {key: dimension for key, dimension in values.items() if dimension is not None}


def require_fitting(search: Search, validated: Callable[[str, Value], Any]) -> None:
    """Check every dimension with `validated`, which returns what the section makes of a key's value.

    Raises:
        ValidationError: A value is out of its key's bounds or of another type; one error for each such key.
    """
    errors = []
    for key, dimension in search.dimensions().items():
        for value in dimension.checked():
            if expected := _fault(key, value, validated):
                error = PydanticCustomError("search", "{expected}", {"expected": expected})
                errors.append(InitErrorDetails(type=error, loc=("search", key), input=value))
                break
    if errors:
        raise ValidationError.from_exception_data("search", errors)


def _fault(key: str, value: Value, validated: Callable[[str, Value], Any]) -> str:
    """What the key expected instead of the value; nothing when it takes it."""
    try:
        taken = validated(key, value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return "" if taken == value else f"{taken!r}, written as one"
