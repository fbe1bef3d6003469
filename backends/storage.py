"""Files wherever they lie: read, list and delete by URI, and copy a folder there and back.

A URI is an absolute path, anything fsspec opens (`gs://`, `https://`, `hf://`, `memory://`), or
`package://PACKAGE/PATH` for a file inside an installed Python package. fsspec is the one implementation
for this machine and for Google Cloud alike, so there is no interface to choose from.

Every failure is a `GauntletError` that names the URI: a `UsageError` when asking again cannot help
(nothing there, no permission, an unknown scheme), a plain `GauntletError` when the service was out of reach.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from manifests.errors import GauntletError, UsageError

PACKAGE_SCHEME = "package://"
HTTP_SCHEMES = ("http://", "https://")
FORBIDDEN_STATUSES = (401, 403)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_bytes(uri: str) -> bytes:
    """The whole content of one file.

    Raises:
        UsageError: There is no such file, it may not be read, or nothing here opens this kind of URI.
        GauntletError: The service that holds it could not be reached, or broke off.
    """
    if uri.startswith(PACKAGE_SCHEME):
        resource = _resource(uri)
        if not resource.is_file():
            raise UsageError(
                f"{uri}: the package holds no such file. Correct the path after the package name"
            )
        return resource.read_bytes()
    with _explained(uri):
        files, path = file_system(uri)
        return bytes(files.cat_file(path))


def is_folder(uri: str) -> bool:
    """Whether the URI is a folder; an `http(s)` address never is, for it cannot be listed reliably.

    Raises:
        UsageError: There is neither a file nor a folder, or it may not be looked at.
        GauntletError: The service could not be reached.
    """
    if uri.startswith(HTTP_SCHEMES):
        return False
    if uri.startswith(PACKAGE_SCHEME):
        resource = _resource(uri)
        if not (resource.is_dir() or resource.is_file()):
            raise UsageError(
                f"{uri}: the package holds nothing there. Correct the path after the package name"
            )
        return resource.is_dir()
    with _explained(uri):
        files, path = file_system(uri)
        return bool(files.info(path)["type"] == "directory")


def list_files(folder_uri: str) -> tuple[str, ...]:
    """Names of the files directly inside a folder, sorted.

    Raises:
        UsageError: There is no such folder, or it may not be listed.
        GauntletError: The service could not be reached.
    """
    if folder_uri.startswith(PACKAGE_SCHEME):
        return tuple(sorted(entry.name for entry in _resource(folder_uri).iterdir() if entry.is_file()))
    with _explained(folder_uri):
        files, path = file_system(folder_uri)
        entries = files.ls(path, detail=True)
    return tuple(sorted(file_name(entry["name"]) for entry in entries if entry["type"] == "file"))


def list_folders(folder_uri: str) -> tuple[str, ...]:
    """Names of the folders directly inside a folder, sorted; none when it does not exist yet.

    Raises:
        UsageError: It may not be listed.
        GauntletError: The service could not be reached.
    """
    with _explained(folder_uri):
        files, path = file_system(folder_uri)
        files.invalidate_cache()  # another process may have written there since
        try:
            entries = files.ls(path, detail=True)
        except FileNotFoundError:
            return ()
    return tuple(sorted(file_name(entry["name"]) for entry in entries if entry["type"] == "directory"))


def local_folder(uri: str) -> Path | None:
    """The folder as a path when it lies on this machine."""
    with _explained(uri):
        files, path = file_system(uri)
    return Path(path) if isinstance(files, LocalFileSystem) else None


def download(folder_uri: str, folder: Path) -> None:
    """Copy the files directly inside `folder_uri` into an existing folder.

    Raises:
        UsageError: There is no such folder, or it may not be read.
        GauntletError: The service could not be reached.
    """
    for name in list_files(folder_uri):
        with _explained(join(folder_uri, name)):
            files, path = file_system(join(folder_uri, name))
            files.get_file(path, str(folder / name))


def delete(folder_uri: str, first: str) -> None:
    """Delete a folder, its file `first` before all others; no such folder is no failure.

    Raises:
        UsageError: It may not be deleted.
        GauntletError: The service could not be reached.
    """
    with _explained(folder_uri):
        files, path = file_system(folder_uri)
        if files.exists(join(path, first)):
            files.rm_file(join(path, first))
        if files.exists(path):
            files.rm(path, recursive=True)


def upload(folder: Path, uri: str, last: str | None = None) -> None:
    """Copy a folder's files, at any depth, to the folder `uri`; files of the same name are replaced.

    Readers take a folder that holds the file `last` for complete. An older one is deleted before anything is
    written, and the new one is copied when all others are there, so a copy that was cut short has none.

    Raises:
        UsageError: It may not be written there.
        GauntletError: The service could not be reached.
    """
    with _explained(uri):
        files, target = file_system(uri)
        files.invalidate_cache()  # another process may have written there since
        if last is not None and files.exists(join(target, last)):
            files.rm_file(join(target, last))
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path == folder / (last or "")):
            destination = join(target, path.relative_to(folder).as_posix())
            files.makedirs(destination.rsplit("/", 1)[0], exist_ok=True)
            files.put_file(str(path), destination)


def replace_folder(folder: Path, uri: str, last: str) -> None:
    """Delete the folder `uri` and copy `folder` there, file by file, with the file `last` as the last one.

    No folder is renamed: gcsfuse, behind `/gcs` on Vertex AI, refuses that in a bucket of a flat namespace
    (https://github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md).

    Raises:
        UsageError: It may not be written there.
        GauntletError: The service could not be reached, or the disk is full.
    """
    delete(uri, first=last)
    upload(folder, uri, last)


def join(folder_uri: str, name: str) -> str:
    """The URI of `name`, which may hold slashes, inside a folder."""
    return f"{folder_uri.rstrip('/')}/{name}"


def file_name(uri: str) -> str:
    """The last part of a URI, without an address's query."""
    path = uri.split("?", 1)[0] if uri.startswith(HTTP_SCHEMES) else uri
    return path.rstrip("/").rsplit("/", 1)[-1]


def _resource(uri: str) -> Traversable:
    package, _, path = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    try:
        root = resources.files(package)
    except (ModuleNotFoundError, TypeError, ValueError):
        raise UsageError(
            f"{uri}: found no installed package {package or '(none)'}, "
            f"expected {PACKAGE_SCHEME}PACKAGE/PATH. Install the package or correct its name"
        ) from None
    return root.joinpath(path) if path else root


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it. What it raises is the store's own, and not explained."""
    # gcsfs would first ask a second service for each bucket's type, for a minute where that is out of reach,
    # and log the traceback of every attempt, though the last error reaches the user anyway.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    files, path = fsspec.core.url_to_fs(uri)
    return files, str(path)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what fsspec and the libraries below it raise into one message.

    Each store raises errors of its own, some of no common base (aiohttp, httpx, google.auth), which is why
    the last clause is broad: all of them mean that the bytes did not get through.
    """
    try:
        yield
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such file or folder. Correct the path, or put the data there") from None
    except IsADirectoryError:
        raise UsageError(f"{uri}: found a folder, expected a file") from None
    except NotADirectoryError:
        raise UsageError(f"{uri}: found a file, expected a folder") from None
    except PermissionError:
        raise UsageError(f"{uri}: permission denied. Give this account access to it") from None
    except ImportError as error:
        raise UsageError(f"{uri}: this kind of URI needs a package that is not installed: {error}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise GauntletError(f"{uri}: {error.strerror}. Make room, then run again") from None
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            raise UsageError(
                f"{uri}: unknown kind of URI. Use a path, gs://, https://, hf:// or {PACKAGE_SCHEME}"
            ) from None
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if status in FORBIDDEN_STATUSES or str(error).startswith("Forbidden"):
            raise UsageError(
                f"{uri}: permission denied ({error}). Give this account access; for gs:// log in with "
                "`gcloud auth application-default login`"
            ) from None
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        raise GauntletError(
            f"{uri}: out of reach, or broke off ({cause}). Check the address and the network, then run again"
        ) from None
