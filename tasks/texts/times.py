"""The times at which rows were made, as numbers to sort by."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from gauntlet.components.validate_data.duplicates import Floats
from gauntlet.manifests.errors import DataError

MONTH = re.compile(r"\d{4}-\d{2}")
NUMBER = r"^([+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?)$"
DATE = (  # up to 2199, until when a float tells microseconds apart
    r"^(?<day>(?:1[0-9]|2[01])[0-9]{2}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?<hour>[01][0-9]|2[0-3]):(?<minute>[0-5][0-9])"
    r"(?::(?<second>[0-5][0-9])(?:\.(?<fraction>[0-9]{3}(?:[0-9]{3})?))?)?"
    r"(?:Z|(?<sign>[+-])(?<hours>[01][0-9]|2[0-3]):(?<minutes>[0-5][0-9]))?)?$"
)
"""The most frequent forms of numbers and dates; texts in others are read one by one."""

MICROSECONDS = 1_000_000
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
    places = rows["place"]
    return rows.assign(time=parse_times(rows["time"].tolist(), lambda at: str(places.iloc[at]), uri))


def parse_times(values: Sequence[Any], place: Callable[[int], str], uri: str) -> Floats:
    """Numbers as they are, or ISO 8601 dates as seconds since 1970, (N,); a date without an offset is UTC.

    A month, as folders are often named after, is its first day. `place` names the place of a value.

    Raises:
        DataError: A value is missing or not a time, or some are numbers and others dates.
    """
    are_numbers = bool(len(values)) and _number(values[0]) is not None
    times, faults = _common(values, are_numbers), []
    for at in np.flatnonzero(np.isnan(times)).tolist():
        time = (_number if are_numbers else _seconds)(values[at])
        if time is None:
            faults.append(at)
        else:
            times[at] = time
    if faults:
        named = ((place(at), values[at]) for at in faults[:SHOWN_FAULTS])
        shown = "; ".join(f"{at}: {'no value' if _is_missing(one) else repr(one)[:80]}" for at, one in named)
        raise DataError(
            f"{uri}: {KEY}: found {len(faults):,} row{'' if len(faults) == 1 else 's'} without a time that "
            f"can be read: {shown}{'; …' if len(faults) > SHOWN_FAULTS else ''}. "
            f"Expected {NUMBERS if are_numbers else DATES}. Correct these rows, or name another column"
        )
    return times


def _common(values: Sequence[Any], are_numbers: bool) -> Floats:
    """The times of values in a common form; NaN where a value has another."""
    times = np.full(len(values), math.nan)
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # of several types
        return times
    if pa.types.is_string(column.type):
        texts = pl.Series(column).str.strip_chars()
        found = texts.str.extract(NUMBER).cast(pl.Float64) if are_numbers else _dates(texts)
    elif are_numbers and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        found = pl.Series(column).cast(pl.Float64)
        found = found.set(found.is_infinite(), None)
    elif pa.types.is_timestamp(column.type) and not are_numbers:
        found = pl.Series(column.cast(pa.timestamp("us")).cast(pa.int64())) / MICROSECONDS
    else:
        return times
    return found.to_numpy(writable=True)


def _dates(texts: pl.Series) -> pl.Series:
    """The seconds since 1970; null where a text has another form than `DATE`."""
    part = {name: pl.col(name).cast(pl.Int64) for name in ("hour", "minute", "second", "hours", "minutes")}
    day = pl.col("day").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    clock = (part["hour"].fill_null(0) * 60 + part["minute"].fill_null(0)) * 60 + part["second"].fill_null(0)
    offset = 60 * (part["hours"].fill_null(0) * 60 + part["minutes"].fill_null(0))
    offset = pl.when(pl.col("sign") == "-").then(-offset).otherwise(offset)
    fraction = pl.col("fraction").str.pad_end(6, "0").cast(pl.Int64).fill_null(0)
    seconds = day * 86_400 + clock - offset
    found = texts.str.extract_groups(DATE).struct.unnest()
    return found.select((seconds * MICROSECONDS + fraction) / MICROSECONDS).to_series()


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
