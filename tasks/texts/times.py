"""The times at which rows were made, as numbers to sort by."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd

from gauntlet.manifests.errors import DataError

MONTH = re.compile(r"\d{4}-\d{2}")
SHOWN_FAULTS = 5
KEY = "dataset.columns.time"
DATES = "ISO 8601 in every row, such as 2024-01-31 or 2024-01-31T08:00:00Z"
NUMBERS = "a number in every row, as in the first, such as 1706688000"


def with_times(rows: pd.DataFrame, uri: str) -> pd.DataFrame:
    """The rows with the values of `time` as numbers; unchanged if they have no column `time`.

    Raises:
        DataError: A value is missing or not a time, or some are numbers and others dates.
    """
    if "time" not in rows:
        return rows
    return rows.assign(time=parse_times(rows["time"].tolist(), rows["place"].tolist(), uri))


def parse_times(values: Sequence[Any], places: Sequence[str], uri: str) -> list[float]:
    """Numbers as they are, or ISO 8601 dates as seconds since 1970; a date without an offset is UTC.

    A month, as folders are often named after, is its first day.

    Raises:
        DataError: A value is missing or not a time, or some are numbers and others dates.
    """
    numbers = [_number(value) for value in values]
    found = numbers if numbers and numbers[0] is not None else [_seconds(value) for value in values]
    faults = [
        f"{place}: {'no value' if _is_missing(value) else repr(value)[:80]}"
        for place, value, time in zip(places, values, found, strict=True)
        if time is None
    ]
    if faults:
        shown = "; ".join(faults[:SHOWN_FAULTS]) + ("; …" if len(faults) > SHOWN_FAULTS else "")
        expected = NUMBERS if found is numbers else DATES
        raise DataError(
            f"{uri}: {KEY}: found {len(faults):,} row{'' if len(faults) == 1 else 's'} without a time that "
            f"can be read: {shown}. Expected {expected}. Correct these rows, or name another column"
        )
    return [time for time in found if time is not None]


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            text = value.strip()
            value = datetime.fromisoformat(f"{text}-01" if MONTH.fullmatch(text) else text)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    try:
        aware: datetime = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.timestamp()
    except (ValueError, OverflowError):
        return None
