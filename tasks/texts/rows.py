"""The rows of a dataset of texts as they were read: texts on disk, in memory what checks ask of every row.

N = rows, numbered from 0 on in the order of the files; K = distinct keys, numbered in the order of their
first rows.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa

from gauntlet.components.validate_data.carving import Hashes, hashes_of
from gauntlet.components.validate_data.columns import are_faulty, normalise_all
from gauntlet.components.validate_data.duplicates import Flags, Numbers
from gauntlet.components.validate_data.packed import unpacked_name
from gauntlet.components.validate_data.text import find_fault, repair
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError, GauntletError
from gauntlet.tasks.texts.files import SourceFile
from gauntlet.tasks.texts.pieces import Ints, NotPlain, Piece, distinct, is_missing
from gauntlet.tasks.texts.threads import in_order

Targets = Callable[[Sequence[Any]], Mapping[str, Sequence[Any]]]
"""The columns that a kind makes of some values of the label column. One of them is `label`: in words, what a
row is to be answered with, or None if that is missing."""

SPLIT = pd.CategoricalDtype(list(SPLITS))
"""The type of the column `split`."""

NO_CODE = -1
PART_SHIFT = np.uint64(60)  # sixteen parts
READ = ("text", "fault", "place", "row")
"""The columns that are made of what is on disk, and of the file and the line."""


class Shelf:
    """Columns of strings in an Arrow file, which is deleted with the object. Rows are numbered from 0 on."""

    def __init__(self, *columns: str) -> None:
        """Begin an empty file where the system keeps temporary files (TMPDIR)."""
        folder = Path(tempfile.mkdtemp(prefix="gauntlet-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._path = str(folder / "rows.arrow")
        self._schema = pa.schema([(column, pa.large_string()) for column in columns])
        self._writer = pa.ipc.new_file(self._path, self._schema)
        self._file: pa.ipc.RecordBatchFileReader | None = None
        self._starts = [0]
        self._batches: list[int] = []
        self._written = 0

    def __len__(self) -> int:
        """How many rows there are."""
        return self._starts[-1]

    @property
    def pieces_written(self) -> int:
        """How many pieces there are."""
        return len(self._batches)

    def forget(self, kept: int) -> None:
        """Forget all pieces but the first `kept`."""
        del self._batches[kept:], self._starts[kept + 1 :]

    def add(self, *columns: pl.Series) -> None:
        """Write rows after those before; nothing may have been read."""
        if len(columns[0]):
            arrays = [column.to_arrow().cast(pa.large_string()) for column in columns]
            try:
                self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            except OSError as error:
                raise GauntletError(
                    f"{self._path}: cannot keep the texts on disk while they are checked ({error}). "
                    "Make room there, or set the environment variable TMPDIR to a folder with more"
                ) from None
            self._starts.append(len(self) + len(columns[0]))
            self._batches.append(self._written)
            self._written += 1

    def pieces(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """The number of each piece's first row, and the piece."""
        for at, start in enumerate(self._starts[:-1]):
            yield start, self._piece(at)

    def pieces_of(
        self, numbers: Numbers, some: Flags | None = None
    ) -> Iterator[tuple[Numbers, pl.DataFrame]]:
        """The rows with these ascending numbers in pieces, and the places of each piece among the numbers.

        `some` says which of the numbers are meant; by default all are.
        """
        for at, place in self._places(numbers):
            places = np.arange(place.start, place.stop)
            if some is not None:
                places = places[some[place]]
            if len(places):
                yield places, self._piece(at)[numbers[places].astype(np.int64) - self._starts[at]]

    def take(self, numbers: Ints) -> pl.DataFrame:
        """The rows with these numbers, in their order."""
        ascending, places = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
        parts = [  # by Arrow, which copies the strings: those of polars would keep their pieces in memory
            self._batch(at).take(pa.array(ascending[place] - self._starts[at]))
            for at, place in self._places(ascending)
        ]
        return pl.DataFrame(pa.Table.from_batches(parts, self._schema))[places]

    @property
    def chunks(self) -> Iterator[pa.Array]:
        """The first column, piece by piece."""
        for _, piece in self.pieces():
            yield piece.to_series().to_arrow().cast(pa.large_string())

    def _places(self, numbers: Numbers) -> Iterator[tuple[int, slice]]:
        """The pieces that have some of these ascending numbers, and where these lie among all."""
        ends = np.searchsorted(numbers, np.array(self._starts, numbers.dtype)).tolist()
        for at, (start, end) in enumerate(pairwise(ends)):
            if end > start:
                yield at, slice(start, end)

    def _piece(self, at: int) -> pl.DataFrame:
        return pl.DataFrame(self._batch(at))

    def _batch(self, at: int) -> pa.RecordBatch:
        if self._file is None:
            self._writer.close()
            self._file = pa.ipc.open_file(pa.OSFile(self._path))
        return self._file.get_batch(self._batches[at])


@dataclass(frozen=True)
class FileRows:
    """Rows of one file: the number of the first, how many are before it in its split, and what places say."""

    file: SourceFile
    start: int
    before: int
    unit: str
    rows: int


class TextRows:
    """A table of N rows. Parts of it are read as from a table of pandas: `rows["text"]`, `rows.loc[[3, 5]]`.

    Its columns are `text` (None if missing or blank), those that a kind makes of the label column, `fault`
    (the first encoding fault in words, or None), `split` (of the file), `place` (file and line) and `row`
    (position in the split's files, from 0); `time` as it was found, if the manifest names its column. Texts
    and labels are valid Unicode: invalid characters are replaced by U+FFFD.

    Attributes:
        small: The columns in memory, (N,): all but those of `READ`, and `has_text`, `faulty` and `length`, in
            characters.
        shelf: The columns `text` and `fault` on disk; `fault` only of what was replaced.
    """

    def __init__(self, small: pd.DataFrame, shelf: Shelf, lines: Ints, files: Sequence[FileRows]) -> None:
        """`lines` (N,) says where each row is in its file."""
        self.small, self.shelf = small, shelf
        self._lines, self._files = lines, files
        self._starts = np.array([file.start for file in files], dtype=np.int64)

    def __len__(self) -> int:
        """N."""
        return len(self.small)

    @property
    def index(self) -> pd.Index[int]:
        """The numbers of the rows."""
        return self.small.index

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [*READ, *self.small.columns]

    def __getitem__(self, columns: Any) -> Any:
        """A column of all rows, or a table of several."""
        if isinstance(columns, str) and columns in self.small:
            return self.small[columns]
        return self.read(self.index)[columns]

    @property
    def loc(self) -> _Located:
        """Some rows, by their numbers."""
        return _Located(self)

    def read(self, rows: pd.Index[int]) -> pd.DataFrame:
        """All columns of some rows."""
        small = self.small.iloc[rows.to_numpy(np.int64)].set_axis(rows)
        found = self.shelf.take(rows.to_numpy(np.int64))
        texts, faults = found["text"].to_list(), found["fault"].to_list()
        for at in np.flatnonzero(small["faulty"]).tolist():
            of_text = faults[at] or (texts[at] and find_fault(texts[at]))
            faults[at] = of_text or small["label_fault"].iat[at]
        strings = {"text": texts, "fault": faults, "place": self.places(rows)}
        columns = {name: pd.Series(values, index=rows, dtype="str") for name, values in strings.items()}
        return pd.DataFrame({**columns, "row": self.positions(rows), **small})

    def places(self, rows: pd.Index[int]) -> list[str]:
        """File and line of some rows."""
        numbers = rows.to_numpy(np.int64)
        leads = [f"{file.file.name} {file.unit} " for file in self._files]
        files, lines = self._file_of(numbers).tolist(), self._lines[numbers].tolist()
        return [f"{leads[file]}{line}" for file, line in zip(files, lines, strict=True)]

    def positions(self, rows: pd.Index[int]) -> Ints:
        """The positions of some rows in the files of their split, from 0."""
        numbers = rows.to_numpy(np.int64)
        offsets = np.array([file.before - file.start for file in self._files], dtype=np.int64)
        return numbers + offsets[self._file_of(numbers)]

    def _file_of(self, numbers: Ints) -> Ints:
        return np.searchsorted(self._starts, numbers, side="right") - 1


@dataclass(frozen=True)
class _Located:
    rows: TextRows

    def __getitem__(self, wanted: Any) -> Any:
        if isinstance(wanted, tuple):
            numbers, columns = wanted
            return self.rows.read(pd.Index(numbers, dtype="int64"))[columns]
        return self.rows.read(pd.Index(wanted, dtype="int64"))


def _kind(value: Any) -> str:
    """The kind of a value of a label column, in words; whole numbers and others are of one kind."""
    if isinstance(value, str):
        return "text"
    return "numbers" if isinstance(value, int | float) else type(value).__name__


class RowsCollector:
    """Collects the rows of files, piece by piece."""

    def __init__(self, targets: Targets, key: str = "dataset.columns.label") -> None:
        """`targets` makes the kind's columns of the column that `key` names."""
        self._targets, self._key = targets, key
        self._kinds: dict[tuple[SplitName, str], tuple[str, str]] = {}
        self._shelf = Shelf("text", "fault")
        self._files: list[FileRows] = []
        self._parts: dict[str, list[Any]] = {}
        self._codes: dict[str, dict[Any, int]] = {}

    def add(self, file: SourceFile, readers: Sequence[Callable[[], Iterator[Piece]]]) -> None:
        """Add the rows of a file, as the first reader finds them that can read it.

        Raises:
            DataError: The label column has another type than in a file of the same split and format, or what
                reading raises.
        """
        start, kept = len(self._shelf), self._shelf.pieces_written
        before = sum(other.rows for other in self._files if other.file.split == file.split)
        for read in readers:
            try:
                unit, kinds = "", set[str]()
                for piece in read():
                    unit = piece.unit
                    kinds |= {_kind(value) for value in piece.values if not is_missing(value)}
                    self._add(piece, file)
                if len(self._shelf) > start:
                    break
            except NotPlain:
                self._shelf.forget(kept)
                for parts in self._parts.values():
                    del parts[kept:]
        self._files.append(FileRows(file, start, before, unit, len(self._shelf) - start))
        if len(kinds) == 1:
            self._require_kind(file, kinds.pop())

    def _require_kind(self, file: SourceFile, kind: str) -> None:
        group = (file.split, PurePosixPath(unpacked_name(file.name)).suffix)
        first, expected = self._kinds.setdefault(group, (file.name, kind))
        if kind != expected:
            raise DataError(
                f"{file.name}: {self._key}: found {kind}, and {expected} in {first}, expected one type in "
                f"all files of the split {file.split}. Write the column again, with one type"
            )

    def _add(self, piece: Piece, file: SourceFile) -> None:
        rows = len(piece.texts)
        columns = self._columns(piece)
        of_label = columns["label_fault"] != NO_CODE
        faulty = are_faulty(piece.texts).fill_null(value=False) | piece.faults.is_not_null()
        columns |= {
            "split": np.full(rows, SPLITS.index(file.split), dtype=np.int8),
            "has_text": piece.texts.is_not_null().to_numpy(),
            "faulty": faulty.to_numpy() | of_label,
            "length": piece.texts.str.len_chars().fill_null(0).to_numpy().astype(np.int32),
            "line": piece.lines.astype(np.uint32),
        }
        if piece.times is not None:
            times, codes = distinct(piece.times)  # so that equal times are one object
            columns["time"] = np.array([*times, None], dtype=object)[codes]
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values)
        self._shelf.add(piece.texts, piece.faults)

    def _columns(self, piece: Piece) -> dict[str, npt.NDArray[Any]]:
        """The kind's columns, found once for each different value: numbers, or codes of what was found."""
        found = dict(self._targets(piece.values))
        labels = found.pop("label")
        found["label"] = [label and repair(label) for label in labels]
        found["label_fault"] = [label and find_fault(label) for label in labels]
        columns = {}
        for name, values in found.items():
            if all(isinstance(value, float) for value in values):
                of_values = np.array(values, dtype=np.float64)
            else:
                codes = self._codes.setdefault(name, {None: NO_CODE})
                numbers = [codes.setdefault(one, len(codes) - 1) for one in values]
                of_values = np.array(numbers, dtype=np.min_scalar_type(-len(codes)))
            columns[name] = of_values[piece.codes]
        return columns

    def empty_splits(self) -> set[SplitName]:
        """The splits that have files and no rows."""
        return {one.file.split for one in self._files} - {one.file.split for one in self._files if one.rows}

    def rows(self) -> TextRows:
        """All rows that were added."""
        parts = {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}
        lines, splits = parts.pop("line"), parts.pop("split")
        codes = {name: list(found)[1:] for name, found in self._codes.items()}
        small = {
            name: _coded(values, codes[name]) if name in codes else values for name, values in parts.items()
        }
        small["split"] = pd.Categorical.from_codes(splits, dtype=SPLIT)
        numbers = np.arange(len(lines), dtype=np.int32)
        return TextRows(pd.DataFrame(small, index=pd.Index(numbers)), self._shelf, lines, self._files)


def _coded(codes: npt.NDArray[Any], values: Sequence[Any]) -> pd.Categorical[Any]:
    form = "str" if all(isinstance(value, str) for value in values) else "object"
    categories = pd.Index(pd.Series(list(values), dtype=form))  # a list of tuples would be a MultiIndex
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories))


@dataclass(frozen=True)
class Keys:
    """The normal forms of some rows.

    Attributes:
        numbers: The key of each row, (N,).
        distinct: The keys, on disk, (K,).
    """

    numbers: npt.NDArray[np.int32]
    distinct: Shelf

    def hashes(self) -> Hashes:
        """The hash of each distinct key, (K, 2), made anew in each call."""
        found = np.empty((len(self.distinct), 2), dtype=np.uint64)
        for start, piece in self.distinct.pieces():
            found[start : start + len(piece)] = hashes_of(piece["key"].to_list())
        return found


def number_keys(table: TextRows, rows: pd.Index[int]) -> Keys:
    """The keys of some rows, in ascending order, which all have a text."""
    every, prints = Shelf("key"), [np.empty((0, 2), dtype=np.uint64)]

    def read(piece: tuple[Numbers, pl.DataFrame]) -> tuple[pl.Series, npt.NDArray[np.uint64]]:
        keys = normalise_all(piece[1]["text"])
        return keys, np.column_stack([keys.hash(seed).to_numpy() for seed in range(2)])

    for keys, of_piece in in_order(read, table.shelf.pieces_of(rows.to_numpy())):
        every.add(keys)
        prints.append(of_piece)
    numbers, first = _numbered(prints)
    del prints
    distinct = Shelf("key")
    for _, piece in every.pieces_of(first):
        distinct.add(piece["key"])
    return Keys(numbers, distinct)


def _numbered(prints: Sequence[npt.NDArray[np.uint64]]) -> tuple[npt.NDArray[np.int32], Ints]:
    """The number of each row's print of 128 bits, (N,), and the first row of each number, (K,).

    `prints` are those of pieces, (n, 2). Rows are compared in parts, which the first bits of a print tell.
    """
    first = np.empty(sum(map(len, prints)), dtype=np.uint32)
    parts = np.concatenate([(of_piece[:, 0] >> PART_SHIFT).astype(np.uint8) for of_piece in prints])
    for part in np.unique(parts).tolist():
        rows = np.flatnonzero(parts == part).astype(np.uint32)
        ends = np.cumsum([0, *map(len, prints)])
        found = np.concatenate(
            [
                of_piece[parts[start:end] == part]
                for of_piece, start, end in zip(prints, ends, ends[1:], strict=False)
            ]
        )
        frame = pl.DataFrame({"row": rows, "one": found[:, 0], "two": found[:, 1]})
        first[rows] = frame.select(pl.col("row").min().over("one", "two")).to_series().to_numpy()
    is_first = first == np.arange(len(first), dtype=np.uint32)
    numbers = np.cumsum(is_first, dtype=np.int32) - 1
    return numbers[first], np.flatnonzero(is_first)
