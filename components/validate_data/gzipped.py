"""Files packed by gzip."""

from __future__ import annotations

import gzip
import zlib

from manifests.errors import DataError


def unzip(data: bytes, name: str) -> bytes:
    """The content of a gzip file.

    Raises:
        DataError: It is none, or not whole.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: not a whole gzip file: {error}. Fetch it again") from None
