"""Files of texts: find and verify those of a dataset, decode them, and read the JSON objects in lines."""

from __future__ import annotations

import codecs
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from gauntlet.backends import storage
from gauntlet.backends.google.bigquery import Rows, open_query, open_table, tables_of
from gauntlet.backends.storage import data_uri
from gauntlet.components.validate_data.packed import unpacked_name
from gauntlet.components.validate_data.text import excerpt
from gauntlet.manifests.dataset import BIGQUERY, SPLITS, RecordDataset, SplitName, TableDataset
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.where import holds

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\..+)")
SHOWN_SHARDS = 5
SHOWN_FILES = 8

SPLIT_PREFIXES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "dev"),
    "test": ("test",),
}

OTHER_FORMATS = {
    ".xlsx": "an Excel workbook. Save the sheet as CSV UTF-8",
    ".xls": "an Excel workbook. Save the sheet as CSV UTF-8",
    ".ods": "a spreadsheet. Save the sheet as CSV in UTF-8",
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


PARTITION = re.compile(r"(?P<column>[^=]+)=(?P<value>.*)")
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder of rows without a value, as Hive and Spark name it."""

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` of the library `datasets` writes beside folders of splits, and into the folder of one.
https://huggingface.co/docs/datasets/process#save"""


@dataclass(frozen=True)
class SourceFile:
    """A file of the dataset.

    Attributes:
        split: The split that it holds.
        name: In errors and in `dataset.sha256`, relative to the folder that was searched.
        uri: Where it is.
        partition: The columns that all its rows have by the names of its folders, `label=joy`; a value that
            Hive has none of is None.
        query: The SELECT whose result it is; `uri` is then the project of BigQuery that pays.
    """

    split: SplitName
    name: str
    uri: str
    partition: tuple[tuple[str, str | None], ...] = ()
    query: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether it is a table, or a query, of BigQuery."""
        return self.uri.startswith(BIGQUERY)


def find_files(dataset: TableDataset, is_data: Callable[[str], bool]) -> tuple[SourceFile, ...]:
    """The files that `dataset.uri` and `dataset.files` name, or the folder holds; train comes first.

    A name can be a pattern. A folder without files of splits can hold folders named COLUMN=VALUE, or what
    `save_to_disk` of the library `datasets` wrote.

    `is_data` says by its name whether a file in the folder can be one of them.

    Raises:
        DataError: The folder holds no training file, several files for one split, or files whose folders
            name different columns; or a file is in two splits.
        UsageError: There is nothing at the URI, or a pattern matches no file.
    """
    folder, roots = dataset.uri, dataset.roots or ()
    if dataset.files is not None:
        named = {split: dataset.files.of(split) for split in SPLITS}
        found = [
            _source(split, name, folder, roots if storage.is_pattern(storage.join(folder, given)) else None)
            for split, names in named.items()
            for given in names
            for name in _names(folder, given)
        ]
    elif storage.is_pattern(folder):
        folder, pattern = storage.split_pattern(dataset.uri)
        found = _by_split(_matching(folder, pattern), folder, roots)
    elif not storage.is_folder(folder):
        return (SourceFile("train", storage.file_name(folder), folder),)
    else:
        found = _discover(folder, roots, is_data)
    return _consistent(found)


def find_sources(dataset: RecordDataset, is_data: Callable[[str], bool]) -> tuple[SourceFile, ...]:
    """The tables of BigQuery, or the files of `find_files` that may have rows of `dataset.where`.

    Raises:
        DataError: `where` is true of no file of a split, or what `find_files` raises.
        UsageError: There is nothing at the URI, or a pattern matches no file.
    """
    if dataset.uri.startswith(BIGQUERY):
        return _of_bigquery(dataset)
    return _not_left_out(find_files(dataset, is_data), dataset)


def _not_left_out(files: tuple[SourceFile, ...], dataset: RecordDataset) -> tuple[SourceFile, ...]:
    """The files that may have rows of `dataset.where`, as far as the names of their folders tell.

    Raises:
        DataError: None has.
    """
    columns = dataset.where_columns
    if dataset.where is None or not {*columns} <= {column for column, _ in files[0].partition}:
        return files
    of_paths = {column: [dict(file.partition)[column] for file in files] for column in columns}
    left = tuple(compress(files, holds(dataset.where, of_paths, dataset.uri)))
    require_rows(dataset, {file.split for file in files} - {file.split for file in left})
    return left


def require_rows(dataset: RecordDataset, empty: Collection[SplitName]) -> None:
    """Raise a `DataError` if `dataset.where` left no row of the splits `empty`, which have files."""
    if dataset.where is not None and empty:
        named = ", ".join(split for split in SPLITS if split in empty)
        raise DataError(
            f"{dataset.uri}: dataset.where: {dataset.where}: is true of no row of {named}. Correct it, or "
            "leave the files of that split out"
        )


@contextmanager
def verified(dataset: TableDataset, files: Sequence[SourceFile]) -> Iterator[Sequence[SourceFile]]:
    """The files, whose sha256, as stored, is the manifest's. Those from elsewhere are copies, deleted later.

    `read` gives the content of a file; one is in memory at once.

    Raises:
        DataError: One differs.
    """
    if dataset.sha256 is None:
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="gauntlet-") as folder:
        here = [_copied(file, Path(folder, str(number))) for number, file in enumerate(files)]
        _require_sha256(dataset, dataset.sha256, here)
        yield here


def _copied(file: SourceFile, path: Path) -> SourceFile:
    """The file, or its copy if it is not on this machine: what was checked is then what is read."""
    if storage.local_path(file.uri) is not None:
        return file
    storage.fetch(file.uri, path)
    return replace(file, uri=str(path))


def _require_sha256(
    dataset: TableDataset, sha256: str | Mapping[str, str], files: Sequence[SourceFile]
) -> None:
    names = [file.name for file in files]
    if isinstance(sha256, str):
        if len(names) > 1:
            raise DataError(
                f"{dataset.uri}: dataset.sha256 is one hash, but the files are {', '.join(names)}. "
                "Give a hash for each, by file name"
            )
        expected = {names[0]: sha256}
    else:
        expected = dict(sha256)
    faults = [f"{name}: dataset.sha256 has no hash for it" for name in names if name not in expected] + [
        f"{name}: dataset.sha256 names it, but the files are {', '.join(names)}"
        for name in expected
        if name not in names
    ]
    for file in files:
        found = storage.sha256_of(file.uri)
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


def _of_bigquery(dataset: RecordDataset) -> tuple[SourceFile, ...]:
    """The table, the query, or the table of each split."""
    name = dataset.uri.removeprefix(BIGQUERY)
    if dataset.files is None:
        return (SourceFile("train", "query" if dataset.query else name, dataset.uri, query=dataset.query),)
    named = {split: dataset.files.of(split) for split in SPLITS}
    return tuple(
        SourceFile(split, table, f"{dataset.uri}.{table}")
        for split, tables in named.items()
        for table in tables
    )


def source_uris(files: Sequence[SourceFile]) -> tuple[str, ...]:
    """The URIs of what is read: the files, and of a query the tables that it reads.

    Raises:
        UsageError: The query is faulty, or may not be run.
        GauntletError: BigQuery cannot be reached.
    """
    uris = [[file.uri] if file.query is None else tables_of(file.uri, file.query) for file in files]
    return tuple(uri for some in uris for uri in some)


def open_bigquery(file: SourceFile, dataset: RecordDataset) -> Rows:
    """The table, or the result of the query, that a source is.

    Raises:
        UsageError: It does not exist, may not be read, or costs more than `dataset.max_cost_usd`.
        GauntletError: BigQuery cannot be reached.
    """
    if file.query is None:
        return open_table(file.uri, dataset.snapshot)
    return open_query(file.uri, file.query, dataset.snapshot, dataset.max_cost_usd)


def _names(folder: str, given: str) -> Sequence[str]:
    """The name that `dataset.files` gives, or the names that a pattern matches."""
    return _matching(folder, given) if storage.is_pattern(storage.join(folder, given)) else (given,)


def _matching(folder: str, pattern: str) -> list[str]:
    """The names that a pattern matches, without those that Hive, Spark and systems hide.

    Raises:
        UsageError: There are none.
    """
    found = [name for name in storage.matching(folder, pattern) if not _is_hidden(name)]
    if not found:
        there = ", ".join(storage.list_files(folder)[:SHOWN_FILES]) or "no files"
        raise UsageError(
            f"{storage.join(folder, pattern)}: matches no file. {folder} itself has {there}. Correct the "
            "pattern: * stands for any characters of one name, and ** for folders at any depth"
        )
    return found


def _is_hidden(name: str) -> bool:
    """Such as `_SUCCESS`, `_delta_log/0.json` and `.crc`; a column's name may begin so."""
    return any(part.startswith(("_", ".")) and not PARTITION.fullmatch(part) for part in name.split("/"))


def _source(split: SplitName, name: str, folder: str, roots: Sequence[str] | None) -> SourceFile:
    """A file in a folder. One that was found there, not named, must lie in it or in `roots`; None: named."""
    uri = storage.join(folder, name) if roots is None else data_uri(folder, name, roots)
    parts = [PARTITION.fullmatch(part) for part in name.split("/")[:-1]]
    values = [(unquote(part["column"]), unquote(part["value"])) for part in parts if part is not None]
    partition = tuple((column, None if value == NO_VALUE else value) for column, value in values)
    return SourceFile(split, name, uri, partition)


def _split_of(name: str) -> SplitName | None:
    """The split after which a file, or the folder `split=test` that it is in, is named."""
    folders = [part.removeprefix("split=") for part in name.split("/")[:-1] if part.startswith("split=")]
    words = (folders or [name.rpartition("/")[2]])[0].lower()
    return next((split for split, prefixes in SPLIT_PREFIXES.items() if words.startswith(prefixes)), None)


def _by_split(names: Sequence[str], folder: str, roots: Sequence[str]) -> list[SourceFile]:
    """Files of a pattern or of a partitioned folder: all train, or each of the split it is named after.

    Raises:
        DataError: Some are named after a split, and others are not, or none is of train.
    """
    splits = {name: _split_of(name) for name in names}
    others = [name for name, split in splits.items() if split in ("validation", "test")]
    unnamed = [name for name, split in splits.items() if split is None]
    if others and (unnamed or "train" not in splits.values()):
        beside = f"{unnamed[0]}, which is not" if unnamed else "none of train"
        raise DataError(
            f"{folder}: found {others[0]}, which is named after the split {splits[others[0]]}, and {beside}. "
            "Name the files, or a pattern, of each split in dataset.files"
        )
    ordered = sorted(names, key=lambda name: (SPLITS.index(splits[name] or "train"), name))
    return [_source(splits[name] or "train", name, folder, roots) for name in ordered]


def _consistent(found: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    """The files, each once and with the same columns in the names of its folders."""
    first = found[0]
    columns = [column for column, _ in first.partition]
    for file in found:
        if [column for column, _ in file.partition] != columns:
            raise DataError(
                f"{file.name}: found the columns {_listed(file)} in the names of its folders, and in those "
                f"of {first.name} {_listed(first)}, expected the same. Move the file, or name the files in "
                "dataset.files"
            )
    splits: dict[str, SourceFile] = {}
    for file in found:
        if (other := splits.setdefault(file.uri, file)) is not file:
            raise DataError(
                f"{file.name}: dataset.files has it in {other.split} and again in {file.split}, expected it "
                "once. Correct the patterns"
            )
    return tuple(found)


def _listed(file: SourceFile) -> str:
    return ", ".join(column for column, _ in file.partition) or "none"


def _discover(folder: str, roots: Sequence[str], is_data: Callable[[str], bool]) -> list[SourceFile]:
    names = storage.list_files(folder)
    if not {*SAVED}.isdisjoint(names):
        return _of_saved(folder, names, roots)
    readable = [name for name in names if is_data(name)]
    if not readable:
        below = [name for name in storage.list_tree(folder) if is_data(name) and not _is_hidden(name)]
        if partitioned := [name for name in below if PARTITION.fullmatch(name.split("/")[0])]:
            return _by_split(partitioned, folder, roots)
    return _of_splits(folder, {name: name for name in readable}, roots, names)


def _of_saved(folder: str, names: Sequence[str], roots: Sequence[str]) -> list[SourceFile]:
    """The files of a `Dataset` or a `DatasetDict` that `save_to_disk` wrote.

    Raises:
        DataError: The JSON files that list them are damaged.
    """
    if SAVED[0] not in names:
        return [_source("train", name, folder, roots) for name in _listed_files(folder, "")]
    splits = _json(storage.join(folder, SAVED[0]), lambda content: [str(one) for one in content["splits"]])
    files = {f"{split}/{name}": split for split in splits for name in _listed_files(folder, split)}
    return _of_splits(folder, files, roots, splits)


def _listed_files(folder: str, split: str) -> list[str]:
    uri = storage.join(folder, f"{split}/{SAVED[1]}".lstrip("/"))
    return _json(uri, lambda content: [str(one["filename"]) for one in content["_data_files"]])


def _json(uri: str, read: Callable[[Any], list[str]]) -> list[str]:
    try:
        return read(json.loads(storage.read_bytes(uri)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{uri}: not a list of files as save_to_disk writes it ({error!r}). Save the dataset again"
        ) from None


def _of_splits(
    folder: str, files: Mapping[str, str], roots: Sequence[str], there: Sequence[str]
) -> list[SourceFile]:
    """The files of each split. `files` gives for each the name that says its split; `there` is all there is.

    Raises:
        DataError: A split has several files that are not the shards of one, or train has none.
    """
    by_split = {
        split: [name for name, said in files.items() if said.lower().startswith(prefixes)]
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
        more = f" and {len(there) - SHOWN_FILES:,} more files" if len(there) > SHOWN_FILES else ""
        raise DataError(
            f"{folder}: found {', '.join(there[:SHOWN_FILES]) or 'no files'}{more}, expected a file of data "
            "whose name starts with train. Name the files in dataset.files, or set dataset.uri to one file "
            f"or to a pattern such as {storage.join(folder, '*.parquet')}"
        )
    return [_source(split, name, folder, roots) for split, found in by_split.items() for name in found]


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
