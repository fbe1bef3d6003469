"""Files compressed by gzip, bzip2 or xz, and zip archives of one file."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from gauntlet.manifests.errors import DataError

UNPACK: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
    ".gz": ("gzip", gzip.decompress),
    ".bz2": ("bzip2", bz2.decompress),
    ".xz": ("xz", lzma.decompress),
}
ZIP_SUFFIX = ".zip"
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
NO_CONTENT = ("__MACOSX/", ".DS_Store")
"""Files that macOS adds to an archive."""
SHOWN_FILES = 5


def unpacked_name(name: str) -> str:
    """The name without the suffix of the compression, so that its suffix is that of the format."""
    suffix = PurePosixPath(name.lower()).suffix
    return name[: -len(suffix)] if suffix in (*UNPACK, ZIP_SUFFIX) else name


def unpack(data: bytes, name: str) -> tuple[bytes, str]:
    """A file's content and name, unpacked as its suffix says; a `DataError` if it is not one whole file."""
    suffix = PurePosixPath(name.lower()).suffix
    if suffix == ZIP_SUFFIX:
        return _unzip(data, name)
    if suffix not in UNPACK:
        return data, name
    return decompress(data, name, suffix), unpacked_name(name)


def decompress(data: bytes, name: str, suffix: str) -> bytes:
    """The content of a file compressed as this suffix of `UNPACK` says; a `DataError` if it is not whole."""
    kind, decompressed = UNPACK[suffix]
    try:
        return decompressed(data)
    except FAULTS as error:
        raise DataError(f"{name}: not a whole {kind} file: {error}. Fetch it again") from None


def _unzip(data: bytes, name: str) -> tuple[bytes, str]:
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
            return archive.read(files[0]), PurePosixPath(files[0].filename).name
    except (*FAULTS, NotImplementedError) as error:
        raise DataError(f"{name}: not a whole zip archive: {error}. Fetch it again") from None
