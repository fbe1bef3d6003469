"""Files by URI, on this machine or in a bucket: read, list, delete, and copy folders.

A URI is an absolute path, one of `SCHEMES`, which fsspec opens, or `package://PACKAGE/PATH` for a file in an
installed Python package. fsspec's chains of file systems (`simplecache::gs://…`) and its other schemes are
refused, because some of them expand templates or run commands.

A manifest is trusted: its URIs are opened as they are. Data and events are not trusted: a list of files in
the data could name any file of this machine or any address of its network, so `data_uri` checks each name.

Every failure of these functions is a `GauntletError` that names the URI: a `UsageError` when a retry cannot
help (no such file or folder, no permission, an unknown scheme), a plain `GauntletError` when the service
cannot be reached or the disk is full.
"""

from __future__ import annotations

import asyncio
import errno
import glob
import hashlib
import ipaddress
import logging
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from gauntlet.manifests.errors import GauntletError, UsageError

if TYPE_CHECKING:
    import aiohttp

PACKAGE_SCHEME = "package://"
FILE_SCHEME = "file://"
HTTP_SCHEMES = ("http://", "https://")
SCHEMES = ("gs", "gcs", "s3", "s3a", "az", "abfs", "abfss", "https", "http", "hf", "memory")
EXTRAS = {"s3": "s3", "s3a": "s3", "az": "az", "abfs": "az", "abfss": "az"}
"""The extra of Gauntlet that installs what opens a scheme."""

FORBIDDEN_STATUSES = (401, 403)
IDENTIFYING = (
    "md5Hash",  # Cloud Storage; composed objects have only the next one
    "crc32c",
    "blob_id",  # Hugging Face hub: git's hash of the file, or of the pointer that holds its sha256
    "ETag",  # S3, HTTP
    "etag",  # Azure
    "Content-MD5",
    "Digest",
    "Last-Modified",
)
"""Keys of a store's file information that change with the content, the most exact first."""
OWN_CA = "If the server uses a private CA, set SSL_CERT_FILE to the CA's certificate"
REQUESTS_AT_ONCE = 8
LONGEST_NAME_SHOWN = 200
NOT_A_PATH = (errno.ELOOP, errno.ENAMETOOLONG)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, lone surrogates


def read_bytes(uri: str) -> bytes:
    """The whole content of one file."""
    if uri.startswith(PACKAGE_SCHEME):
        resource = _resource(uri)
        if not resource.is_file():
            raise UsageError(
                f"{uri}: the package holds no such file. Correct the path after the package name"
            )
        return resource.read_bytes()
    with _explained(uri):
        files, path = file_system(uri)
        if isinstance(files, LocalFileSystem) and not stat.S_ISREG(mode := Path(path).stat().st_mode):
            if stat.S_ISDIR(mode):
                raise IsADirectoryError
            raise UsageError(f"{uri}: found a device or a pipe, expected a file")
        return bytes(files.cat_file(path))


def identities(uris: Iterable[str]) -> dict[str, str | None]:
    """For each file a text that changes when its content does; None for a missing or unreadable file.

    It comes from the store's file information (`IDENTIFYING`) if that has it, else it is the sha256 of the
    content. A folder with several of the files is listed once.
    """
    by_folder: dict[str, list[str]] = {}
    for uri in dict.fromkeys(uris):
        by_folder.setdefault(uri.rpartition("/")[0], []).append(uri)
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:  # partitioned data have many folders
        for part in requests.map(_of_folder, by_folder, by_folder.values()):
            found |= part
    return found


def _of_folder(folder_uri: str, uris: list[str]) -> dict[str, str | None]:
    if folder_uri.startswith((PACKAGE_SCHEME, *HTTP_SCHEMES)) or len(uris) == 1:
        return {uri: _identity(uri) for uri in uris}
    try:
        with _explained(folder_uri):
            files, path = file_system(folder_uri)
            files.invalidate_cache()
            try:
                listed = {file_name(entry["name"]): entry for entry in files.ls(path, detail=True)}
            except FileNotFoundError:
                listed = {}
    except UsageError:  # this account may be able to read the files without listing the folder
        return {uri: _identity(uri) for uri in uris}
    entries = {uri: listed.get(file_name(uri)) for uri in uris}
    return {uri: entry and (_said_by_store(entry) or _identity(uri)) for uri, entry in entries.items()}


def _identity(uri: str) -> str | None:
    if not uri.startswith(PACKAGE_SCHEME):
        with _explained(uri):
            files, path = file_system(uri)
            try:
                said = _said_by_store(files.info(path))
            except FileNotFoundError:
                said = None  # over HTTP also when the server cannot be reached, which reading the file shows
        if said is not None:
            return said
    try:
        return f"sha256:{sha256_of(uri)}"
    except UsageError:
        return None


def sha256_of(uri: str) -> str:
    """The sha256 of a file's content, in hexadecimal. A file on this machine is not held in memory."""
    here = local_path(uri)
    if here is None or not here.is_file():
        return hashlib.sha256(read_bytes(uri)).hexdigest()
    with _explained(uri), here.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _said_by_store(info: Mapping[str, Any]) -> str | None:
    return next((f"{key}:{info[key]}" for key in IDENTIFYING if info.get(key)), None)


def is_folder(uri: str) -> bool:
    """Whether the URI is a folder. An `http(s)` address is not one, because it cannot be listed reliably."""
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
    """Names of the files directly inside a folder, sorted."""
    if folder_uri.startswith(PACKAGE_SCHEME):
        return tuple(sorted(entry.name for entry in _resource(folder_uri).iterdir() if entry.is_file()))
    with _explained(folder_uri):
        here = local_path(folder_uri)
        if here is not None:  # fsspec lists a link neither as a file nor as a folder
            return tuple(sorted(entry.name for entry in here.iterdir() if entry.is_file()))
        files, path = file_system(folder_uri)
        entries = files.ls(path, detail=True)
    return tuple(sorted(file_name(entry["name"]) for entry in entries if entry["type"] == "file"))


def list_tree(folder_uri: str) -> tuple[str, ...]:
    """Names of the files at any depth of a folder, relative to it, sorted; links to folders are followed.

    Raises:
        UsageError: There is no such folder, or it may not be listed.
        GauntletError: The service cannot be reached.
    """
    with _explained(folder_uri):
        is_package = folder_uri.startswith(PACKAGE_SCHEME)
        here = _resource(folder_uri) if is_package else local_path(folder_uri)
        if here is not None:
            return tuple(sorted(path.relative_to(here).as_posix() for path in _walk(here)))
        files, path = file_system(folder_uri)
        files.invalidate_cache()
        names = (name.removeprefix(path.rstrip("/") + "/") for name in files.find(path))
        return tuple(sorted(name for name in names if name and not name.endswith("/")))


def is_pattern(uri: str) -> bool:
    """Whether a URI, or a name in a folder, has `*`, `?` or `[…]`, and is not the name of a local file.

    A server's addresses have none, because a folder over HTTP cannot be listed.
    """
    if uri.startswith(HTTP_SCHEMES) or not glob.has_magic(uri):
        return False
    here = local_path(uri)
    return here is None or not here.exists()


def split_pattern(uri: str) -> tuple[str, str]:
    """The folder before the first `*`, `?` or `[`, and the pattern below it."""
    parts = uri.split("/")
    first = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def matching(folder_uri: str, pattern: str) -> tuple[str, ...]:
    """Names of the files in a folder that a pattern matches, relative to it, sorted.

    `*`, `?` and `[…]` match within one name, and `**` matches folders at any depth.

    Raises:
        UsageError: The folder may not be listed.
        GauntletError: The service cannot be reached.
    """
    with _explained(folder_uri):
        is_package = folder_uri.startswith(PACKAGE_SCHEME)
        here = _resource(folder_uri) if is_package else local_path(folder_uri)
        if here is not None:
            # pathlib's own would not follow links to folders
            found = glob.glob(pattern, root_dir=here, recursive=True)  # noqa: PTH207
            return tuple(sorted(name for name in found if (here / name).is_file()))
        files, path = file_system(folder_uri)
        files.invalidate_cache()
        entries = files.glob(join(path, pattern), detail=True)
        start = path.rstrip("/") + "/"
        return tuple(
            sorted(name.removeprefix(start) for name, entry in entries.items() if entry["type"] == "file")
        )


def _walk(folder: Path) -> Iterator[Path]:
    """The files at any depth; a folder that links lead to again is walked once."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (path for path in (Path(parent, name) for name in names) if path.is_file())


def _raise(error: OSError) -> None:
    raise error


def list_folders(folder_uri: str) -> tuple[str, ...]:
    """Names of the folders directly inside a folder, sorted; empty when it does not exist."""
    with _explained(folder_uri):
        files, path = file_system(folder_uri)
        files.invalidate_cache()  # another process may have written there since
        try:
            entries = files.ls(path, detail=True)
        except FileNotFoundError:
            return ()
    return tuple(sorted(file_name(entry["name"]) for entry in entries if entry["type"] == "directory"))


def local_path(uri: str) -> Path | None:
    """The path of a file or folder on this machine; None for other URIs."""
    if "://" in uri and not uri.startswith(FILE_SCHEME):
        return None
    with _explained(uri):
        return Path(LocalFileSystem._strip_protocol(uri))


def download(folder_uri: str, folder: Path) -> None:
    """Copy the files directly inside `folder_uri` into an existing folder."""
    for name in list_files(folder_uri):
        fetch(join(folder_uri, name), folder / name)


def fetch(uri: str, path: Path) -> None:
    """Copy one file to a path on this machine.

    Raises:
        UsageError: There is no such file, or it may not be read.
        GauntletError: The service cannot be reached, or the disk is full.
    """
    with _explained(uri):
        if uri.startswith(PACKAGE_SCHEME):
            path.write_bytes(read_bytes(uri))
            return
        files, there = file_system(uri)
        files.get_file(there, str(path))


def delete(folder_uri: str, first: str) -> None:
    """Delete a folder, if it exists, and its file `first` before all others."""
    with _explained(folder_uri):
        files, path = file_system(folder_uri)
        if files.exists(join(path, first)):
            files.rm_file(join(path, first))
        if files.exists(path):
            files.rm(path, recursive=True)


def upload(folder: Path, uri: str, last: str | None = None) -> None:
    """Copy a folder's files, at any depth, to the folder `uri`; files of the same name are replaced.

    Readers regard a folder with the file `last` as complete. An old one is deleted before anything is
    written, and the new one is copied after all others, so an interrupted copy has none.
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
    """Delete the folder `uri`, then `upload` to it.

    No folder is renamed: gcsfuse, behind `/gcs` on Vertex AI, refuses that in a bucket of a flat namespace
    (https://github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md).
    """
    delete(uri, first=last)
    upload(folder, uri, last)


def join(folder_uri: str, name: str) -> str:
    """The URI of `name`, which may hold slashes, inside a folder."""
    return f"{folder_uri.rstrip('/')}/{name}"


def file_name(uri: str) -> str:
    """The last part of a URI, without the query of an HTTP address."""
    path = uri.split("?", 1)[0] if uri.startswith(HTTP_SCHEMES) else uri
    return path.rstrip("/").rsplit("/", 1)[-1]


def _resource(uri: str) -> Path:
    """The path of a package's file. The package is not imported, because its dependencies may be missing."""
    package, _, path = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    try:
        spec = find_spec(package)
    except (ModuleNotFoundError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"{uri}: found no installed package {package or '(none)'}, "
            f"expected {PACKAGE_SCHEME}PACKAGE/PATH. Install the package or correct its name"
        )
    return Path(next(iter(spec.submodule_search_locations)), path)


def file_system(uri: str) -> tuple[Any, str]:
    """The file system of a URI and the path in it. Its methods raise the store's own exceptions."""
    # Otherwise gcsfs asks a second service for each bucket's type, which takes a minute when that service
    # cannot be reached, and logs a traceback of every attempt, although the user sees the last error.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    here = local_path(uri)
    if here is not None:
        return fsspec.filesystem("file"), str(here)
    scheme = uri.partition("://")[0]
    if "::" in uri:
        raise UsageError(f"{uri}: found a chain of file systems (::), expected one file or folder")
    if scheme not in SCHEMES:
        raise UsageError(
            f"{uri}: unknown kind of URI. Use a path, gs://, s3://, az://, https://, hf:// or "
            f"{PACKAGE_SCHEME}"
        )
    options: dict[str, Any] = {"get_client": http_client} if uri.startswith(HTTP_SCHEMES) else {}
    if scheme in ("gs", "gcs"):
        options["session_kwargs"] = {"trust_env": True}  # the proxy that HTTPS_PROXY names
    files, path = fsspec.core.url_to_fs(uri, **options)
    return files, str(path)


def _installation(uri: str) -> str:
    """Advice how to install the package for a kind of URI, from fsspec's list or as an extra of Gauntlet."""
    scheme = uri.partition("://")[0]
    if scheme in EXTRAS:
        return f"`pip install 'gauntlet[{EXTRAS[scheme]}]'`, or copy the data to a path or to gs://"
    known = known_implementations.get(scheme, {})
    package = str(known.get("class", "fsspec")).partition(".")[0]
    if package == "fsspec":  # fsspec has it, and the message names the missing dependency
        return "Install it, or copy the data to a path or to gs://"
    return f"`pip install {package}`, or copy the data to a path or to gs://"


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what fsspec and stores raise into one message; stores' exceptions have no common base class."""
    try:
        yield
    except GauntletError:
        raise
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such file or folder. Correct the path, or copy the data there") from None
    except IsADirectoryError:
        raise UsageError(f"{uri}: found a folder, expected a file") from None
    except NotADirectoryError:
        raise UsageError(f"{uri}: found a file, expected a folder") from None
    except PermissionError:
        raise UsageError(f"{uri}: permission denied. Give this account access to it") from None
    except ImportError as error:
        raise UsageError(
            f"{uri}: this kind of URI needs a package that is not installed: {error}. {_installation(uri)}"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise GauntletError(f"{uri}: {error.strerror}. Make room, then run again") from None
        if isinstance(error, OSError) and error.errno in NOT_A_PATH:
            raise UsageError(f"{uri}: {error.strerror}. Correct the path") from None
        if isinstance(error, ValueError) and local_path(uri) is not None:  # a NUL byte, a lone surrogate
            raise UsageError(f"{uri!a}: found characters that a path cannot have ({error})") from None
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if status in FORBIDDEN_STATUSES or str(error).startswith("Forbidden"):
            raise UsageError(
                f"{uri}: permission denied ({error}). Give this account access; for gs:// log in with "
                "`gcloud auth application-default login`"
            ) from None
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        advice = OWN_CA if "CERTIFICATE_VERIFY_FAILED" in cause else "Check the address and the network"
        raise GauntletError(
            f"{uri}: cannot be reached, or the transfer failed ({cause}). {advice}, then run again"
        ) from None


def data_uri(folder_uri: str, name: str, roots: Sequence[str] = ()) -> str:
    """The URI of a file that the data name: in the data's folder, or absolute under one of `dataset.roots`.

    Raises:
        UsageError: The file is outside of these folders, by `..`, a link or its address.
    """
    uri = name if "://" in name or name.startswith("/") else join(folder_uri, name)
    if not lies_in(uri, (folder_uri, *roots)):
        raise UsageError(
            f"{shown(name)}: leads out of {folder_uri}. Only files under that folder are opened. Move the "
            "file there, or add its folder to dataset.roots"
        )
    return uri


def lies_in(uri: str, roots: Sequence[str]) -> bool:
    """Whether a URI, with all links resolved, is one of `roots` or under one of them."""
    return not _FORBIDDEN.search(uri) and any(_lies_in(uri, root) for root in roots)


def shown(name: str) -> str:
    """An untrusted name for messages: on one line, and cut if it is long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[:LONGEST_NAME_SHOWN])
    return printable + ("…" if len(name) > LONGEST_NAME_SHOWN else "")


def _lies_in(uri: str, root: str) -> bool:
    here, root_here = local_path(uri), local_path(root)
    if here is not None and root_here is not None:
        return Path(os.path.realpath(here)).is_relative_to(os.path.realpath(root_here))
    if here is not None or root_here is not None or "::" in uri or "\\" in uri:
        return False
    folder = root.rstrip("/") + "/"
    return uri == root or (uri.startswith(folder) and ".." not in unquote(uri.partition("://")[2]).split("/"))


# --- redirects ---
# A server of public data may answer with a redirect. One to a private network, such as a cloud's metadata
# server or a service behind a firewall, is not followed. Such a host is asked only if the manifest names it.


async def http_client(**options: Any) -> aiohttp.ClientSession:
    """The HTTP client for fsspec, which asks the proxy that HTTPS_PROXY or HTTP_PROXY names."""
    import aiohttp

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_require_public)
    return aiohttp.ClientSession(trace_configs=[tracing], trust_env=True, **options)


async def _require_public(session: object, context: object, redirect: Any) -> None:  # noqa: ARG001
    """Raise a UsageError unless the redirect stays on its host or leads only to public addresses."""
    from yarl import URL

    location = redirect.response.headers.get("Location") or redirect.response.headers.get("URI", "")
    target = redirect.url.join(URL(location))
    if target.host == redirect.url.host:
        return
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    inner = [address for address in (str(entry[4][0]) for entry in found) if not _is_public(address)]
    if inner:
        raise UsageError(
            f"{redirect.url}: found a redirect to {target}, which is {inner[0]}, an address of a private "
            "network. It is not followed. If the data lie there, name that address in the manifest"
        )


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_global
