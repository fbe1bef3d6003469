"""Read images as people have them: a folder for each class, a table of paths, or an archive of either.

`read_images` finds the images of a dataset, decodes each once, brings it to the shape of the model's input by
the function that serving uses, and notes what is wrong with an image in its row.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import math
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.backends.storage import data_uri, shown
from gauntlet.components.validate_data.packed import FAULTS, NO_CONTENT, Bounded, most_unpacked, require_room
from gauntlet.manifests.dataset import SplitFiles, SplitName, TableDataset
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.data import array_on_disk
from gauntlet.tasks.images.decoding import BITS, Decoder, ImageFile
from gauntlet.tasks.images.manifest import ImageColumns
from gauntlet.tasks.texts.files import find_files, format_of
from gauntlet.tasks.texts.manifest import Columns
from gauntlet.tasks.texts.records import SUFFIX_FORMATS, parse

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SPLIT_FOLDERS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
READERS = 8
"""Threads that fetch files: each file of a bucket has a latency."""
FILES_AT_ONCE = 64
SHOWN = 3
HIDDEN = ("thumbs.db", "desktop.ini")
LONGEST_PATH = 4_096
TAR_STREAMS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

Form = Literal["folders", "table"]


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a dataset are, and what they are brought to.

    Attributes:
        uri: A folder, a table or an archive (`ARCHIVE_SUFFIXES`), on this machine or in a bucket.
        shape: Height and width.
        channels: 1 for grey, 3 for red, green, blue.
        resize: How an image of another size gets to the shape.
        files: The tables, relative to `uri`, if the manifest names them.
        form: What a folder has: a folder for each class, or tables of paths; `auto` finds out.
        columns: The columns of tables; `Columns` have the paths or the images as `text`.
        roots: More folders in which a table may name files.
        sha256: Of the file at `uri`.
        max_expansion: How many times its own size an archive, or a compressed table, may unpack to.
    """

    uri: str
    shape: tuple[int, int]
    channels: int
    resize: Resize = "stretch"
    files: SplitFiles | None = None
    form: Literal["auto", "folders", "table"] = "auto"
    columns: ImageColumns | Columns = field(default_factory=ImageColumns)
    roots: Sequence[str] = ()
    sha256: str | None = None
    max_expansion: int | None = None


@dataclass(frozen=True)
class ImageTable:
    """Every image of a dataset.

    Attributes:
        pixels: uint8 (N, H, W), or (N, H, W, 3) for three channels; black where the image cannot be read.
        hashes: The perceptual hash of each image, bool (N, BITS).
        rows: One row for each image, in the same order, numbered from 0: `value` (the name of the class's
            folder, or what the table has, of any type, None if nothing), `split` (of the folder or table; all
            train if there is one), `place` (in messages), `row` (position in its split, from 0), `key` (equal
            for equal pixels), `shown`, `unreadable` (what is wrong with the image, or an empty text), `width`
            and `height` of the file's picture, 0 if it is unreadable.
        form: Where the values come from.
        other_files: Names of the files in the folders of classes that are no images by their names.
    """

    pixels: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.bool_]
    rows: pd.DataFrame
    form: Form
    other_files: tuple[str, ...] = ()


class _PathColumns(Columns):
    """The columns of a table of images, as tables of texts are read."""

    keys: ClassVar[Mapping[str, str]] = {"text": "image"}


@dataclass(frozen=True)
class _Found:
    """Images that are not read yet: `rows` has `image`, a URI or bytes, or says in `unreadable` why not."""

    rows: pd.DataFrame
    form: Form
    tables: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()


def read_images(source: ImageSource) -> ImageTable:
    """Find, read and decode every image; what is wrong with a single one is noted in its row.

    Raises:
        DataError: The archive or a table is damaged, an entry leads out of the archive, or there are no
            images where they should be.
        UsageError: There is nothing at the URI.
        GauntletError: The store that holds the data is unavailable, or the disk is full.
    """
    with _unpacked(source) as opened:
        return _decode(_find(opened), opened)


def image_uris(source: ImageSource) -> tuple[str, ...]:
    """The URIs of all files that `read_images` reads. Raises what it does."""
    if _is_archive(source.uri):
        return (source.uri,)
    found = _find(source)
    images = [image for image in found.rows["image"] if isinstance(image, str)]
    return (*found.tables, *dict.fromkeys(images))


def is_of_many_files(uri: str) -> bool:
    """Whether the file name says that it is a table of images or an archive."""
    return _is_archive(uri) or _is_table(storage.file_name(uri))


# --- archives ----------------------------------------------------------------------------------------


def _is_archive(uri: str) -> bool:
    return storage.file_name(uri).lower().endswith(ARCHIVE_SUFFIXES)


@contextmanager
def _unpacked(source: ImageSource) -> Iterator[ImageSource]:
    """The source, or if it is an archive the folder that it was unpacked to, while the context is open."""
    if not _is_archive(source.uri):
        yield source
        return
    name = storage.file_name(source.uri)
    with tempfile.TemporaryDirectory(prefix="gauntlet-images-") as scratch:
        path, folder = storage.local_path(source.uri), Path(scratch, "files")
        if path is None:
            path = Path(scratch, "archive")
            storage.fetch(source.uri, path)
        elif not path.is_file():
            raise UsageError(f"{source.uri}: no such file. Correct dataset.uri")
        with path.open("rb") as file:
            _require_sha256(hashlib.file_digest(file, "sha256").hexdigest(), name, source.sha256)
        unpack_archive(path, name, folder, source.max_expansion)
        yield replace(source, uri=str(_content_folder(folder)), sha256=None)


def _require_sha256(found: str, name: str, expected: str | None) -> None:
    if expected not in (None, found):
        raise DataError(
            f"{name}: found sha256 {found}, expected {expected}. Fetch it again, or correct dataset.sha256"
        )


def unpack_archive(path: Path, name: str, folder: Path, max_expansion: int | None = None) -> None:
    """Unpack a zip or tar archive into a new folder; errors name `name`.

    Raises:
        DataError: It is damaged or encrypted, an entry is a link or leads out of the folder, or its files
            are larger than `most_unpacked`. Nothing is written outside the folder in any case.
        GauntletError: The disk is full.
    """
    folder.mkdir()
    most = most_unpacked(path.stat().st_size, max_expansion)
    try:
        if name.lower().endswith(".zip"):
            _unzip(path, name, folder, most)
        else:
            _untar(path, name, folder, most)
    except NotADirectoryError as error:
        raise DataError(f"{name}: found an entry that is a file and a folder ({error.filename})") from None
    except (*FAULTS, tarfile.TarError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in storage.NO_ROOM:
            raise GauntletError(f"{folder}: {error.strerror}. Make room, then run again") from None
        raise DataError(f"{name}: not a whole archive: {error}. Fetch it again") from None


def _unzip(path: Path, name: str, folder: Path, most: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.filename.startswith(NO_CONTENT)]
        links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
        _require_inside(name, [entry.filename for entry in entries], links)
        if any(entry.flag_bits & 1 for entry in entries):
            raise DataError(f"{name}: the archive is encrypted. Unpack it")
        require_room(name, sum(entry.file_size for entry in entries), most)
        for entry in entries:
            if not entry.is_dir():
                with archive.open(entry) as content:  # it never gives more than the entry's file_size
                    _write(content, folder / entry.filename)


def _untar(path: Path, name: str, folder: Path, most: int) -> None:
    suffix = PurePosixPath(name.lower().replace(".tgz", ".tar.gz")).suffix
    with TAR_STREAMS.get(suffix, open)(path, "rb") as stream:
        bounded: Any = Bounded(stream, name, most)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for entry in archive:
                require_room(name, entry.offset_data + entry.size, most)
                if entry.isdir() or entry.name.startswith(NO_CONTENT):
                    continue
                _require_inside(name, [entry.name], [] if entry.isreg() else [entry.name])
                content = archive.extractfile(entry)
                assert content is not None  # it is a regular file
                _write(content, folder / entry.name)


def _require_inside(name: str, entries: Sequence[str], links: Sequence[str]) -> None:
    paths = {entry: entry.replace("\\", "/") for entry in entries}
    out = [entry for entry, path in paths.items() if path.startswith("/") or ".." in path.split("/")]
    if out or links:
        said = [f"{shown(entry)} leads out of the archive" for entry in out[:SHOWN]]
        said += [f"{shown(entry)} is a link or a device" for entry in links[:SHOWN]]
        raise DataError(
            f"{name}: {'; '.join(said)}. Expected files with names below the archive's own folder. "
            "Pack the folder again, without links"
        )


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)


def _content_folder(folder: Path) -> Path:
    """The folder itself, or the only one in it if that has everything: archives often have such a folder."""
    inside = list(folder.iterdir())
    if len(inside) != 1 or not inside[0].is_dir() or inside[0].name.lower() in SPLIT_FOLDERS:
        return folder
    deeper = any(entry.is_dir() or _is_table(entry.name) for entry in inside[0].iterdir())
    return inside[0] if deeper else folder


# --- finding -----------------------------------------------------------------------------------------


def _find(source: ImageSource) -> _Found:
    """The images of a folder or of tables."""
    if source.form == "table" or source.files is not None or _is_table(storage.file_name(source.uri)):
        return _of_tables(source)
    names = [name for name in storage.list_tree(source.uri) if not _is_hidden(name)]
    tables = [name for name in names if "/" not in name and _is_table(name)]
    if source.form == "auto" and tables:
        only = SplitFiles(train=tables[0]) if len(tables) == 1 else None
        return _of_tables(replace(source, files=only))
    return _of_folders(source, names)


def _is_table(name: str) -> bool:
    return format_of(name, "auto", SUFFIX_FORMATS) is not None and not name.lower().endswith(".txt")


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_hidden(name: str) -> bool:
    """What systems put into folders, such as `.DS_Store`, `._1.png` and `Thumbs.db`."""
    parts = name.split("/")
    return any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1].lower() in HIDDEN


def _of_folders(source: ImageSource, names: Sequence[str]) -> _Found:
    """The images of a folder for each class, in folders for the splits if there are some.

    Raises:
        DataError: There are no images, some are in no class's folder, or a folder beside train is no split.
    """
    images = [name for name in names if _is_image(name)]
    if not images:
        found = f"{len(names)} other files ({_some(names)})" if names else "no files"
        raise DataError(
            f"{source.uri}: found {found}, expected images in a folder for each class, or a table of their "
            f"paths. Correct dataset.uri"
        )
    parts = [name.split("/") for name in images]
    tops = {part[0] for part in parts if len(part) > 1}
    trains = {top for top in tops if SPLIT_FOLDERS.get(top.lower()) == "train"}
    has_splits = bool(trains) and all(len(part) > 2 for part in parts if part[0] in trains)
    if has_splits and (strange := sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)):
        raise DataError(
            f"{source.uri}: found the folders {_some(strange)} beside {sorted(trains)[0]}, expected train, "
            "validation and test alone, with a folder for each class in each. Move them out of it"
        )
    depth = 1 if has_splits else 0
    loose = [name for name, part in zip(images, parts, strict=True) if len(part) < depth + 2]
    if loose:
        raise DataError(
            f"{source.uri}: found {len(loose)} images in no class's folder ({_some(loose)}), expected "
            f"{'SPLIT/' * depth}CLASS/{PurePosixPath(loose[0]).name}. Move them, or name them in a table"
        )
    folder = _Folder(source.uri, source.roots)
    opened = [folder.image(name) for name in images]
    rows = pd.DataFrame(
        {
            "value": [part[depth] for part in parts],
            "split": [SPLIT_FOLDERS[part[0].lower()] if has_splits else "train" for part in parts],
            "place": images,
            "image": pd.Series([image for image, _ in opened], dtype="object"),
            "unreadable": [fault for _, fault in opened],
        }
    )
    others = tuple(name for name in names if not _is_image(name))
    return _Found(rows, "folders", other_files=others)


def _of_tables(source: ImageSource) -> _Found:
    """The images that tables name or hold.

    Raises:
        DataError: A table is malformed or lacks a column; the faults of all tables together.
        UsageError: There is no table, or its format is unknown.
    """
    described = TableDataset(
        name="images", version="1", uri=source.uri, files=source.files, roots=tuple(source.roots) or None
    )
    files = find_files(described, _is_table)
    columns = source.columns
    if isinstance(columns, ImageColumns):
        columns = _PathColumns(text=columns.image, label=columns.label)
    frames, faults = [], []
    for file in files:
        data = storage.read_bytes(file.uri)
        try:
            if len(files) == 1:
                _require_sha256(hashlib.sha256(data).hexdigest(), file.name, source.sha256)
            records = parse(data, file.name, "auto", columns, None, file.partition, source.max_expansion)
        except DataError as error:
            faults.append(str(error))
            continue
        folder = _Folder(file.uri.rpartition("/")[0], source.roots)
        images = [folder.image(value) for value in records.texts]
        frames.append(
            pd.DataFrame(
                {
                    "value": pd.Series(list(records.labels), dtype="object"),
                    "split": file.split,
                    "place": [f"{file.name} {place}" for place in records.places],
                    "image": pd.Series([image for image, _ in images], dtype="object"),
                    "unreadable": [fault for _, fault in images],
                }
            )
        )
    if faults:
        raise DataError("\n".join(faults))
    return _Found(pd.concat(frames, ignore_index=True), "table", tuple(file.uri for file in files))


class _Folder:
    """The folder that names of images are relative to."""

    def __init__(self, uri: str, roots: Sequence[str]) -> None:
        self._uri, self._roots = uri, roots
        self._checked: set[str] = set()  # folders inside, in which only links can lead out

    def image(self, value: Any) -> tuple[str | bytes | None, str]:
        """The URI or the bytes of an image, and what is wrong with the value that names or holds it.

        A value is a path, the content of a file, or as on the Hugging Face hub an object with `bytes` or
        `path`.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value, ""
        if not isinstance(value, str) or not value.strip():
            return None, "no path" if value is None or isinstance(value, str) else f"{value!r} is no path"
        if len(value) > LONGEST_PATH or "\0" in value:  # parquet's binary columns are read as text
            return value.encode("utf-8", "surrogateescape"), ""
        try:
            return self._inside(value.strip()), ""
        except UsageError as error:
            return None, str(error)

    def _inside(self, name: str) -> str:
        """The URI. Raises UsageError if it leads out, which is slow to find out for each file by itself."""
        parent, _, last = name.rpartition("/")
        uri = storage.join(self._uri, name)
        if parent in self._checked and last != ".." and last.isprintable() and not Path(uri).is_symlink():
            return uri
        uri = data_uri(self._uri, name, self._roots)
        if "://" not in name and not name.startswith("/") and not Path(uri).is_symlink():
            self._checked.add(parent)
        return uri


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more


# --- decoding ----------------------------------------------------------------------------------------


def _decode(found: _Found, source: ImageSource) -> ImageTable:
    rows = found.rows
    decoder = Decoder(source.shape, source.channels, source.resize)
    _require_room_for(len(rows) * math.prod(decoder.laid_out), len(rows), source)
    pixels = array_on_disk((len(rows), *decoder.laid_out))
    hashes = np.zeros((len(rows), BITS), dtype=np.bool_)
    sizes = np.zeros((len(rows), 2), dtype=np.int64)
    keys: list[str] = []
    faults: list[str] = []
    print(f"reading {len(rows):,} images", flush=True)
    for done in decoder.in_order(_files(rows), len(rows)):
        place = slice(len(keys), len(keys) + len(done.keys))
        pixels[place], hashes[place], sizes[place] = done.pixels, done.hashes, done.sizes
        names = (path.rpartition("/")[2] for path in rows["place"].iloc[place])  # shown beside the fault
        keys += done.keys
        faults += [fault.removeprefix(f"{name}: ") for name, fault in zip(names, done.faults, strict=True)]
    described = rows.drop(columns="image").assign(
        row=rows.groupby("split").cumcount(),
        key=keys,
        shown="the image",
        unreadable=[
            fault.removeprefix(f"{place.rpartition('/')[2]}: ")  # a reader sees the place beside the fault
            for fault, place in zip(faults, rows["place"], strict=True)
        ],
        width=sizes[:, 0],
        height=sizes[:, 1],
    )
    return ImageTable(pixels, hashes, described, found.form, found.other_files)


def _files(rows: pd.DataFrame) -> Iterator[list[ImageFile]]:
    """The content of the images' files, a few at a time."""

    def read(image: str | bytes | None, fault: str, place: str) -> ImageFile:
        if fault or image is None:
            return ImageFile(fault=fault)
        if not isinstance(image, str):
            return ImageFile(image, place)
        try:
            return ImageFile(storage.read_bytes(image), shown(storage.file_name(image)))
        except UsageError as error:
            return ImageFile(fault=str(error))

    return read_in_pieces(read, *(rows[name].tolist() for name in ("image", "unreadable", "place")))


def read_in_pieces(read: Callable[..., ImageFile], *columns: Sequence[Any]) -> Iterator[list[ImageFile]]:
    """What `read` returns for each row of some columns, a few rows at a time, by several threads."""
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(columns[0]), FILES_AT_ONCE):
            piece = (column[start : start + FILES_AT_ONCE] for column in columns)
            yield list(readers.map(read, *piece))


def _require_room_for(size: int, images: int, source: ImageSource) -> None:
    """Refuse what would not fit on the disk: the splits hold all images again."""
    scratch = tempfile.gettempdir()
    free = shutil.disk_usage(scratch).free
    if 2 * size > free:
        raise DataError(
            f"{source.uri}: {images:,} images of {source.shape[0]} × {source.shape[1]} with "
            f"{source.channels} channels take {2 * size / 1e9:,.1f} GB of disk while they are split, and "
            f"{free / 1e9:,.1f} GB are free in {scratch}. Lower dataset.shape, or name a folder on a larger "
            "disk by TMPDIR"
        )
