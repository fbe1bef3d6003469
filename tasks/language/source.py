"""Find the files of a dataset of conversations, verify them, and read them into one table of examples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.backends import storage
from gauntlet.components.validate_data.packed import unpack, unpacked_name
from gauntlet.components.validate_data.text import find_fault, repair
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.language.turns import (
    KNOWN_COLUMNS,
    MESSAGE_LISTS,
    Conversation,
    EmptyError,
    Example,
    RoleError,
    Turn,
    conversation_of,
    examples_of,
)
from gauntlet.tasks.texts.delimited import COMMA, names_of, split_rows, take_separator
from gauntlet.tasks.texts.encodings import decode
from gauntlet.tasks.texts.records import read_objects, unknown_format
from gauntlet.tasks.texts.source import SourceFile, find_files, verify

SUFFIX_FORMATS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
COLUMNS = (
    "context",
    "answer",
    "response",
    "tools",
    "opening",
    "empty",
    "unmarked",
    "unread_keys",
    "unread_columns",
    "fault",
    "split",
    "place",
    "row",
)


def read_table(dataset: ConversationDataset) -> pd.DataFrame:
    """Every answer of every file, and a row without one for each record that has a fault.

    Columns: `context` (a tuple of turns), `answer` (the turn that is learned), `response` (its text),
    `tools`, `opening`; `empty`, `unmarked`, `unread_keys` and `fault` (what is wrong, in words, or None);
    `unread_columns` (keys of the record); `split` (of the file), `place` (file and line) and `row` (position
    of the record in the split's files, from 0); `time` as it was found, where the manifest names its key.
    Texts are valid Unicode: what was not is U+FFFD.

    Raises:
        DataError: A file is missing, empty, altered (sha256) or malformed, the faults of all together; or
            none holds a conversation.
        UsageError: The manifest asks for what cannot be read.
    """
    contents = {file: storage.read_bytes(file.uri) for file in _files(dataset)}
    verify(dataset, contents)
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    for file, data in contents.items():
        try:
            first = max((row["row"] + 1 for row in rows if row["split"] == file.split), default=0)
            rows += _rows(data, file, dataset, first)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    if not rows:
        raise DataError(f"{dataset.uri}: found no conversations. Put the data there")
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"row": "int64"})
    if dataset.time_column is None:
        return table
    return table.assign(time=pd.Series([row["time"] for row in rows], dtype="object"))


def sources(dataset: ConversationDataset) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_files` does."""
    return tuple(file.uri for file in _files(dataset))


def _files(dataset: ConversationDataset) -> tuple[SourceFile, ...]:
    return find_files(dataset, lambda name: format_of(name, dataset.format) is not None)


def format_of(name: str, declared: str) -> str | None:
    """`declared`, or for `auto` the format that the file name's suffix stands for, or None."""
    if declared != "auto":
        return declared
    return SUFFIX_FORMATS.get(PurePosixPath(unpacked_name(name.lower())).suffix)


def _rows(
    data: bytes, file: SourceFile, dataset: ConversationDataset, first: int
) -> Iterator[dict[str, Any]]:
    for number, (place, record) in enumerate(_records(data, file.name, dataset), first):
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"split": file.split, "place": repair(f"{file.name} {place}"), "row": number}
        if dataset.time_column is not None:
            row["time"] = record.get(dataset.time_column)
        try:
            said = {key: value for key, value in record.items() if key != dataset.time_column}
            conversation = conversation_of(said, dataset.text_columns, dataset.roles)
            examples = list(examples_of(conversation.turns))
        except EmptyError as error:
            yield row | {"empty": repair(str(error))}
        except RoleError as error:
            yield row | {"unmarked": repair(str(error))}
        else:
            for example in examples:
                yield row | _columns(example, conversation)


def _columns(example: Example, conversation: Conversation) -> dict[str, Any]:
    texts = [text for turn in (*example.context, example.answer) for text in (turn.text, turn.calls)]
    fault = next(filter(None, map(find_fault, [*texts, conversation.tools])), None)
    unread = ", ".join(conversation.unread_keys)
    return {
        "context": tuple(map(_repaired, example.context)),
        "answer": _repaired(example.answer),
        "response": repair(example.response),
        "tools": repair(conversation.tools),
        "opening": repair(example.opening),
        "unread_keys": repair(f"nothing reads {unread}") if unread else None,
        "unread_columns": tuple(map(repair, conversation.unread_columns)),
        "fault": fault and repair(fault),
    }


def _repaired(turn: Turn) -> Turn:
    return replace(turn, text=repair(turn.text), calls=repair(turn.calls))


def _records(data: bytes, name: str, dataset: ConversationDataset) -> list[tuple[str, Mapping[str, Any]]]:
    data, inner = unpack(data, name)
    file_format = format_of(inner, dataset.format)
    if file_format is None:
        raise unknown_format(name, inner, "csv, jsonl, json or parquet")
    if file_format == "parquet":
        return _parquet(data, name)
    content = decode(data, name, dataset.encoding)
    if not content.strip():
        raise DataError(f"{name}: found an empty file, expected conversations. Put the data there")
    if file_format == "csv":
        return _csv(content, name, dataset)
    if file_format == "jsonl":
        objects, places = read_objects(content, name)
        return list(zip(places, objects, strict=True))
    return _json(content, name)


def _csv(content: str, name: str, dataset: ConversationDataset) -> list[tuple[str, Mapping[str, Any]]]:
    separator, content = take_separator(content, name)
    header, *rows = split_rows(content, separator or COMMA, name)
    names = names_of(header)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{name}: found the column {twice[0]} twice, expected it once. Rename one of them")
    wanted = KNOWN_COLUMNS if dataset.text_columns is None else (dataset.text_columns,)
    if not any({columns.prompt, columns.response} <= set(names) for columns in wanted):
        pairs = " or ".join(f"{columns.prompt} and {columns.response}" for columns in wanted)
        raise DataError(
            f"{name}: found the columns {', '.join(names)}, expected {pairs}. Set dataset.columns.prompt and "
            "dataset.columns.response"
        )
    return [(f"line {row.line}", dict(zip(names, row.fields, strict=True))) for row in rows]


def _json(content: str, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {error}. Write it again") from None
    items = document
    if isinstance(document, Mapping):
        listed = document.get("conversations")
        is_record = any(
            isinstance(document.get(key), list) for key in MESSAGE_LISTS if key != "conversations"
        )
        is_record = is_record or (isinstance(listed, list) and any(map(_is_message, listed)))
        items = [document] if is_record else listed
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise DataError(
            f'{name}: expected {{"conversations": [{{"text": …}}, …]}}, or a list of objects. Write it so, '
            "or one object a line as .jsonl"
        )
    return [(f"conversation {number}", item) for number, item in enumerate(items, start=1)]


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and bool({"from", "role"} & item.keys())


def _parquet(data: bytes, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        records = pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a whole parquet file of valid text: {error}. Write it again") from None
    return [(f"row {number}", record) for number, record in enumerate(records)]
