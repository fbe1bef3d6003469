"""Find the files of a dataset, verify them, and read them into one table."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pandas as pd

from gauntlet.backends import storage
from gauntlet.backends.data_uris import data_uri
from gauntlet.components.validate_data.text import excerpt, find_fault, is_blank, repair
from gauntlet.manifests.dataset import SPLITS, SplitName, TableDataset
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.joined import read_joined
from gauntlet.tasks.texts.records import Records, format_of, parse

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MAX_DIGITS = 18
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\..+)")
SHOWN_SHARDS = 5

SPLIT_PREFIXES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class SourceFile:
    """A file of the dataset: the split it holds, its name in errors and in `dataset.sha256`, its URI."""

    split: SplitName
    name: str
    uri: str


def read_table(dataset: TextDataset) -> pd.DataFrame:
    """Every row of every file.

    Columns: `text` and `label` (None where missing; a label is a name of `dataset.labels`, or the value as it
    was found when it is none of them), `fault` (the first encoding fault in words, or None), `split` (of the
    file), `place` (file and line) and `row` (position in the split's files, from 0); `time` as it was found,
    where the manifest names its column. Texts and labels are valid Unicode: what was not is U+FFFD.

    Raises:
        DataError: A file is missing, empty, altered (sha256), malformed or without a column; the faults of
            all files together.
        UsageError: The manifest asks for what cannot be read.
    """
    contents = {file: storage.read_bytes(file.uri) for file in _files(dataset)}
    verify(dataset, contents)
    frames: list[pd.DataFrame] = []
    faults: list[str] = []
    for file, data in contents.items():
        try:
            read = partial(parse, data, file.name, dataset.format, encoding=dataset.encoding)
            records = read_joined(dataset, read)
            before = sum(len(frame) for frame in frames if frame["split"].iat[0] == file.split)
            frames.append(_frame(records, file, dataset.labels, before))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return pd.concat(frames, ignore_index=True)


def sources(dataset: TextDataset) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_files` does."""
    return tuple(file.uri for file in _files(dataset))


def _files(dataset: TextDataset) -> tuple[SourceFile, ...]:
    return find_files(dataset, lambda name: format_of(name, dataset.format) is not None)


def find_files(dataset: TableDataset, is_data: Callable[[str], bool]) -> tuple[SourceFile, ...]:
    """The files that `dataset.uri` and `dataset.files` name, or the folder holds; train comes first.

    A split may be in several files that are named as shards: `train-00000-of-00002.parquet`.

    `is_data` says by its name whether a file in the folder can be one of them.

    Raises:
        DataError: The folder holds no training file, or several files for one split.
        UsageError: There is nothing at the URI.
    """
    if dataset.files is not None:
        named = {split: getattr(dataset.files, split) for split in SPLITS}
        return tuple(
            SourceFile(split, name, storage.join(dataset.uri, name)) for split, name in named.items() if name
        )
    if not storage.is_folder(dataset.uri):
        return (SourceFile("train", storage.file_name(dataset.uri), dataset.uri),)
    return _discover(dataset.uri, dataset.roots or (), is_data)


def resolve_label(value: Any, labels: Sequence[str]) -> str | None:
    """The label's name; the value as text when it is none of `labels`; None when it is missing.

    A value that is one of `labels`, as text, is that label in every file format: the integer 1 and the
    boolean true are the labels `1` and `true` where these are labels. Where no label is a number, a
    whole number is an index into `labels`, as in files of the Hugging Face hub. Labels are compared in NFC:
    `é` may be one character or two.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        spellings = [value.strip()]
    else:
        spellings = [json.dumps(value, ensure_ascii=False, default=str), str(value)]
        if isinstance(value, float) and value.is_integer():  # an integer column with gaps arrives as floats
            spellings.insert(0, str(int(value)))
        elif isinstance(value, int) and not isinstance(
            value, bool
        ):  # a float column without fractions, in JSON
            spellings.append(f"{value}.0")
    known = _by_form(tuple(labels))
    for spelling in spellings:
        if (form := unicodedata.normalize("NFC", spelling)) in known:
            return known[form]
    found = unicodedata.normalize("NFC", spellings[0])
    if found.isascii() and found.isdecimal() and not any(map(NUMBER.fullmatch, labels)):
        index = int(found[:MAX_DIGITS])
        if index < len(labels):
            return labels[index]
    return None if is_blank(found) else found


@cache
def _by_form(labels: tuple[str, ...]) -> dict[str, str]:
    return {unicodedata.normalize("NFC", label): label for label in labels}


def _discover(folder: str, roots: Sequence[str], is_data: Callable[[str], bool]) -> tuple[SourceFile, ...]:
    names = storage.list_files(folder)
    readable = [name for name in names if is_data(name)]
    by_split = {
        split: [name for name in readable if name.lower().startswith(prefixes)]
        for split, prefixes in SPLIT_PREFIXES.items()
    }
    ambiguous = [
        f"{split}: {', '.join(found)}"
        for split, found in by_split.items()
        if found and not _are_shards(found) and len(found) > 1
    ]
    if ambiguous:
        raise DataError(
            f"{folder}: found several files for one split ({'; '.join(ambiguous)}). "
            "Name the right ones in dataset.files"
        )
    if not by_split["train"]:
        raise DataError(
            f"{folder}: found {', '.join(names) or 'no files'}, expected a file of data "
            "whose name starts with train. Name the files in dataset.files"
        )
    return tuple(
        SourceFile(split, name, data_uri(folder, name, roots))
        for split, found in by_split.items()
        for name in found
    )


def _are_shards(names: Sequence[str]) -> bool:
    """Whether the files are the parts of one, as the Hugging Face hub names them: all of them, once each.

    Raises:
        DataError: They are parts of one file, and some are missing.
    """
    parts = [SHARD.fullmatch(name) for name in names]
    found = [part for part in parts if part is not None]
    if len(found) < len(names) or len({(part["stem"], part["total"], part["suffix"]) for part in found}) > 1:
        return False
    total = int(found[0]["total"])
    missing = sorted(set(range(total)) - {int(part["number"]) for part in found})
    if missing:
        raise DataError(
            f"{names[0]}: found {len(names)} of {total} shards, without number "
            f"{', '.join(map(str, missing[:SHOWN_SHARDS]))}. Fetch the data again"
        )
    return True


def verify(dataset: TableDataset, contents: dict[SourceFile, bytes]) -> None:
    """Compare every file's sha256, as stored, with the manifest's before anything is parsed.

    Raises:
        DataError: One differs.
    """
    if dataset.sha256 is None:
        return
    names = [file.name for file in contents]
    if isinstance(dataset.sha256, str):
        if len(names) > 1:
            raise DataError(
                f"{dataset.uri}: dataset.sha256 is one hash, but the files are {', '.join(names)}. "
                "Give a hash for each, by file name"
            )
        expected = {names[0]: dataset.sha256}
    else:
        expected = dict(dataset.sha256)
    faults = [f"{name}: dataset.sha256 has no hash for it" for name in names if name not in expected] + [
        f"{name}: dataset.sha256 names it, but the files are {', '.join(names)}"
        for name in expected
        if name not in names
    ]
    for file, data in contents.items():
        found = hashlib.sha256(data).hexdigest()
        if file.name in expected and found != expected[file.name]:
            faults.append(f"{file.name}: found sha256 {found}, expected {expected[file.name]}")
    if faults:
        raise DataError("\n".join([*faults, "Fetch the data again, or correct dataset.sha256"]))


def _frame(records: Records, file: SourceFile, labels: Sequence[str], before: int) -> pd.DataFrame:
    """The file's rows; `before` are in earlier files of its split."""
    texts = [
        _text(value, f"{file.name} {place}")
        for value, place in zip(records.texts, records.places, strict=True)
    ]
    resolved = [resolve_label(value, labels) for value in records.labels]
    faults = [_row_fault(text, label) for text, label in zip(texts, resolved, strict=True)]
    times = {} if records.times is None else {"time": pd.Series(list(records.times), dtype="object")}
    return pd.DataFrame(
        {
            **times,
            "text": pd.Series([text and repair(text) for text in texts], dtype="str"),
            "label": pd.Series([label and repair(label) for label in resolved], dtype="str"),
            "fault": pd.Series(faults, dtype="str"),
            "split": file.split,
            "place": [f"{file.name} {place}" for place in records.places],
            "row": range(before, before + len(texts)),
        }
    )


def _text(value: Any, place: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{place}: found {excerpt(str(value))} ({type(value).__name__}) in the text column, "
            "expected a string. Set dataset.columns.text to the column that holds the text"
        )
    return None if is_blank(value) else value


def _row_fault(text: str | None, label: str | None) -> str | None:
    return (text and find_fault(text)) or (label and find_fault(label)) or None
