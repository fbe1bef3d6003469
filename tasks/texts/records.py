"""Parse a file of any supported format into texts and labels."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.backends.memory import require_memory
from gauntlet.components.validate_data.packed import unpack
from gauntlet.components.validate_data.text import excerpt
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.tasks.texts.delimited import (
    BAR,
    COMMA,
    DELIMITER_NAMES,
    SEMICOLON,
    TAB,
    QuoteError,
    Row,
    read_header,
    split_rows,
    take_separator,
)
from gauntlet.tasks.texts.files import SHOWN_LINES, decode, format_of, read_objects, unknown_format
from gauntlet.tasks.texts.manifest import Columns, TextTable

SUFFIX_FORMATS = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
ARROW_MAGIC = b"ARROW1"
NO_CLASS = -1  # in test files of the hub that have no labels
Labels = int | tuple[int, ...]
"""The position of the label column, or those of several."""
JOINT = "\n"
"""Between the columns of a text that is joined without a template."""

REPLACED = "\0"
"""The name of a file's own column that its path has too."""

SHOWN_COLUMNS = 12
# Tried in this order in a file without a header. Commas are last, because prose has many.
HEADERLESS_DELIMITERS = (TAB, SEMICOLON, BAR, COMMA)


Partition = Sequence[tuple[str, str | None]]
"""The columns that a file's path gives all its rows."""


@dataclass(frozen=True)
class Records:
    """The rows of one file, in its order.

    Attributes:
        texts: The values of the text column; a byte that is not UTF-8 is a lone surrogate.
        labels: The values of the label column as the file has them: strings, numbers, lists, None. If the
            manifest names several label columns, a tuple of their values.
        places: Where each row is, such as `line 12`.
        times: The values of the time column, or None if the manifest does not name one.
    """

    texts: Sequence[Any]
    labels: Sequence[Any]
    places: Sequence[str]
    times: Sequence[Any] | None = None


def parse(
    data: bytes,
    name: str,
    declared_format: str,
    columns: Columns,
    encoding: str | None = None,
    partition: Partition = (),
    max_expansion: int | None = None,
) -> Records:
    """Parse a file's content; its `name` decides the format if none is declared, and errors name it.

    Args:
        data: The file, compressed or not.
        name: Its name.
        declared_format: `auto`, or one of the formats of `SUFFIX_FORMATS`.
        columns: Where text, label and time are.
        encoding: That of a file of text.
        partition: More columns, with the value that all rows have; they replace the file's own.
        max_expansion: See `unpack`.

    Raises:
        DataError: The content is not of its format, holds no rows or lacks a column, or this machine has too
            little memory for it.
        UsageError: The format is unknown, or columns are positions where the format has names.
    """
    data, inner = unpack(data, name, max_expansion)
    require_memory(name, len(data))
    file_format = format_of(inner, declared_format, SUFFIX_FORMATS)
    if file_format is None:
        raise unknown_format(name, inner, "csv, tsv, jsonl, json, parquet or arrow")
    if not data.strip():
        raise DataError(f"{name}: found an empty file, expected rows. Add rows to it, or correct dataset.uri")
    if file_format in OPENED:
        if encoding is not None:
            raise UsageError(
                f"{name}: dataset.encoding: found {encoding}, expected none: {file_format} is not text. "
                "Remove it"
            )
        records = _parse_arrow(data, name, file_format, columns, partition)
    elif file_format in ("jsonl", "json"):
        records = _parse_json(decode(data, name, encoding), name, columns, partition)
    else:
        content, tab = decode(data, name, encoding), file_format == "tsv"
        records = _parse_delimited(content, name, columns, partition, tab)
    if not records.texts:
        raise DataError(f"{name}: found a header and no rows. Add rows to it, or correct dataset.uri")
    return records


def pick_columns(
    found: Sequence[str], columns: Columns, name: str, partition: Partition = ()
) -> tuple[int, Labels]:
    """Positions of the text and the label column, or of several label columns, among named ones.

    Those of `partition`, which are among them, can be the label without being named if the file has none.

    Raises:
        DataError: A column is missing, or the label column is not named and there are several to choose from.
        UsageError: The manifest gives a position.
    """
    listed = ", ".join(excerpt(column)[1:-1] for column in found[:SHOWN_COLUMNS])
    if len(found) > SHOWN_COLUMNS:
        listed += f" and {len(found) - SHOWN_COLUMNS} more"
    positions = [key for key, value in columns if isinstance(value, int)]
    if positions:
        key = columns.key(positions[0])
        raise UsageError(
            f"{name}: {key}: found a position, expected a name, for the columns have names: {listed}"
        )
    others = [column for column in found if column not in (columns.text, columns.time)]
    of_path = [column for column, _ in partition if column != columns.time]
    others = [column for column in others if column not in (*of_path, REPLACED)] or of_path
    label = others[0] if columns.label is None and len({*others}) == 1 else columns.label
    labels = label if isinstance(label, tuple) else (label,)
    faults = []
    if columns.text not in found:
        faults.append(f"no column {columns.text}: set {columns.key('text')}")
    elif label is None:
        faults.append(f"{len(others)} columns beside the {columns.named('text')}: set {columns.key('label')}")
    missing = [one for one in labels if one is not None and one not in found]
    faults += [f"no column {one}: set {columns.key('label')}" for one in missing]
    if columns.time is not None and columns.time not in found:
        faults.append(f"no column {columns.time}: set dataset.columns.time")
    named = (columns.text, *labels, columns.time)
    repeated = [str(column) for column in named if found.count(str(column)) > 1]
    if repeated:
        raise DataError(
            f"{name}: found several columns {' and '.join(repeated)}, expected one of a name. Rename them"
        )
    if faults:
        raise DataError(f"{name}: {' and '.join(faults)} to one of the columns found: {listed}")
    positions_of = [list(found).index(str(one)) for one in labels]
    return list(found).index(str(columns.text)), (
        tuple(positions_of) if isinstance(label, tuple) else positions_of[0]
    )


def _taken(values: Sequence[Any], labels: Labels) -> Any:
    """The value at a position, or a tuple of those at several."""
    return values[labels] if isinstance(labels, int) else tuple(values[at] for at in labels)


def _parse_delimited(content: str, name: str, columns: Columns, partition: Partition, tab: bool) -> Records:
    declared, content = take_separator(content, name)
    if not content.strip():
        raise DataError(f"{name}: found no rows after sep=. Add rows to it, or correct dataset.uri")
    delimiters = (declared,) if declared else (TAB,) if tab else tuple(DELIMITER_NAMES)
    if isinstance(columns.text, int):
        rows, text, label = _headerless(content, name, columns, delimiters)
        time = columns.time if isinstance(columns.time, int) else None
    else:
        headers = {delimiter: read_header(content, delimiter) for delimiter in delimiters}
        delimiter = max(delimiters, key=lambda d: (columns.text in headers[d], len(headers[d])))
        header = with_partition(headers[delimiter], partition)
        text, label = pick_columns(header, columns, name, partition)
        time = None if columns.time is None else header.index(str(columns.time))
        rows = split_rows(content, delimiter, name)[1:]
    more = [value for _, value in partition]
    fields = [[*row.fields, *more] for row in rows]
    return Records(
        texts=[row[text] for row in fields],
        labels=[_taken(row, label) for row in fields],
        places=[f"line {row.line}" for row in rows],
        times=None if time is None else [row[time] for row in fields],
    )


def with_partition(found: Sequence[str], partition: Partition) -> list[str]:
    """The names of a file's columns and those of its path, which take the place of the file's own."""
    of_path = [column for column, _ in partition]
    return [*(REPLACED if column in of_path else column for column in found), *of_path]


def _headerless(
    content: str, name: str, columns: Columns, delimiters: Sequence[str]
) -> tuple[list[Row], int, Labels]:
    text = columns.text
    if not isinstance(text, int) or isinstance(columns.label, str | tuple) or isinstance(columns.time, str):
        raise UsageError(
            f"{name}: dataset.columns: found a position and a name, expected both to be positions (a file "
            "without a header) or both names"
        )
    time = columns.time if columns.time is not None else 0
    needed = max(text, columns.label or 0, time, 1) + 1
    found = []
    for delimiter in (d for d in HEADERLESS_DELIMITERS if d in delimiters):
        try:
            rows = split_rows(content, delimiter, name)
        except DataError as error:
            if len(delimiters) == 1 or isinstance(error, QuoteError):
                raise
            found.append(f"lines of different lengths with {DELIMITER_NAMES[delimiter]}")
            continue
        width = len(rows[0].fields)
        found.append(f"{width} a line with {DELIMITER_NAMES[delimiter]}")
        if width < needed:
            continue
        if columns.label is not None:
            return rows, text, columns.label
        others = [column for column in range(width) if column not in (text, columns.time)]
        if len(others) == 1:
            return rows, text, others[0]
        raise DataError(
            f"{name}: found {width} columns, and cannot tell which one is the label. "
            f"Set {columns.key('label')} to its position, from 0 to {width - 1}"
        )
    raise DataError(
        f"{name}: expected the same number of fields, at least {needed}, in every line, for dataset.columns "
        f"are positions. Found {'; '.join(found)}"
    )


def _parse_json(content: str, name: str, columns: Columns, partition: Partition) -> Records:
    """One object per line or an array of objects, whatever the file's suffix is."""
    is_array = content.lstrip().startswith("[")
    objects, places = _read_array(content, name) if is_array else read_objects(content, name)
    objects = [item | dict(partition) for item in objects] if partition else objects
    names = list(dict.fromkeys(key for item in objects for key in item))
    text, label = pick_columns(names, columns, name, partition)
    return Records(
        texts=[item.get(names[text]) for item in objects],
        labels=[_taken([item.get(name) for name in names], label) for item in objects],
        places=places,
        times=None if columns.time is None else [item.get(str(columns.time)) for item in objects],
    )


def _read_array(content: str, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {error}. Write it again") from None
    places = [f"object {number}" for number in range(1, len(items) + 1)]
    faults = [place for item, place in zip(items, places, strict=True) if not isinstance(item, dict)]
    if faults:
        raise DataError(
            f"{name}: {len(faults)} items of the array are not JSON objects, first "
            f"{', '.join(faults[:SHOWN_LINES])}. Write one object for each row"
        )
    return items, places


def _open_parquet(data: bytes) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
    file = pq.ParquetFile(io.BytesIO(data))
    return file.schema_arrow, file.read


def _open_arrow(data: bytes) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
    """A file of Arrow's IPC format, as Feather is one, or a stream of it, as `datasets` saves it."""
    is_file = data.startswith(ARROW_MAGIC)
    table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(pa.BufferReader(data)).read_all()
    return table.schema, table.select


OPENED = {"parquet": _open_parquet, "arrow": _open_arrow}
"""How files of typed columns are opened: their schema, and what reads some of their columns."""


def _parse_arrow(data: bytes, name: str, form: str, columns: Columns, partition: Partition) -> Records:
    try:
        schema, read = OPENED[form](data)
        names = with_partition(schema.names, partition)
        text, label = pick_columns(names, columns, name, partition)
        labels = [names[at] for at in (label if isinstance(label, tuple) else (label,))]
        wanted = dict.fromkeys([names[text], *labels, *([] if columns.time is None else [str(columns.time)])])
        table = read([column for column in wanted if column not in dict(partition)])
        class_names = class_names_of(schema.metadata, labels[0])
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: not a whole {form} file: {str(error).rstrip('.')}. Fetch it again"
        ) from None
    values = {column: values_of(table.column(column)) for column in table.column_names}
    values |= {column: [value] * table.num_rows for column, value in partition}
    return Records(
        texts=values[names[text]],
        labels=[
            tuple(found) if isinstance(label, tuple) else named_class(found[0], class_names)
            for found in zip(*(values[column] for column in labels), strict=True)
        ],
        places=[f"row {row}" for row in range(table.num_rows)],
        times=None if columns.time is None else values[str(columns.time)],
    )


def class_names_of(metadata: dict[bytes, bytes] | None, column: str) -> list[str]:
    """The names of a column of class indices, which the library `datasets` keeps in a file's metadata.

    https://huggingface.co/docs/datasets/about_dataset_features
    """
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature.get("feature", feature)  # of a list of indices, that of one index
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (AttributeError, KeyError, TypeError, ValueError):  # another writer's file or type of column
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def named_class(value: Any, class_names: Sequence[str]) -> Any:
    """The name of the class with this index, or those of a list of indices.

    -1 stands for a missing label; other values stay as they are.
    """
    if isinstance(value, list):
        return [named_class(one, class_names) for one in value]
    if not class_names or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if value == NO_CLASS:
        return None
    return class_names[int(value)] if value in range(len(class_names)) else value


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Python values; strings pass through bytes, for parquet does not promise that they are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return [
        value.decode("utf-8", errors="surrogateescape") if isinstance(value, bytes) else value
        for value in column.to_pylist()
    ]


def read_joined(dataset: TextTable, read: Callable[[Columns], Records]) -> Records:
    """The records of a file, with the values of the columns that the manifest names joined into each text.

    `read` is called once for each column. A row whose columns are all empty has no text.

    Raises:
        DataError: A column is missing, or what `read` raises.
    """
    names = dataset.joined_columns
    if not names:
        return read(dataset.columns)
    parts = [read(dataset.columns.model_copy(update={"text": name})) for name in names]
    rows = zip(*(part.texts for part in parts), strict=True)
    return replace(parts[0], texts=[joined(dataset, dict(zip(names, row, strict=True))) for row in rows])


def joined(dataset: TextTable, row: dict[str, Any]) -> str | None:
    """The text of a row, by the values of the columns that the manifest joins; None if all are empty."""
    values = {name: _value(value) for name, value in row.items()}
    if not any(value.strip() for value in values.values()):
        return None
    if not dataset.template:
        return JOINT.join(value for value in values.values() if value.strip())
    return filled(dataset.template, values).strip()


def filled(template: Sequence[tuple[str, str | None]], values: dict[str, str]) -> str:
    """A template's literal texts, each followed by the value of the column that is named after it."""
    return "".join(text + (values[name] if name is not None else "") for text, name in template)


def _value(value: Any) -> str:
    """A column's value as text: a missing one is empty, and a number is written as in JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
