"""The table of labels: a folder of Parquet files, each written once, with a row for each label that came.

Labels come late, twice, and changed, so every label is kept and the newest of an event counts. A file is
named by the sha256 of its rows: importing the same file again writes nothing new.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from gauntlet.backends.storage import is_folder, join, list_files, local_path, read_bytes, upload
from gauntlet.manifests.errors import DataError, UsageError

SUFFIX = ".parquet"
SCHEMA = pa.schema(
    {
        "event_id": pa.string(),
        "label": pa.string(),
        "labelled_at": pa.timestamp("us", tz="UTC"),
        "source": pa.string(),
    }
)
NEEDED = ("event_id", "label")
FAULTS_SHOWN = 5


@dataclass(frozen=True)
class Imported:
    """What an import added.

    Attributes:
        repeated: Labels of an event that has the same or a newer one; they are not written again.
        changed: Labels that differ from the one that the event had.
        late: Labels of events in windows that were judged before: the next window's harm counts them.
        unknown: Ids that no row of the request log has; their labels are kept, since rows may come later.
    """

    new: int
    repeated: int
    changed: int
    late: int
    unknown: tuple[str, ...]


def read_label_file(file: Path, classes: Collection[str], imported_at: datetime) -> pa.Table:
    """The labels of a CSV or Parquet file, as `SCHEMA`; without `labelled_at` they are of `imported_at`.

    Raises:
        UsageError: There is no such file, or it is neither CSV nor Parquet.
        DataError: A column is missing, a cell is empty, a label is unknown or a time cannot be read. The
            message names all of them.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file, expected a table of labels: Parquet or CSV.")
    texts = {"event_id": pa.string(), "label": pa.string(), "source": pa.string()}
    try:
        if file.suffix == SUFFIX:
            table = parquet.read_table(file)
        elif file.suffix == ".csv":
            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=texts))
        else:
            raise UsageError(f"{file}: found the suffix {file.suffix!r}, expected .parquet or .csv.")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}.") from None
    if missing := [name for name in NEEDED if name not in table.column_names]:
        raise DataError(f"{file}: found no column {' and no '.join(missing)}, expected event_id and label.")
    columns = {name: table[name].cast(pa.string()).fill_null("") for name in NEEDED}
    faults = [
        f"row {at + 1}: {name}: found nothing, expected a value"
        for name in NEEDED
        for at in _where(pc.equal(columns[name], ""))
    ]
    given = columns["label"].to_pylist()
    wrong = [at for at, label in enumerate(given) if label and label not in classes] if classes else []
    faults += [
        f"row {at + 1}: label: found {given[at]!r}, expected one of {', '.join(classes)}" for at in wrong
    ]
    if faults:
        more = f"; {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise DataError(f"{file}: {'; '.join(faults[:FAULTS_SHOWN])}{more}. Nothing was imported.")
    try:
        times = table["labelled_at"] if "labelled_at" in table.column_names else _constant(imported_at, table)
        columns["labelled_at"] = _as_utc(times).fill_null(pa.scalar(imported_at))
    except pa.ArrowInvalid as error:
        cause = str(error).splitlines()[0]
        raise DataError(
            f"{file}: labelled_at: {cause}, expected times such as 2026-12-01T08:00:00Z."
        ) from None
    named = "source" in table.column_names
    source = table["source"].cast(pa.string()) if named else _constant(file.name, table)
    columns["source"] = source.fill_null(file.name)
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA).combine_chunks()


def _as_utc(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts, or times with or without a zone: one without is UTC."""
    if pa.types.is_timestamp(times.type) and times.type.tz is None:
        return times.cast(pa.timestamp("us")).cast(SCHEMA.field("labelled_at").type)
    return times.cast(SCHEMA.field("labelled_at").type)


def _constant(value: Any, table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([value] * table.num_rows)])


def _where(is_so: pa.ChunkedArray) -> list[int]:
    return [at for at, one in enumerate(is_so.to_pylist()) if one]


def add_labels(
    table: pa.Table, folder: str, logged: Mapping[str, datetime], judged_until: datetime | None
) -> Imported:
    """Write labels to the table at `folder`, a path or a URI, and count what they are.

    Args:
        table: Of `read_label_file`.
        logged: The time of each event in the request log.
        judged_until: The end of the last window that was judged.
    """
    known = {row["event_id"]: row for row in newest_labels(folder).to_pylist()}
    fresh, counts = [], {"new": 0, "repeated": 0, "changed": 0}
    for row in table.sort_by([("labelled_at", "ascending"), ("label", "ascending")]).to_pylist():
        before = known.get(row["event_id"])
        what = "new" if before is None else "repeated" if _is_repeated(row, before) else "changed"
        counts[what] += 1
        if what != "repeated":
            known[row["event_id"]] = row
            fresh.append(row)
    events = [row["event_id"] for row in fresh]
    unknown = tuple(dict.fromkeys(event for event in events if event not in logged))
    is_late = (event in logged and judged_until and logged[event] < judged_until for event in events)
    if fresh:
        _write(pa.Table.from_pylist(fresh, SCHEMA), folder)
    return Imported(**counts, late=sum(map(bool, is_late)), unknown=unknown)


def _is_repeated(row: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return bool(row["label"] == before["label"] or row["labelled_at"] < before["labelled_at"])


def _write(table: pa.Table, folder: str) -> None:
    digest = hashlib.sha256("\n".join(map(str, table.to_pylist())).encode()).hexdigest()
    with tempfile.TemporaryDirectory() as scratch:
        parquet.write_table(table, Path(scratch) / f"labels-{digest[:32]}{SUFFIX}")
        upload(Path(scratch), folder)


def newest_labels(folder: str) -> pa.Table:
    """The newest label of each event, sorted by event, as `SCHEMA`; no row if there is no table yet.

    Raises:
        DataError: A file of the table cannot be read.
    """
    here = local_path(folder)
    if here is not None and not here.exists():
        return SCHEMA.empty_table()
    if not is_folder(folder):
        raise UsageError(f"{folder}: found a file, expected the folder of the table of labels.")
    parts = []
    for name in list_files(folder):
        if name.endswith(SUFFIX):
            try:
                parts.append(parquet.read_table(pa.BufferReader(read_bytes(join(folder, name)))).cast(SCHEMA))
            except (pa.ArrowInvalid, ValueError) as error:
                cause = str(error).splitlines()[0]
                raise DataError(f"{join(folder, name)}: no part of a table of labels: {cause}.") from None
    if not parts:
        return SCHEMA.empty_table()
    order = [("event_id", "ascending"), ("labelled_at", "ascending"), ("label", "ascending")]
    table = pa.concat_tables(parts).sort_by(order)
    events = table["event_id"]
    following = pa.chunked_array([pa.concat_arrays([*events.slice(1).chunks, pa.array([None], pa.string())])])
    return table.filter(pc.fill_null(pc.not_equal(events, following), True)).combine_chunks()


def now() -> datetime:
    """The time of an import."""
    return datetime.now(UTC).replace(microsecond=0)
