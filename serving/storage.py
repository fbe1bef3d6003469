"""Files of Cloud Storage, read and written with the account of the machine and without Google's libraries.

https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import json
import os
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from gauntlet.manifests.errors import UsageError

GS = "gs://"
API = "https://storage.googleapis.com"
TOKEN_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
SECONDS = 30
CHUNK = 2**20


def read_object(uri: str, root: str, most_bytes: int) -> bytes:
    """A file below the folder `root`.

    Raises:
        InputError: It lies elsewhere, is too large or cannot be read.
    """
    from gauntlet.serving.interface import InputError  # numpy, which the supervisor needs not

    if not uri.startswith(root.rstrip("/") + "/"):
        raise InputError(f"found {uri[:200]}, expected a file below {root}")
    try:
        with _opened(_object_url(uri) + "?alt=media") as stream:
            content = stream.read(most_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"{uri[:200]}: cannot be read: {_cause(error)}") from None
    if len(content) > most_bytes:
        raise InputError(f"{uri[:200]}: found over {most_bytes} bytes, expected at most that")
    return content


def download(folder_uri: str, folder: Path) -> None:
    """Copy the files that lie directly in a folder of a bucket.

    Raises:
        UsageError: There are none, or they cannot be read.
    """
    bucket, _, name = folder_uri.removeprefix(GS).partition("/")
    prefix = name.rstrip("/") + "/" if name else ""
    page: dict[str, Any] = {}
    found = 0
    try:
        while not found or "nextPageToken" in page:
            query = {"prefix": prefix, "delimiter": "/", "pageToken": page.get("nextPageToken", "")}
            with _opened(f"{_api()}/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode(query)}") as stream:
                page = json.load(stream)
            for item in page.get("items", ()):
                file = str(item["name"]).removeprefix(prefix)
                if not file:
                    continue
                found += 1
                source = _object_url(f"{GS}{bucket}/{item['name']}") + "?alt=media"
                with _opened(source) as stream, (folder / file).open("wb") as target:
                    while chunk := stream.read(CHUNK):
                        target.write(chunk)
            if not found:
                raise UsageError(f"{folder_uri}: found no file, expected the files of a bundle.")
    except (OSError, HTTPException, ValueError) as error:
        raise UsageError(f"{folder_uri}: cannot be read: {_cause(error)}.") from None


def write_object(uri: str, data: bytes) -> None:
    """Write a file of a bucket, whole or not at all; raises as `urlopen`."""
    bucket, _, name = uri.removeprefix(GS).partition("/")
    query = urlencode({"uploadType": "media", "name": name})
    with _opened(f"{_api()}/upload/storage/v1/b/{quote(bucket, safe='')}/o?{query}", data) as stream:
        stream.read()


def _api() -> str:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return API if not emulator else emulator if "://" in emulator else f"http://{emulator}"


def _object_url(uri: str) -> str:
    bucket, _, name = uri.removeprefix(GS).partition("/")
    return f"{_api()}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"


def _opened(url: str, data: bytes | None = None) -> IO[bytes]:
    headers = {} if _api() != API else {"Authorization": f"Bearer {_token()}"}
    if data is not None:
        headers["Content-Type"] = "application/octet-stream"
    found: IO[bytes] = urlopen(Request(url, data, headers), timeout=SECONDS)
    return found


def _token() -> str:
    """That of the machine's service account, from the metadata server of Google Cloud."""
    with urlopen(Request(TOKEN_URL, headers={"Metadata-Flavor": "Google"}), timeout=SECONDS) as stream:
        return str(json.load(stream)["access_token"])


def _cause(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError):
        return f"{error.reason} (its account is that of the machine on Google Cloud)"
    return str(error)
