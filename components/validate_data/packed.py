"""Compressed files: one file by gzip, bzip2, xz or zstd, or a zip archive of one. Unpacking is bounded."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from gauntlet.manifests.errors import DataError, GauntletError

STREAMS: Mapping[str, tuple[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": ("bzip2", bz2.BZ2File),
    ".xz": ("xz", lzma.LZMAFile),
    ".zst": ("zstd", lambda file: pa.CompressedInputStream(file, "zstd")),
}
ZIP_SUFFIX = ".zip"
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
NO_CONTENT = ("__MACOSX/", ".DS_Store")
"""Files that macOS adds to an archive."""
SHOWN_FILES = 5

MOST_EXPANSION = 100
"""How many times its own size a file may unpack to, if `dataset.max_expansion` does not say."""
SMALL = 2**30
"""Bytes that a file of any size may unpack to."""
READ_AT_ONCE = 2**20


class Bounded:
    """A stream that may give `most` bytes, so that what expands without end is noticed."""

    def __init__(self, stream: Any, name: str, most: int) -> None:
        self._stream, self._name, self._most, self._given = stream, name, most, 0

    def read(self, size: int = READ_AT_ONCE) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        data = bytes(self._stream.read(size))
        self._given += len(data)
        require_room(self._name, self._given, self._most)
        return data


def most_unpacked(size: int, max_expansion: int | None) -> int:
    """The bytes that a file of `size` bytes may unpack to."""
    return max(SMALL, (max_expansion or MOST_EXPANSION) * size)


def require_room(name: str, size: int, most: int) -> None:
    """Raise a `DataError` if a file unpacks to more than `most` bytes."""
    if size > most:
        raise DataError(
            f"{name}: unpacks to {size / 2**30:,.1f} GiB or more, expected at most {most / 2**30:,.1f} GiB. "
            "If you trust the file, unpack it, or raise dataset.max_expansion, the number of times its own "
            f"size that a compressed file may have (default {MOST_EXPANSION})"
        )


def unpacked_name(name: str) -> str:
    """The name without the suffix of the compression, so that its suffix is that of the format."""
    suffix = PurePosixPath(name.lower()).suffix
    return name[: -len(suffix)] if suffix in (*STREAMS, ZIP_SUFFIX) else name


def is_packed(name: str) -> bool:
    """Whether the name says that the file is compressed, and no zip archive."""
    return PurePosixPath(name.lower()).suffix in STREAMS


def unpack_file(packed: Path, unpacked: Path, name: str, max_expansion: int | None) -> Path:
    """Write the content of a compressed file to `unpacked`, which is returned. Raises what `unpack` does."""
    kind, opened = STREAMS[PurePosixPath(name.lower()).suffix]
    most = most_unpacked(packed.stat().st_size, max_expansion)
    try:
        with packed.open("rb") as file, opened(file) as stream, unpacked.open("wb") as content:
            for data in iter(Bounded(stream, name, most).read, b""):
                content.write(data)
    except FAULTS as error:
        raise _not_whole(name, kind, error) from None
    return unpacked


def unpack(data: bytes, name: str, max_expansion: int | None = None) -> tuple[bytes, str]:
    """A file's content and name, unpacked as its suffix says.

    Raises:
        DataError: It is not one whole file, or it unpacks to more than `most_unpacked`.
    """
    suffix = PurePosixPath(name.lower()).suffix
    if suffix == ZIP_SUFFIX:
        return _unzip(data, name, max_expansion)
    if suffix not in STREAMS:
        return data, name
    return decompress(data, name, suffix, max_expansion), unpacked_name(name)


def decompress(data: bytes, name: str, suffix: str, max_expansion: int | None = None) -> bytes:
    """The content of a file compressed as this suffix of `STREAMS` says. Raises what `unpack` does."""
    kind, opened = STREAMS[suffix]
    most = most_unpacked(len(data), max_expansion)
    try:
        with opened(io.BytesIO(data)) as stream:
            return _whole(stream, name, most)
    except FAULTS as error:
        raise _not_whole(name, kind, error) from None


def _not_whole(name: str, kind: str, error: Exception) -> GauntletError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return GauntletError(f"{name}: no room to unpack it ({error}). Set TMPDIR to a larger disk")
    return DataError(f"{name}: not a whole {kind} file: {error}. Fetch it again")


def _whole(stream: Any, name: str, most: int) -> bytes:
    return b"".join(iter(Bounded(stream, name, most).read, b""))


def _unzip(data: bytes, name: str, max_expansion: int | None) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = [
                entry
                for entry in archive.infolist()
                if not entry.is_dir() and not entry.filename.startswith(NO_CONTENT)
            ]
            if len(files) != 1:
                names = ", ".join(entry.filename for entry in files[:SHOWN_FILES]) or "none"
                raise DataError(
                    f"{name}: found {len(files)} files in the archive ({names}), expected one. Unpack it, "
                    "and name the files in dataset.files"
                )
            if files[0].flag_bits & 1:
                raise DataError(f"{name}: the archive is encrypted. Unpack it")
            with archive.open(files[0]) as stream:
                content = _whole(stream, name, most_unpacked(len(data), max_expansion))
            return content, PurePosixPath(files[0].filename).name
    except (*FAULTS, NotImplementedError) as error:
        raise DataError(f"{name}: not a whole zip archive: {error}. Fetch it again") from None
