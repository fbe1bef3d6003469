"""Join outcome events with the requests that an A/B test assigned, unit by unit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from gauntlet.components.compare_variants.sequence import Bools, Floats
from gauntlet.contracts.experiment import Experiment, Fault
from gauntlet.manifests.errors import DataError, UsageError

EXAMPLES = 3
CLOCKS_DIFFER_SECONDS = 60.0
"""An outcome that is so much earlier than its request is taken for one that came at once."""
EVENT, REQUEST, VALUE, TIME = "event_id", "request_id", "value", "time"
SUFFIXES = (".parquet", ".csv")
MICROSECONDS = 1e6
ASSIGNED = {
    "request_id": pa.string(), "time": pa.timestamp("us", tz="UTC"), "revision": pa.string(),
    "unit": pa.string(),
}  # fmt: skip
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Assigned:
    """The requests that a test assigned, and their R units in the order in which they came.

    Attributes:
        requests: Their ids, each once.
        times: Of each request, in seconds since 1970.
        units: The position of each request's unit.
        is_second: Of each unit, whether it is in the second variant.
        first: Of each unit, the position of its first request.
        without_key: Requests that are not in the test, since they had no key.
    """

    requests: pa.Array
    times: Floats
    units: Ints
    is_second: Bools
    first: Ints
    without_key: int


@dataclass(frozen=True)
class Outcomes:
    """A table of outcomes. `ids` are the ids as given, `requests` those of the requests; times may be NaN."""

    ids: pa.Array
    requests: pa.Array
    values: Floats
    times: Floats


@dataclass(frozen=True)
class Observed:
    """The units that have an outcome, in their order: positions, values; and the rows that do not count."""

    units: Ints
    values: Floats
    faults: tuple[Fault, ...]
    waiting: int


def read_assigned(file: Path, experiment: Experiment) -> Assigned:
    """Read the assignments that the gateway has written. None at all are no fault: no request has come yet.

    Raises:
        DataError: The file is not such a table.
    """
    table = pa.table({name: pa.array([], type) for name, type in ASSIGNED.items()})
    if file.exists() and file.stat().st_size:
        try:
            table = csv.read_csv(
                file,
                parse_options=csv.ParseOptions(invalid_row_handler=lambda _: "skip"),
                convert_options=csv.ConvertOptions(column_types=ASSIGNED, include_columns=[*ASSIGNED]),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            cause = str(error).splitlines()[0]
            raise DataError(f"{file}: cannot be read: {cause}. The gateway writes this file.") from None
    control, other = experiment.variants
    revisions = table["revision"].combine_chunks()
    is_in_test = pc.is_in(revisions, value_set=pa.array([control.revision, other.revision]))
    own = table.filter(is_in_test)
    own = own.take(_codes(own["request_id"])[1]).combine_chunks()
    units, first = _codes(pc.if_else(pc.equal(own["unit"], ""), own["request_id"], own["unit"]))
    is_second = pc.equal(own["revision"], other.revision).to_numpy()
    return Assigned(
        requests=own["request_id"].combine_chunks(),
        times=own["time"].cast(pa.int64()).to_numpy() / MICROSECONDS,
        units=units,
        is_second=is_second[first],
        first=first,
        without_key=table.num_rows - int(pc.sum(is_in_test).as_py() or 0),
    )


def _codes(column: pa.ChunkedArray | pa.Array) -> tuple[Ints, Ints]:
    """A number for each value, in the order of the values' first rows; and the position of each first row."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    codes = whole.dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes, np.unique(codes, return_index=True)[1]


def read_outcomes(file: Path, experiment: Experiment) -> Outcomes:
    """Read a table of outcomes: `request_id` or `event_id`, `value` or the metric's name, perhaps `time`.

    Raises:
        UsageError: There is no such file, or it is neither Parquet nor CSV.
        DataError: The table has no rows or lacks a column, or a value is none of the metric's.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file, expected a table of outcomes: Parquet or CSV.")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file}: found the suffix {file.suffix!r}, expected {' or '.join(SUFFIXES)}.")
    try:
        if file.suffix == ".parquet":
            table = parquet.ParquetFile(file).read()
        else:
            types = dict.fromkeys((EVENT, REQUEST), pa.string())
            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=types))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}.") from None
    names = table.column_names
    key = next((name for name in (EVENT, REQUEST) if name in names), None)
    metric = next((name for name in (experiment.metric, VALUE) if name in names), None)
    if key is None or metric is None:
        wanted = (
            f"{REQUEST} or {EVENT}" if key is None else f"{experiment.metric}, the test's metric, or {VALUE}"
        )
        raise DataError(f"{file}: found the columns {', '.join(names)}, expected a column {wanted}.")
    if not table.num_rows:
        raise DataError(f"{file}: found no row, expected an outcome in each.")
    ids = table[key].cast(pa.string()).combine_chunks()
    requests = ids if key == REQUEST else pc.replace_substring_regex(ids, r"-\d+$", "")
    times = np.full(table.num_rows, np.nan)
    if TIME in names:
        times = _seconds(file, table[TIME])
    return Outcomes(ids, requests, _values(file, metric, table[metric], experiment), times)


def _values(file: Path, metric: str, column: pa.ChunkedArray, experiment: Experiment) -> Floats:
    try:
        values = column.cast(pa.float64()).fill_null(np.nan).to_numpy().astype(np.float64)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: {metric}: {str(error).splitlines()[0]}. Expected numbers.") from None
    expected, is_good = "finite numbers", np.isfinite(values)
    if experiment.type == "binary":
        expected, is_good = "0 or 1", (values == 0) | (values == 1)
    elif experiment.low is not None and experiment.high is not None:
        low, high = experiment.low, experiment.high
        expected, is_good = f"numbers from {low:g} to {high:g}", (values >= low) & (values <= high)
    if not is_good.all():
        at = np.flatnonzero(~is_good)
        shown = ", ".join(f"{values[row]:g} in row {row + 1}" for row in at[:EXAMPLES])
        raise DataError(
            f"{file}: {metric}: found {shown}{' …' if len(at) > EXAMPLES else ''} ({len(at):,} rows), "
            f"expected {expected}, as the test of a {experiment.type} metric says."
        )
    return np.asarray(values)


def _seconds(file: Path, column: pa.ChunkedArray) -> Floats:
    """Times as seconds since 1970; a time without a zone is in UTC."""
    try:
        if pa.types.is_string(column.type):
            column = column.cast(pa.timestamp("us", tz="UTC"))
        times = column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{file}: {TIME}: {cause}. Expected times such as 2026-12-01T09:30:00Z.") from None
    return np.asarray(times.fill_null(np.nan).to_numpy().astype(np.float64) / MICROSECONDS)


def observe(assigned: Assigned, outcomes: Outcomes, experiment: Experiment, now: datetime) -> Observed:
    """Join outcomes by request. The value of a unit is the mean of its outcomes.

    The first row of an id counts. Outcomes that came before their request, or after its unit's window or the
    end of the test, do not count; nor does, with a window, a unit whose window is not over.
    """
    at = pc.index_in(outcomes.requests, value_set=assigned.requests).fill_null(-1).to_numpy().astype(np.int64)
    is_known = at >= 0
    is_first = np.zeros(len(at), dtype=bool)
    is_first[_codes(outcomes.ids)[1]] = True
    unit = np.where(is_known, assigned.units[at] if len(assigned.units) else -1, -1)
    begun = assigned.times[assigned.first]
    window = np.inf if experiment.window_hours is None else experiment.window_hours * 3600
    end = datetime.fromisoformat(experiment.ended).timestamp() if experiment.ended else np.inf
    is_outside = np.zeros(len(at), dtype=bool)
    known = np.flatnonzero(is_known)
    times, asked = outcomes.times[known], assigned.times[at[known]]
    last = np.minimum(begun[unit[known]] + window, end)
    is_outside[known] = (times < asked - CLOCKS_DIFFER_SECONDS) | (
        times > last
    )  # False where there is no time
    counts = is_known & is_first & ~is_outside
    reasons: tuple[tuple[Any, Bools], ...] = (
        ("unknown", ~is_known),
        ("duplicate", is_known & ~is_first),
        ("outside the window", is_known & is_first & is_outside),
    )
    faults = []
    for why, rows in reasons:
        if rows.any():
            shown = outcomes.ids.filter(pa.array(rows)).to_pylist()[:EXAMPLES]
            faults.append(Fault(why=why, rows=int(rows.sum()), examples=tuple(shown)))
    number = np.bincount(unit[counts], minlength=len(begun))
    total = np.bincount(unit[counts], weights=outcomes.values[counts], minlength=len(begun))
    has = number > 0
    is_over = np.ones(len(begun), dtype=bool)
    if experiment.window_hours is not None:
        is_over = begun + window <= now.timestamp()
    units = np.flatnonzero(has & is_over)
    return Observed(units, total[units] / number[units], tuple(faults), int((has & ~is_over).sum()))


def no_outcomes() -> Observed:
    """What is observed if no outcomes are given."""
    return Observed(np.empty(0, np.int64), np.empty(0), (), 0)
