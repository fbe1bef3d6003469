"""Read a file of texts piece by piece, so that memory does not grow with the file.

A file that is plain in its format is read by libraries in C, a piece at a time. Any other file is left to the
parser of `records.py`, which knows the forms that files have in practice and needs the whole file.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import mmap
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from gauntlet.backends import storage
from gauntlet.backends.google.bigquery import NESTED
from gauntlet.backends.memory import require_memory
from gauntlet.components.validate_data.columns import are_blank
from gauntlet.components.validate_data.packed import ZIP_SUFFIX, is_packed, unpack_file
from gauntlet.components.validate_data.text import excerpt, find_fault, repair
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.where import holds
from gauntlet.tasks.texts.delimited import (
    DELIMITER_NAMES,
    QUOTE,
    SEPARATOR_LINE,
    TAB,
    Row,
    csv_reader,
    names_of,
    read_header,
)
from gauntlet.tasks.texts.files import EXAMINED_BYTES, MARKS, SourceFile, format_of, open_bigquery
from gauntlet.tasks.texts.manifest import Columns, TextTable
from gauntlet.tasks.texts.records import (
    ARROW_MAGIC,
    HEADERLESS_DELIMITERS,
    SHOWN_COLUMNS,
    SUFFIX_FORMATS,
    Labels,
    Records,
    class_names_of,
    joined,
    named_class,
    parse,
    pick_columns,
    read_joined,
    values_of,
    with_partition,
)

ROWS = 100_000
"""The most rows of a piece."""

HEAD = 2**20
"""The bytes in which the header of a plain file lies."""

MOST_SIMPLE_COLUMNS, MOST_SIMPLE = 64, 2**28
"""The columns and characters of rows that `_simple_columns` reads; more are left to Python's reader."""

MOST_BLOCK = 2**31 - 1
"""Bytes, so that Arrow reads the rows in one block."""

Ints = npt.NDArray[np.int64]
Values: TypeAlias = Sequence[Any] | pa.Array
"""The values of a column: objects of Python, or an array of Arrow."""

NAMED_BY_WHERE = "dataset.where names it, and the columns found are"
JSON_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NOT_STRINGS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, UnicodeEncodeError)


@dataclass(frozen=True)
class Piece:
    """Rows of one file that follow each other, n of them.

    Attributes:
        texts: Strings (n,); null where a text is missing or blank. U+FFFD is in the place of what is no
            character.
        faults: In words (n,), what was replaced first in a text; else null.
        values: The different values of the label column, as the file has them.
        codes: The place of each row's value in `values`, (n,).
        lines: Where each row is in the file, in a `unit` such as `line`, (n,).
        times: The values of the time column, or None if the manifest does not name one.
    """

    texts: pl.Series
    faults: pl.Series
    values: Sequence[Any]
    codes: Ints
    lines: Ints
    unit: str
    times: Sequence[Any] | None = None


def is_missing(value: Any) -> bool:
    """Whether a file has no value there: None, or NaN as parquet has it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class NotPlain(Exception):
    """A file that the parser of `records.py` must read, or refuse."""


def readers(dataset: TextTable, file: SourceFile) -> tuple[Callable[[], Iterator[Piece]], ...]:
    """What reads the rows of a file: the first that does not raise `NotPlain`, which may come after pieces.

    They raise:
        DataError: The file is malformed, without a column or without rows.
        UsageError: The manifest asks for what cannot be read.
    """
    if file.is_table:
        return (partial(_read_bigquery, dataset, file),)
    form = format_of(file.name, dataset.format, SUFFIX_FORMATS)
    packed = file.name.lower().endswith(ZIP_SUFFIX)  # its file's own name decides
    by_form = BY_POSITION if isinstance(dataset.columns.text, int) else PLAIN
    plain = None if packed else by_form.get(form or "")
    whole = partial(_read_whole, dataset, file)
    return (whole,) if plain is None else (partial(plain, dataset, file), whole)


def _read_whole(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    require_memory(file.name, storage.size_of(file.uri))
    content = storage.read_bytes(file.uri)

    def read(columns: Columns) -> Records:
        form, encoding = dataset.format, dataset.encoding
        return parse(content, file.name, form, columns, encoding, file.partition, dataset.max_expansion)

    records = _kept(read_joined(dataset, read), read, dataset, file)
    for start in range(0, len(records.texts), ROWS):
        yield _of_records(records, slice(start, start + ROWS), file.name, dataset.columns.key("text"))


def _kept(
    records: Records, read: Callable[[Columns], Records], dataset: TextTable, file: SourceFile
) -> Records:
    """The records for which `dataset.where` is true; `read` gives the values of a column as texts."""
    if dataset.where is None:
        return records
    if isinstance(dataset.columns.text, int):
        raise UsageError(
            f"{file.name}: dataset.where: found {dataset.where}, expected none: a file without a header has "
            "no names of columns. Give it a header"
        )
    try:
        columns = {
            column: read(dataset.columns.model_copy(update={"text": column})).texts
            for column in dataset.where_columns
        }
    except DataError as error:
        advice = f"set {dataset.columns.key('text')} to one of the columns found"
        raise DataError(str(error).replace(advice, NAMED_BY_WHERE)) from None
    kept = holds(dataset.where, columns, file.name)
    return Records(
        texts=list(compress(records.texts, kept)),
        labels=list(compress(records.labels, kept)),
        places=list(compress(records.places, kept)),
        times=None if records.times is None else list(compress(records.times, kept)),
    )


# --- plain files -------------------------------------------------------------------------------------


@contextmanager
def _opened(file: SourceFile, dataset: TextTable) -> Iterator[IO[bytes]]:
    """The file on this machine: itself, or if it is elsewhere or compressed a copy that is deleted."""
    path = storage.local_path(file.uri)
    with tempfile.TemporaryDirectory(prefix="gauntlet-") as folder:
        if path is None:
            path = Path(folder, "stored")
            storage.fetch(file.uri, path)
        if is_packed(file.name):
            path = unpack_file(path, Path(folder, "unpacked"), file.name, dataset.max_expansion)
        if not path.is_file():
            raise NotPlain
        with path.open("rb") as stream:
            yield stream


@dataclass(frozen=True)
class _Named:
    """The places of a file's columns: of the text or those that are joined, of labels, time and `where`.

    `names` are those of the file's own columns and of those of its path, which come after them.
    """

    names: Sequence[str]
    texts: tuple[int, ...]
    labels: Labels
    time: int | None
    where: tuple[int, ...] = ()

    def own(self, file: SourceFile) -> list[int]:
        """The places of those that are in the file itself."""
        labels = (self.labels,) if isinstance(self.labels, int) else self.labels
        places = [*self.texts, *labels, *(() if self.time is None else (self.time,)), *self.where]
        return [at for at in dict.fromkeys(places) if at < len(self.names) - len(file.partition)]


def _named(dataset: TextTable, own: Sequence[str], file: SourceFile) -> _Named:
    """Raises what `pick_columns` does."""
    columns, names = dataset.columns, with_partition(own, file.partition)
    texts, labels = [], []
    for text in dataset.joined_columns or (columns.text,):
        of_text = columns.model_copy(update={"text": text})
        place, label = pick_columns(names, of_text, file.name, file.partition)
        texts.append(place)
        labels.append(label)
    time = None if columns.time is None else names.index(str(columns.time))
    if absent := [column for column in dataset.where_columns if column not in names]:
        listed = ", ".join(excerpt(name)[1:-1] for name in names[:SHOWN_COLUMNS])
        raise DataError(f"{file.name}: no column {' and '.join(absent)}: {NAMED_BY_WHERE}: {listed}")
    where = tuple(names.index(column) for column in dataset.where_columns)
    return _Named(names, tuple(texts), labels[0], time, where)


def _pieces(
    dataset: TextTable,
    file: SourceFile,
    found: _Named,
    own: Callable[[int], Values],
    lines: Ints,
    unit: str,
) -> Iterator[Piece]:
    """A piece of the columns of a file, each by its place; those of its path have one value.

    None if `dataset.where` is true of no row.
    """
    kept = np.arange(len(lines))

    def column(at: int) -> Values:
        of_path = at - len(found.names) + len(file.partition)
        if of_path >= 0:
            return [file.partition[of_path][1]] * len(kept)
        return own(at) if len(kept) == len(lines) else _taken(own(at), kept)

    if dataset.where is not None:
        values_of_where = {found.names[at]: column(at) for at in found.where}
        kept = holds(dataset.where, values_of_where, file.name).arg_true().to_numpy().astype(np.int64)
        if not len(kept):
            return
    key = dataset.columns.key("text")
    values: Values
    if dataset.joined_columns:
        rows = zip(*(as_list(column(place)) for place in found.texts), strict=True)
        values = [joined(dataset, dict(zip(dataset.joined_columns, row, strict=True))) for row in rows]
    else:
        values = column(found.texts[0])
    places = lines[kept]
    texts, faults = strings(values, lambda at: f"{file.name} {unit} {places[at]}", key)
    if isinstance(found.labels, int):
        labels = column(found.labels)
    else:
        labels = list(zip(*(as_list(column(place)) for place in found.labels), strict=True))
    different, codes = distinct(labels)
    times = None if found.time is None else as_list(column(found.time))
    yield Piece(texts, faults, different, codes, places, unit, times)


def _taken(values: Values, kept: Ints) -> Values:
    return values.take(pa.array(kept)) if isinstance(values, pa.Array) else [values[at] for at in kept]


def _read_delimited(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    """A file in UTF-8 that RFC 4180 reads without a fault, with a header."""
    with _opened(file, dataset) as stream:
        header, delimiter = _header(dataset, file, stream.read(HEAD))
        found = _named(dataset, header, file)
        stream.seek(0)
        lines = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        try:
            start = _after_header(lines, header, delimiter)
            for columns, places in _columns_of(lines, start, len(header), delimiter, found.own(file)):
                yield from _pieces(dataset, file, found, columns.__getitem__, places, "line")
        except csv.Error:
            raise NotPlain from None


def _read_headerless(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    """A file in UTF-8 without header and quotes, whose rows have the same number of fields."""
    text, label, time = dataset.columns.text, dataset.columns.label, dataset.columns.time
    if not (
        isinstance(text, int)
        and isinstance(label, int | None)
        and isinstance(time, int | None)
        and dataset.where is None
        and not dataset.joined_columns
    ):
        raise NotPlain
    with _opened(file, dataset) as stream:
        head = _plain_head(dataset, stream.read(HEAD))
        first = next(filter(str.strip, head.splitlines()))
        is_tab = format_of(file.name, dataset.format, SUFFIX_FORMATS) == "tsv"
        widths = {one: first.count(one) + 1 for one in ((TAB,) if is_tab else HEADERLESS_DELIMITERS)}
        wide = [one for one, width in widths.items() if width > max(text, label or 0, time or 0, 1)]
        if not wide:
            raise NotPlain
        width = widths[wide[0]]  # lines of other widths raise NotPlain, and the next separator is tried
        others = [at for at in range(width) if at not in (text, time)] if label is None else [label]
        if len(others) > 1:
            raise NotPlain
        names = [*map(str, range(width)), *(column for column, _ in file.partition)]
        found = _Named(names, (text,), others[0], time)
        stream.seek(0)
        lines = _without_quotes(io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline=""))
        try:
            for columns, places in _columns_of(lines, (0, 0), width, wide[0], found.own(file)):
                yield from _pieces(dataset, file, found, columns.__getitem__, places, "line")
        except csv.Error:
            raise NotPlain from None


def _without_quotes(lines: Iterator[str]) -> Iterator[str]:
    """The lines, none of which has a quote, so that a row is what its separators say."""
    for line in lines:
        if QUOTE in line:
            raise NotPlain
        yield line


def _after_header(lines: Iterator[str], header: Sequence[str], delimiter: str) -> tuple[int, int]:
    """How many rows end with the header, blank ones included, and in which line it ends."""
    reader = csv_reader(lines, delimiter)
    rows = 0
    for fields in reader:
        rows += 1
        if not _is_blank_row(fields):
            if names_of(Row(1, tuple(fields))) != header:
                raise NotPlain
            break
    return rows, reader.line_num


def _columns_of(
    lines: Iterator[str], start: tuple[int, int], width: int, delimiter: str, wanted: Sequence[int]
) -> Iterator[tuple[Mapping[int, Values], Ints]]:
    """The wanted columns of all rows, in pieces, and the line in which each row begins.

    Line ends in quotes become LF.

    Args:
        lines: From the first row on.
        start: The rows before it, which belong to the first piece, and their lines.
        width: Fields in each row.
        delimiter: Between them.
        wanted: The places of the columns.
    """
    before, end = start
    while block := list(islice(lines, ROWS - before)):
        columns = _simple_columns("".join(block), width, delimiter, wanted)
        if columns is not None:
            yield columns, np.arange(end + 1, end + 1 + len(block))
            end += len(block)
        else:
            reader = csv_reader(chain(block, lines), delimiter)
            rows = list(islice(reader, ROWS - before))
            places = end + np.arange(1, 1 + len(rows))
            if reader.line_num > len(rows):  # some rows have line ends in quotes
                rows = [[field.replace("\r\n", "\n").replace("\r", "\n") for field in row] for row in rows]
                heights = [1 + sum(field.count("\n") for field in row) for row in rows]
                places = end + 1 + np.cumsum([0, *heights])[:-1]
            end += reader.line_num
            kept = [at for at, row in enumerate(rows) if not _is_blank_row(row)]
            if {len(rows[at]) for at in kept} - {width}:
                raise NotPlain
            if kept:
                every = list(zip(*(rows[at] for at in kept), strict=True))
                yield {at: every[at] for at in wanted}, places[kept]
        before = 0


def _is_blank_row(fields: Sequence[str]) -> bool:
    return len(fields) < 2 and not any(field.strip(" ") for field in fields)


def _simple_columns(
    content: str, width: int, delimiter: str, wanted: Sequence[int]
) -> Mapping[int, pa.Array] | None:
    """The wanted columns of lines that are one row each; None if a line is anything else, or blank."""
    if not 1 < width <= MOST_SIMPLE_COLUMNS or len(content) > MOST_SIMPLE or content.startswith("\ufeff"):
        return None
    other = re.escape(delimiter)
    field = rf'(?:"(?:[^"\r\n]|"")*"|[^"{other}\r\n]*)'
    row = rf"{field}(?:{other}{field}){{{width - 1}}}"
    try:
        texts = pl.Series([content], dtype=pl.String)
    except UnicodeEncodeError:
        return None
    if not texts.str.contains(rf"\A(?:{row}\r?\n)*(?:{row})?\z").item():
        return None
    names = [str(at) for at in range(width)]
    table = arrow_csv.read_csv(
        pa.BufferReader(content.encode()),
        arrow_csv.ReadOptions(use_threads=False, block_size=MOST_BLOCK, column_names=names),
        arrow_csv.ParseOptions(delimiter=delimiter),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), include_columns=[names[at] for at in wanted]
        ),
    )
    return {at: table.column(names[at]).combine_chunks() for at in wanted}


def _header(dataset: TextTable, file: SourceFile, head: bytes) -> tuple[list[str], str]:
    """The names of the columns and the delimiter, given the first bytes of the file."""
    content = _plain_head(dataset, head)
    is_tab = format_of(file.name, dataset.format, SUFFIX_FORMATS) == "tsv"
    headers = {one: read_header(content, one) for one in ((TAB,) if is_tab else DELIMITER_NAMES)}
    text = (dataset.joined_columns or (dataset.columns.text,))[0]
    delimiter = max(headers, key=lambda one: (text in headers[one], len(headers[one])))
    return headers[delimiter], delimiter


def _plain_head(dataset: TextTable, head: bytes) -> str:
    """The beginning of a file of UTF-8."""
    content = head.decode("utf-8-sig", errors="surrogateescape")
    if (
        dataset.encoding not in (None, "utf-8", "utf-8-sig")
        or any(head.startswith(mark) for mark in MARKS)
        or b"\0" in head[:EXAMINED_BYTES]
        or SEPARATOR_LINE.match(content)
        or not content.strip()
    ):
        raise NotPlain
    return content


def _read_json(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    """A file in UTF-8 with a JSON object in each line, or an array of objects, whatever its suffix."""
    if dataset.encoding not in (None, "utf-8", "utf-8-sig"):
        raise NotPlain
    with _opened(file, dataset) as stream:
        start = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
        stream.seek(start)
        is_array = stream.read(HEAD).lstrip().startswith(b"[")
        stream.seek(start)
        names: list[str] = []
        for objects, numbers in _items(stream, start) if is_array else _lines(stream):
            if len(objects) != len(numbers) or set(map(type, objects)) != {dict}:
                raise NotPlain
            keys = list(dict.fromkeys(chain.from_iterable(objects)))
            if not names:
                names, found = keys, _named_of_plain(dataset, keys, file)
            elif dataset.columns.label is None and not {*keys} <= {*names}:
                raise NotPlain  # which column is the label depends on all keys of the file

            columns = {at: [item.get(found.names[at]) for item in objects] for at in found.own(file)}
            unit = "object" if is_array else "line"
            yield from _pieces(dataset, file, found, columns.__getitem__, numbers, unit)


def _lines(stream: IO[bytes]) -> Iterator[tuple[list[Any], Ints]]:
    """The values in the lines that are not blank, in pieces, and the numbers of these lines."""
    decoder = msgspec.json.Decoder()
    start = 0
    while lines := list(islice(stream, ROWS)):
        try:
            values = decoder.decode_lines(b"".join(lines))
        except JSON_FAULTS:
            raise NotPlain from None
        numbers = np.arange(start + 1, start + 1 + len(lines))
        start += len(lines)
        if len(values) < len(lines):
            numbers = numbers[[bool(line.strip()) for line in lines]]
        if values:
            yield values, numbers


def _items(stream: IO[bytes], start: int) -> Iterator[tuple[list[Any], Ints]]:
    """The items of an array, in pieces, and their numbers; only what is being read is in memory."""
    decoder = msgspec.json.Decoder()
    content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))[start:]
    try:
        items = msgspec.json.decode(content, type=list[msgspec.Raw])
        for first in range(0, len(items), ROWS):
            values = [decoder.decode(item) for item in items[first : first + ROWS]]
            yield values, np.arange(first + 1, first + 1 + len(values))
    except JSON_FAULTS:
        raise NotPlain from None


def _named_of_plain(dataset: TextTable, names: Sequence[str], file: SourceFile) -> _Named:
    """As `_named`; a column that the first rows lack may be in later ones, which the whole file says."""
    try:
        return _named(dataset, names, file)
    except DataError:
        raise NotPlain from None


def _read_parquet(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from parquet.iter_batches(batch_size=ROWS, columns=columns)

    with _opened(file, dataset) as stream, _plain_arrow(dataset):
        parquet = pq.ParquetFile(stream, pre_buffer=False)  # which would hold all that was read
        yield from _of_batches(dataset, file, parquet.schema_arrow, batches)


def _read_arrow(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    """A file of Arrow's IPC format, as Feather is one, or a stream of it, as `datasets` saves it."""

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        found = map(arrow.get_batch, range(arrow.num_record_batches)) if is_file else iter(arrow)
        for batch in found:
            for start in range(0, len(batch), ROWS):
                yield batch.slice(start, ROWS).select(columns)

    with _opened(file, dataset) as stream, _plain_arrow(dataset):
        is_file = stream.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        stream.seek(0)
        arrow = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(stream)
        yield from _of_batches(dataset, file, arrow.schema, batches)


@contextmanager
def _plain_arrow(dataset: TextTable) -> Iterator[None]:
    """Leave the message about a file that is cut short, or is said to be text, to the other parser."""
    if dataset.encoding is not None:
        raise NotPlain
    try:
        yield
    except (pa.ArrowException, OSError):
        raise NotPlain from None


def _of_batches(
    dataset: TextTable,
    file: SourceFile,
    schema: pa.Schema,
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]],
) -> Iterator[Piece]:
    """The pieces of a file with this schema; `batches` gives some of its columns."""
    found = _named(dataset, schema.names, file)
    label = found.names[found.labels] if isinstance(found.labels, int) else ""
    class_names = class_names_of(schema.metadata, label)
    start = 0
    for batch in batches([schema.names[at] for at in found.own(file)]):
        columns = {at: batch.column(schema.names[at]) for at in found.own(file)}
        lines = np.arange(start, start + len(batch))
        start += len(batch)
        if len(batch):
            for piece in _pieces(dataset, file, found, columns.__getitem__, lines, "row"):
                yield replace(piece, values=[named_class(one, class_names) for one in piece.values])


def _read_bigquery(dataset: TextTable, file: SourceFile) -> Iterator[Piece]:
    """A table, or the result of a query; the columns that are wanted are read once."""
    rows = open_bigquery(file, dataset)

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        nested = [column for column in columns if rows.columns[column] in NESTED]
        if nested:
            raise DataError(
                f"{file.name}: the column {nested[0]} is nested ({rows.columns[nested[0]]}), expected a "
                f"value in each row. Set dataset.query to SELECT {nested[0]}.FIELD AS {nested[0]}, … FROM …"
            )
        table = rows.read(columns, dataset.max_cost_usd)
        if not table.num_rows:
            raise DataError(f"{file.name}: found no rows. Correct dataset.uri or dataset.query")
        yield from table.to_batches(max_chunksize=ROWS)

    yield from _of_batches(dataset, file, pa.schema([(name, pa.null()) for name in rows.columns]), batches)


PLAIN: Mapping[str, Callable[[TextTable, SourceFile], Iterator[Piece]]] = {
    "csv": _read_delimited,
    "tsv": _read_delimited,
    "jsonl": _read_json,
    "json": _read_json,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}
"""What reads the plain files of a format."""

BY_POSITION = {"csv": _read_headerless, "tsv": _read_headerless}
"""The same where columns are positions."""


# --- values ------------------------------------------------------------------------------------------


def _of_records(records: Records, part: slice, name: str, key: str) -> Piece:
    places = [place.rpartition(" ") for place in records.places[part]]
    lines = np.array([int(number) for *_, number in places], dtype=np.int64)
    unit = places[0][0]
    texts, faults = strings(records.texts[part], lambda at: f"{name} {unit} {lines[at]}", key)
    values, codes = distinct(records.labels[part])
    times = None if records.times is None else records.times[part]
    return Piece(texts, faults, values, codes, lines, unit, times)


def as_list(values: Values) -> Sequence[Any]:
    """The values of a column as objects of Python."""
    return values_of(values) if isinstance(values, pa.Array) else values


def strings(values: Values, place: Callable[[int], str], key: str) -> tuple[pl.Series, pl.Series]:
    """`texts` and `faults` of a `Piece`, given the values of the text column.

    Raises:
        DataError: One is not a string; `key` is that of the text column in the manifest.
    """
    try:
        texts = pl.Series("text", _as_strings(values))
        return _without_blank(texts), pl.repeat(None, len(texts), dtype=pl.String, eager=True)
    except NOT_STRINGS:
        pass
    found: list[str | None] = []
    faults: list[str | None] = []
    for at, value in enumerate(as_list(values)):
        if not (is_missing(value) or isinstance(value, str)):
            raise DataError(
                f"{place(at)}: found {excerpt(str(value))} ({type(value).__name__}) in the text column, "
                f"expected a string. Set {key} to the column that holds the text"
            )
        text = None if is_missing(value) else repair(value)
        found.append(text)
        faults.append(None if text == value or text is None else find_fault(value))
    return _without_blank(pl.Series("text", found, dtype=pl.String)), pl.Series(faults, dtype=pl.String)


def _as_strings(values: Values) -> pa.Array:
    """Raises one of `NOT_STRINGS` if a value is neither a string in Unicode nor missing."""
    if not isinstance(values, pa.Array):
        return pa.array(values, pa.large_string())
    return values.cast(pa.large_binary()).cast(pa.large_string())  # only from binary is Unicode checked


def _without_blank(texts: pl.Series) -> pl.Series:
    return pl.select(pl.when(~are_blank(texts)).then(texts)).to_series()


def distinct(values: Values) -> tuple[list[Any], Ints]:
    """The different values, in the order of their first places, and the number of each value among them.

    Values of different types are different, even 1, 1.0 and true.
    """
    try:
        column = values if isinstance(values, pa.Array) else pa.array(values, pa.large_string())
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        encoded = column.dictionary_encode(null_encoding="encode")
        return values_of(encoded.dictionary), encoded.indices.to_numpy().astype(np.int64)
    except NOT_STRINGS:
        pass
    numbers: dict[Any, int] = {}
    found: list[Any] = []
    codes = np.empty(len(values), dtype=np.int64)
    for at, value in enumerate(as_list(values)):
        key = value if value.__class__ is str else (value.__class__, repr(value))
        number = numbers.setdefault(key, len(found))
        if number == len(found):
            found.append(value)
        codes[at] = number
    return found, codes
