"""Read rows of the request log piece by piece, and labels, from files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, json, parquet

from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.serving.request_log import FEATURE

NEEDED = ("event_id", "time", "model", "bundle_sha256", "schema_version", "sample_rate", "client", "status")
UNCERTAINTIES = ("confidence", "entropy", "energy", "value")
READ = (*NEEDED, "tokens", "predicted", *UNCERTAINTIES, "probabilities")
SUFFIXES = (".parquet", ".jsonl.gz")
PIECE_ROWS = 65_536


def parts_below(place: Path) -> list[Path]:
    """The files of a request log below a folder, sorted, or the one file that `place` is.

    Raises:
        UsageError: There is no such folder.
        DataError: There is no file of a request log.
    """
    if not place.exists():
        raise UsageError(f"{place}: no such folder, expected one that `gauntlet serve --request-log` wrote.")
    files = [place] if place.is_file() else sorted(one for one in place.rglob("*") if _is_part(one))
    if not files:
        raise DataError(
            f"{place}: found no file that ends in {' or '.join(SUFFIXES)}, expected those of a request log."
        )
    return files


def _is_part(path: Path) -> bool:
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def read_part(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The `columns` of one file that it has; by default all that are compared, the kind's features too.

    Raises:
        DataError: The file is cut short, or is none of a request log.
    """
    try:
        if file.name.endswith(SUFFIXES[0]):
            opened = parquet.ParquetFile(file)  # not read_table: it takes model=… for a column of its own
            names = opened.schema_arrow.names
            found = opened.read([name for name in names if _is_wanted(name, columns)])
        else:
            found = json.read_json(file, parse_options=json.ParseOptions(explicit_schema=_schema()))
            names = found.column_names
            found = found.select([name for name in names if _is_wanted(name, columns)])
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from None
    _require_columns(file, names)
    return found.combine_chunks()


def _is_wanted(name: str, columns: Sequence[str] | None) -> bool:
    return name in columns if columns is not None else name in READ or name.startswith(FEATURE)


def _unreadable(file: Path, error: Exception) -> DataError:
    cause = str(error).splitlines()[0]
    return DataError(f"{file}: cannot be read: {cause}. Remove the file, or copy it again.")


def _require_columns(file: Path, names: Sequence[str]) -> None:
    if missing := [name for name in NEEDED if name not in names]:
        raise DataError(f"{file}: found no column {', '.join(missing)}, expected those of a request log.")


def _schema() -> pa.Schema:
    """The types that a file of JSON does not say."""
    texts = dict.fromkeys(("event_id", "model", "bundle_sha256", "client", "predicted", "input"), pa.string())
    numbers = dict.fromkeys(("sample_rate", *UNCERTAINTIES), pa.float64())
    whole = dict.fromkeys(("schema_version", "status", "tokens"), pa.int32())
    times = {"time": pa.timestamp("us", tz="UTC"), "probabilities": pa.list_(pa.float32())}
    return pa.schema([*(texts | numbers | whole | times).items()])


@dataclass(frozen=True)
class Parts:
    """The files of a window, which are read piece by piece as often as is asked.

    Attributes:
        place: What messages call it.
    """

    place: Path
    files: Sequence[Path]

    @classmethod
    def below(cls, place: Path) -> Parts:
        """The files below a folder, each of which can be opened.

        Raises:
            UsageError: There is no such folder.
            DataError: There is no such file, or some are cut short or lack a column; all are named.
        """
        files, faults = parts_below(place), []
        for file in files:
            try:
                if file.name.endswith(SUFFIXES[0]):
                    _require_columns(file, parquet.read_schema(file).names)
            except (pa.ArrowInvalid, OSError) as error:
                faults.append(str(_unreadable(file, error)))
            except DataError as error:
                faults.append(str(error))
        if faults:
            raise DataError("\n".join(faults))
        return cls(place, files)

    def served(self) -> tuple[str, str]:
        """The model of the first row, and the first digits of its bundle's sha256.

        Raises:
            DataError: There is no row, or a file is broken.
        """
        for piece in self:
            if piece.num_rows:
                return str(piece["model"][0].as_py()), str(piece["bundle_sha256"][0].as_py())
        raise DataError(f"{self.place}: found no row, expected some. Name a folder with more hours.")

    def __iter__(self) -> Iterator[pa.Table]:
        """Pieces of `PIECE_ROWS` to twice as many rows, but for the last, with the columns that are compared.

        Raises:
            DataError: A file is broken.
        """
        waiting: list[pa.Table] = []
        for file in self.files:
            for batch in _batches(file):
                waiting.append(pa.Table.from_batches([batch]))
                if sum(map(len, waiting)) >= PIECE_ROWS:
                    yield pa.concat_tables(waiting, promote_options="permissive")
                    waiting = []
        if waiting:
            yield pa.concat_tables(waiting, promote_options="permissive")


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a file.

    Nothing is read ahead: pyarrow's scanner of datasets takes twice the memory, and more of the CPUs' time.
    """
    if not file.name.endswith(SUFFIXES[0]):
        yield from read_part(file).to_batches(PIECE_ROWS)
        return
    try:
        opened = parquet.ParquetFile(file)
        names = [name for name in opened.schema_arrow.names if _is_wanted(name, None)]
        yield from opened.iter_batches(PIECE_ROWS, columns=names, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error) from None


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
