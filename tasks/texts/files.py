"""Files of texts: find and verify those of a dataset, decode them, and read the JSON objects in lines."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gauntlet.backends import storage
from gauntlet.backends.storage import data_uri
from gauntlet.components.validate_data.packed import unpacked_name
from gauntlet.components.validate_data.text import excerpt
from gauntlet.manifests.dataset import SPLITS, SplitName, TableDataset
from gauntlet.manifests.errors import DataError, UsageError

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\..+)")
SHOWN_SHARDS = 5

SPLIT_PREFIXES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "dev"),
    "test": ("test",),
}

OTHER_FORMATS = {
    ".xlsx": "an Excel workbook. Save the sheet as CSV UTF-8",
    ".xls": "an Excel workbook. Save the sheet as CSV UTF-8",
    ".ods": "a spreadsheet. Save the sheet as CSV in UTF-8",
    ".feather": "an Arrow file. Write it as parquet: pandas.read_feather(FILE).to_parquet(…)",
    ".arrow": "an Arrow file. Write it as parquet: datasets.load_from_disk(FOLDER)[SPLIT].to_parquet(…)",
    ".sqlite": "a database. Export the table: sqlite3 -header -csv FILE 'SELECT … FROM …' > data.csv",
    ".sqlite3": "a database. Export the table: sqlite3 -header -csv FILE 'SELECT … FROM …' > data.csv",
    ".db": "a database. Export the table: sqlite3 -header -csv FILE 'SELECT … FROM …' > data.csv",
    ".pkl": "a pickle, which runs code when it is read. Write the data as parquet or CSV",
    ".pickle": "a pickle, which runs code when it is read. Write the data as parquet or CSV",
    ".tar": "an archive. Unpack it, and name the files in dataset.files",
    ".tgz": "an archive. Unpack it, and name the files in dataset.files",
    ".7z": "an archive. Unpack it, and name the files in dataset.files",
    ".rar": "an archive. Unpack it, and name the files in dataset.files",
}
"""Messages for files whose format is known, but not supported."""

SHOWN_LINES = 3
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""UTF-32 first, because its mark begins like that of UTF-16."""

EXAMINED_BYTES = 1_000
MARK = "\ufeff"


@dataclass(frozen=True)
class SourceFile:
    """A file of the dataset: the split it holds, its name in errors and in `dataset.sha256`, its URI."""

    split: SplitName
    name: str
    uri: str


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


def format_of(name: str, declared: str, suffixes: Mapping[str, str]) -> str | None:
    """`declared`, or for `auto` the format that the suffix of the file name means, or None."""
    return suffixes.get(PurePosixPath(unpacked_name(name.lower())).suffix) if declared == "auto" else declared


def unknown_format(name: str, inner: str, formats: str) -> UsageError:
    """The error for a file whose name does not say that it has a supported format.

    `inner` is the name without the suffix of the compression; `formats` are the supported formats.
    """
    form = OTHER_FORMATS.get(PurePosixPath(inner.lower()).suffix)
    if form is not None:
        return UsageError(f"{name}: found {form}")
    return UsageError(f"{name}: its name does not tell the format. Set dataset.format to {formats}")


def decode(data: bytes, name: str, encoding: str | None = None) -> str:
    """The text, without a byte order mark. In a UTF-8 file, an invalid byte becomes a lone surrogate.

    Raises:
        DataError: The bytes are not text in the declared `encoding` or in that of the mark, or they look like
            UTF-16 and have no mark.
    """
    declared = encoding or next((known for mark, known in MARKS.items() if data.startswith(mark)), None)
    if declared is None or codecs.lookup(declared).name in ("utf-8", "utf-8-sig"):
        _require_no_wide(data, name)
        return data.decode("utf-8-sig", errors="surrogateescape")
    try:
        return data.decode(declared).removeprefix(MARK)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(declared, errors="ignore").count("\n") + 1
        found = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.end])
        said = "Correct dataset.encoding" if encoding else "Set dataset.encoding"
        raise DataError(
            f"{name} line {line}: found the bytes {found}, expected {declared} text. {said}, or the file"
        ) from None


def read_objects(content: str, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON object of each line that is not blank, and its place.

    Raises:
        DataError: A line holds anything else.
    """
    objects: list[dict[str, Any]] = []
    places: list[str] = []
    faults: list[str] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number}: {error}")
            continue
        if not isinstance(value, dict):
            faults.append(f"line {number}: found {excerpt(line)}")
            continue
        objects.append(value)
        places.append(f"line {number}")
    if faults:
        raise DataError(
            f"{name}: {len(faults)} lines are not JSON objects: {'; '.join(faults[:SHOWN_LINES])}. "
            "Write one object a line"
        )
    return objects, places


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


def _require_no_wide(data: bytes, name: str) -> None:
    """Every other byte of Western text in UTF-16 is zero."""
    examined = data[:EXAMINED_BYTES]
    for start, order in ((1, "le"), (0, "be")):
        if examined[start::2].count(0) > len(examined) // 4:
            raise DataError(
                f"{name}: found a zero in every other byte, as in UTF-16, expected UTF-8. "
                f"Set dataset.encoding: utf-16-{order}"
            )
