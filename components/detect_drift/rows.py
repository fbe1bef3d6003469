"""Read rows of the request log, and labels, from files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.serving.request_log import FEATURE, SCHEMA_VERSION

Floats = npt.NDArray[np.float64]

NEEDED = ("event_id", "time", "model", "bundle_sha256", "schema_version", "sample_rate", "client", "status")
UNCERTAINTIES = ("confidence", "entropy", "energy", "value")
READ = (*NEEDED, "tokens", "predicted", *UNCERTAINTIES, "probabilities")
SUFFIXES = (".parquet", ".jsonl.gz")
OK = 200


@dataclass(frozen=True)
class LogRows:
    """Rows of one bundle, in the order of time.

    Attributes:
        place: Where they were read.
        bundle: The first digits of its sha256.
        scalars: Columns of numbers, NaN where there is none, of the rows that were answered.
        predicted: The predicted class of those rows; None if the model predicts no class.
        probabilities: (N, C), of those rows; None if the model has none.
        events: The ids of those rows.
        repeated: Rows whose id an earlier row has; they are left out.
        failed: Rows whose request was not answered; they are left out of the above.
        largest_client: The share of the rows of the client with the most.
        sample_rates: All that are found.
    """

    place: Path
    model: str
    bundle: str
    start: datetime
    end: datetime
    scalars: Mapping[str, Floats]
    predicted: npt.NDArray[np.str_] | None
    probabilities: Floats | None
    events: Sequence[str]
    repeated: int
    failed: int
    largest_client: float
    sample_rates: tuple[float, ...]

    @property
    def answered(self) -> int:
        """How many rows were answered."""
        return len(self.events)


def read_rows(place: Path) -> LogRows:
    """Read the files below a folder, or one file.

    Raises:
        UsageError: There is no such folder.
        DataError: There are no rows, or rows of several bundles, or a file is cut short or without a column.
    """
    if not place.exists():
        raise UsageError(f"{place}: no such folder, expected one that `gauntlet serve --request-log` wrote.")
    files = [place] if place.is_file() else sorted(one for one in place.rglob("*") if _is_part(one))
    if not files:
        raise DataError(
            f"{place}: found no file that ends in {' or '.join(SUFFIXES)}, expected those of a request log."
        )
    tables, faults = [], []
    for file in files:
        try:
            tables.append(read_part(file))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    table = pa.concat_tables(tables, promote_options="permissive")
    if not table.num_rows:
        raise DataError(f"{place}: found no row, expected some. Name a folder with more hours.")
    for column, name in (
        ("model", "model"),
        ("bundle_sha256", "bundle"),
        ("schema_version", "schema version"),
    ):
        _require_one(place, table, column, name)
    if (schema := table["schema_version"][0].as_py()) != SCHEMA_VERSION:
        raise DataError(f"{place}: schema_version: found {schema}, expected {SCHEMA_VERSION}.")
    return _in_order(place, table.sort_by([("time", "ascending"), ("event_id", "ascending")]))


def _is_part(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def read_part(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The `columns` of one file that it has; by default all that are compared, the kind's features too.

    Raises:
        DataError: The file is cut short, or is none of a request log.
    """

    def is_wanted(name: str) -> bool:
        return name in columns if columns is not None else name in READ or name.startswith(FEATURE)

    try:
        if file.name.endswith(SUFFIXES[0]):
            opened = parquet.ParquetFile(file)  # not read_table: it takes model=… for a column of its own
            names = opened.schema_arrow.names
            found = opened.read([name for name in names if is_wanted(name)])
        else:
            found = json.read_json(file, parse_options=json.ParseOptions(explicit_schema=_schema()))
            names = found.column_names
            found = found.select([name for name in names if is_wanted(name)])
    except (pa.ArrowInvalid, OSError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{file}: cannot be read: {cause}. Remove the file, or copy it again.") from None
    if missing := [name for name in NEEDED if name not in names]:
        raise DataError(f"{file}: found no column {', '.join(missing)}, expected those of a request log.")
    return found.combine_chunks()


def _schema() -> pa.Schema:
    """The types that a file of JSON does not say."""
    texts = dict.fromkeys(("event_id", "model", "bundle_sha256", "client", "predicted", "input"), pa.string())
    numbers = dict.fromkeys(("sample_rate", *UNCERTAINTIES), pa.float64())
    whole = dict.fromkeys(("schema_version", "status", "tokens"), pa.int32())
    times = {"time": pa.timestamp("us", tz="UTC"), "probabilities": pa.list_(pa.float32())}
    return pa.schema([*(texts | numbers | whole | times).items()])


def _require_one(place: Path, table: pa.Table, column: str, name: str) -> None:
    found = [str(one) for one in pc.unique(table[column]).to_pylist()]
    if len(found) > 1:
        raise DataError(
            f"{place}: found rows of {len(found)} {name}s ({', '.join(sorted(found)[:5])}), expected one. "
            "Name a folder of one: model=NAME/version=VERSION below that of the request log."
        )


def _in_order(place: Path, table: pa.Table) -> LogRows:
    times = pc.min_max(table["time"]).as_py()
    if times["min"] is None:
        raise DataError(f"{place}: time: found no value, expected the time of each request.")
    ids = table["event_id"].to_pylist()
    firsts = np.sort(np.unique(np.array(ids, dtype=str), return_index=True)[1])
    single = table.take(firsts)
    clients = pc.value_counts(single["client"]).field("counts").to_numpy(zero_copy_only=False)
    answered = single.filter(pc.equal(single["status"], OK))
    names = [
        name
        for name in answered.column_names
        if name.startswith(FEATURE) or name in (*UNCERTAINTIES, "tokens")
    ]
    scalars = {name: _numbers(answered[name]) for name in names}
    kept = {name: values for name, values in scalars.items() if not np.isnan(values).all()}
    return LogRows(
        place=place,
        model=str(table["model"][0].as_py()),
        bundle=str(table["bundle_sha256"][0].as_py()),
        start=times["min"],
        end=times["max"],
        scalars=kept,
        predicted=_texts(answered, "predicted"),
        probabilities=_vectors(place, answered, "probabilities"),
        events=answered["event_id"].to_pylist(),
        repeated=table.num_rows - single.num_rows,
        failed=single.num_rows - answered.num_rows,
        largest_client=float(clients.max() / single.num_rows),
        sample_rates=tuple(sorted(pc.unique(table["sample_rate"]).to_pylist())),
    )


def _numbers(column: pa.ChunkedArray) -> Floats:
    return column.cast(pa.float64()).fill_null(math.nan).to_numpy().astype(np.float64)  # type: ignore[no-any-return]


def _texts(table: pa.Table, name: str) -> npt.NDArray[np.str_] | None:
    if name not in table.column_names or table[name].null_count == table.num_rows:
        return None
    return np.array(table[name].fill_null("").to_pylist(), dtype=str)


def _vectors(place: Path, table: pa.Table, name: str) -> Floats | None:
    """A column of lists as (N, C), or None if it has no values."""
    if name not in table.column_names or table[name].null_count == table.num_rows:
        return None
    sizes = set(pc.list_value_length(table[name]).to_pylist())
    if len(sizes) > 1 or None in sizes:
        found = ", ".join(sorted(map(str, sizes)))
        raise DataError(f"{place}: {name}: found lists of {found} numbers, expected one length in all rows.")
    values = pc.list_flatten(table[name]).to_numpy().astype(np.float64)
    return values.reshape(table.num_rows, -1)  # type: ignore[no-any-return]


# --- labels ------------------------------------------------------------------------------------------


def read_labels(file: Path) -> dict[str, str]:
    """The label of each event id: a table with `event_id`, `label` and, if some came twice, `labelled_at`.

    Raises:
        UsageError: There is no such file, or it is neither Parquet nor CSV.
        DataError: The table lacks a column, or an event has two labels and no time says which is newer.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file, expected a table of labels: Parquet or CSV.")
    try:
        if file.suffix == ".parquet":
            table = parquet.read_table(file)
        elif file.suffix == ".csv":
            texts = {"event_id": pa.string(), "label": pa.string()}
            table = csv.read_csv(file, convert_options=csv.ConvertOptions(column_types=texts))
        else:
            raise UsageError(f"{file}: found the suffix {file.suffix!r}, expected .parquet or .csv.")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: cannot be read: {str(error).splitlines()[0]}.") from None
    if missing := [name for name in ("event_id", "label") if name not in table.column_names]:
        raise DataError(f"{file}: found no column {' and no '.join(missing)}, expected event_id and label.")
    has_times = "labelled_at" in table.column_names
    if has_times:
        table = table.sort_by([("labelled_at", "ascending")])
    found: dict[str, str] = {}
    for event, label in zip(table["event_id"].to_pylist(), map(str, table["label"].to_pylist()), strict=True):
        if not has_times and found.get(event, label) != label:
            raise DataError(
                f"{file}: event_id {event}: found the labels {found[event]} and {label}, expected one. "
                "Add a column labelled_at: the newest label counts."
            )
        found[event] = label
    return found


def labels_of(rows: LogRows, labels: Mapping[str, str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    """The positions of the rows that have a label, in the order of time, and their labels."""
    at = np.array([place for place, event in enumerate(rows.events) if event in labels], dtype=np.int64)
    return at, np.array([labels[rows.events[place]] for place in at], dtype=str)
