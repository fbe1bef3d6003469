"""A first look at a table: what its columns hold, by its first rows. Kinds propose manifests by it."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gauntlet.backends import storage
from gauntlet.components.validate_data.packed import unpack
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.texts.delimited import (
    DELIMITER_NAMES,
    TAB,
    names_of,
    read_header,
    split_rows,
    take_separator,
)
from gauntlet.tasks.texts.files import SourceFile, decode, find_files, format_of, read_objects
from gauntlet.tasks.texts.manifest import TextTable
from gauntlet.tasks.texts.records import SUFFIX_FORMATS

ROWS = 20_000
"""How many rows of the first file are looked at."""
MOST_CLASSES = 200
MOST_NUMBERS = 20  # different whole numbers that can still be classes
FEWEST_ROWS_PER_CLASS = 5
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "topic",
    "intent",
    "sentiment",
    "emotion",
    "y",
)
TEXT_NAMES = ("text", "sentence", "message", "content", "body", "comment", "review", "question", "title")
LONGEST_LABEL = 60  # characters
LONGEST_NAME = 4  # words of a column
SHORTEST_TEXT = 10  # characters, on average


@dataclass(frozen=True)
class ColumnLook:
    """The values of a column that are not missing, as the file has them. `name`: see `TableLook`."""

    name: str | int
    values: Sequence[Any]

    def __str__(self) -> str:
        return self.name if isinstance(self.name, str) else f"column {self.name}"

    @functools.cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs, as a text."""
        return Counter(as_text(value) for value in self.values)

    def named_as(self, names: Sequence[str]) -> bool:
        """Whether the name is one of these, in upper or lower case."""
        return str(self.name).casefold() in names

    @property
    def mean_length(self) -> float:
        """Mean number of characters of a value."""
        return sum(len(value) * count for value, count in self.counts.items()) / max(len(self.values), 1)

    @property
    def is_text(self) -> bool:
        """Whether the values are texts that are mostly different from each other, and longer than a word."""
        texts = all(isinstance(value, str) for value in self.values)
        different = len(self.counts) > len(self.values) / 3
        return texts and bool(self.values) and self.mean_length > SHORTEST_TEXT and different

    @functools.cached_property
    def numbers(self) -> list[float] | None:
        """The values as finite numbers; None if one of them is none."""
        found = []
        for value in self.values:
            try:
                number = math.nan if isinstance(value, bool | list) else float(value)
            except (TypeError, ValueError):
                return None
            if not math.isfinite(number):
                return None
            found.append(number)
        return found or None

    @property
    def is_class(self) -> bool:
        """Whether the values are few and short, and each occurs several times; numbers must be whole."""
        if self.numbers and (len(self.counts) > MOST_NUMBERS or any(number % 1 for number in self.numbers)):
            return False
        several = len(self.values) >= FEWEST_ROWS_PER_CLASS * len(self.counts)
        short = all(len(value) <= LONGEST_LABEL for value in self.counts)
        return 2 <= len(self.counts) <= MOST_CLASSES and several and short


@dataclass(frozen=True)
class TableLook:
    """The first rows of a table: how many were looked at, and its columns by name.

    Where the file has no header the names are positions from 0.
    """

    rows: int
    columns: Mapping[str | int, ColumnLook]

    @property
    def has_header(self) -> bool:
        """Whether the columns have names."""
        return all(isinstance(name, str) for name in self.columns)

    def text(self) -> ColumnLook | None:
        """The column of texts: one of `TEXT_NAMES`, or else the one with the longest."""
        texts = [column for column in self.columns.values() if column.is_text]
        named = [column for column in texts if column.named_as(TEXT_NAMES)]
        return max(named or texts, key=lambda column: column.mean_length, default=None)

    def others(self, text: str | int) -> list[ColumnLook]:
        """The columns beside the text that have values, those with a name of labels first."""
        found = [column for column in self.columns.values() if column.name != text and column.values]
        return sorted(found, key=lambda column: not column.named_as(LABEL_NAMES))


def as_text(value: Any) -> str:
    """A value as a manifest would name it: the number 3.0 of a column of numbers is 3."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def column_keys(look: TableLook, text: ColumnLook, label: ColumnLook) -> dict[str, Any]:
    """The keys of `dataset` for the columns of text and label; none where they are found without."""
    found: dict[str, Any] = {} if text.name == "text" else {"text": text.name}
    if len(look.columns) > 2 or not look.has_header:  # else the label is the only other column
        found["label"] = label.name
    return {"columns": found} if found else {}


def look_at_texts(uri: str) -> tuple[TableLook, ColumnLook] | None:
    """A table and its column of texts; None if it is no table, or has none. Raises as `look_at_table`."""
    look = look_at_table(uri)
    text = None if look is None else look.text()
    return None if look is None or text is None else (look, text)


def look_at_table(uri: str) -> TableLook | None:
    """The first rows of the first file at a URI; None if it is no table.

    Raises:
        DataError: The file is damaged, or holds no rows.
        UsageError: There is nothing at the URI.
    """
    try:
        dataset = TextTable(name="data", version="1", uri=uri)
        file = find_files(dataset, lambda name: format_of(name, "auto", SUFFIX_FORMATS) is not None)[0]
    except DataError:
        return None  # a folder of something else
    return _look_at(file, storage.identities([file.uri])[file.uri])


@functools.lru_cache(maxsize=1)
def _look_at(file: SourceFile, identity: str | None) -> TableLook | None:  # noqa: ARG001  # a key of the cache
    """Each kind looks at the same file, one after the other."""
    data, name = unpack(storage.read_bytes(file.uri), file.name)
    form = format_of(name, "auto", SUFFIX_FORMATS)
    if form is None:
        return None
    records = list(itertools.islice(_records(data, name, form, file), ROWS))
    if not records:
        raise DataError(f"{name}: found no rows. Add rows to it, or name another file")
    columns: dict[str | int, list[Any]] = {}
    for record in records:
        for key, value in record.items():
            values = columns.setdefault(key, [])
            if value is not None and value != "":
                values.append(value)
    return TableLook(len(records), {key: ColumnLook(key, values) for key, values in columns.items()})


def _records(data: bytes, name: str, form: str, file: SourceFile) -> Iterator[Mapping[Any, Any]]:
    of_path: dict[str, Any] = dict(file.partition)
    if form == "parquet":
        import pyarrow.parquet as pq

        try:
            for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(1_000):
                yield from (row | of_path for row in batch.to_pylist())
        except pa.ArrowException as error:
            raise DataError(
                f"{name}: found no parquet file ({error}), expected one. Write it again"
            ) from None
    elif form == "arrow":
        yield from (row | of_path for row in _arrow(data, name).slice(0, ROWS).to_pylist())
    elif form in ("json", "jsonl"):
        content = decode(data, name)
        if content.lstrip().startswith("["):
            try:
                items = json.loads(content)
            except ValueError as error:
                raise DataError(f"{name}: found no JSON ({error}), expected an array of objects") from None
        else:
            items = read_objects(content, name)[0]
        yield from (item | of_path for item in items if isinstance(item, dict))
    else:
        declared, content = take_separator(decode(data, name), name)
        delimiters = (declared,) if declared else (TAB,) if form == "tsv" else tuple(DELIMITER_NAMES)
        delimiter = max(delimiters, key=lambda one: len(read_header(content, one)))
        header, *rows = split_rows(content, delimiter, name)
        names: Sequence[str | int] = names_of(header)
        if any(_is_no_name(each) for each in header.fields):
            names, rows = range(len(header.fields)), [header, *rows]
        yield from ({**dict(zip(names, row.fields, strict=True)), **of_path} for row in rows)


def _is_no_name(field: str) -> bool:
    """Whether a field of the first row shows that the file has no header: it is a number, or a sentence."""
    return field.strip().replace(".", "", 1).isdecimal() or len(field.split()) > LONGEST_NAME


def _arrow(data: bytes, name: str) -> pa.Table:
    for opened in (pa.ipc.open_file, pa.ipc.open_stream):
        try:
            return opened(pa.BufferReader(data)).read_all()
        except pa.ArrowInvalid:
            continue
    raise DataError(f"{name}: found no Arrow file, expected one. Write it again")
