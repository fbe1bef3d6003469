"""A bucket as a folder, with the limits of gcsfuse at its default flags on a flat bucket.

Vertex AI shows buckets to training jobs and pipeline steps under `/gcs` by gcsfuse
(https://cloud.google.com/vertex-ai/docs/training/cloud-storage-file-system). What it documents
(https://github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md) and this does alike:

- Objects are the only store. A file's content reaches the bucket when the file is closed, as a whole object:
  a change of one byte uploads everything again. `fsync` makes nothing visible.
- Whoever closes a file that somebody else has replaced since it was opened gets ESTALE.
- Renaming a file copies the object and deletes the old one. Renaming a folder that holds anything fails with
  EMFILE, since `rename-dir-limit` is 0 (`renameNonHierarchicalDir` in internal/fs/fs.go).
- There are no hard links, no symbolic links here, no extended attributes; chmod, chown and utime do nothing.
- Locks are the kernel's own: nobody on another machine, with another mount, sees them.

Not modelled: the stat cache of a minute, with which gcsfuse may show what another machine has changed since;
speed. An empty folder is known to its own mount only (gcsfuse keeps an object `NAME/` for it).
"""

from __future__ import annotations

import errno
import json
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any
from urllib.parse import quote, urlencode

import mfusepy
import urllib3

BLOCK = 1 << 20


class Objects:
    """The objects of all buckets, by Cloud Storage's JSON API."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False, maxsize=16)

    def bucket_exists(self, bucket: str) -> bool:
        return self._ask("GET", f"/storage/v1/b/{bucket}") is not None

    def about(self, path: str) -> dict[str, Any] | None:
        """An object's size, generation and time; None if there is none."""
        answer = self._ask("GET", _address(path))
        return None if answer is None else dict(json.loads(answer))

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """The names of the files and of the folders directly inside `/BUCKET/…`."""
        bucket, _, prefix = folder.strip("/").partition("/")
        query = {"delimiter": "/", "prefix": f"{prefix}/" if prefix else ""}
        files: list[str] = []
        folders: list[str] = []
        while True:
            answer = self._ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(query)}")
            content = json.loads(answer or b"{}")
            files += [one["name"].rpartition("/")[2] for one in content.get("items", ())]
            folders += [one.rstrip("/").rpartition("/")[2] for one in content.get("prefixes", ())]
            if "nextPageToken" not in content:
                return [name for name in files if name], folders
            query["pageToken"] = content["nextPageToken"]

    def download(self, path: str, file: IO[bytes]) -> None:
        answer = self._http.request("GET", f"{self._url}{_address(path)}?alt=media", preload_content=False)
        with answer:
            for block in answer.stream(BLOCK):
                file.write(block)

    def upload(self, path: str, file: IO[bytes]) -> str:
        """Make the file's content the object, and return its generation."""
        place, _, name = _address(path).partition("/o/")
        file.seek(0)
        answer = self._ask("POST", f"/upload{place}/o?uploadType=media&name={name}", file)
        return str(json.loads(answer or b"{}")["generation"])

    def move(self, old: str, new: str) -> None:
        target = _address(new).removeprefix("/storage/v1")
        self._ask("POST", f"{_address(old)}/rewriteTo{target}")
        self.delete(old)

    def delete(self, path: str) -> None:
        self._ask("DELETE", _address(path))

    def _ask(self, method: str, path: str, body: IO[bytes] | None = None) -> bytes | None:
        answer = self._http.request(method, f"{self._url}{path}", body=body)
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise mfusepy.FuseOSError(errno.EIO)
        return bytes(answer.data)


def _address(path: str) -> str:
    bucket, _, name = path.strip("/").partition("/")
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


@dataclass
class OpenFile:
    """The content of a file that somebody has open; all who have it open share it.

    Attributes:
        generation: The object's when it was opened; empty: there was none.
        loaded: Whether the object's content is here.
        changed: Whether it is to be uploaded.
        opened: When, in nanoseconds.
    """

    generation: str = ""
    size: int = 0
    loaded: bool = True
    changed: bool = False
    holders: int = 0
    opened: int = field(default_factory=time.time_ns)
    content: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    lock: threading.Lock = field(default_factory=threading.Lock)


class GcsMount(mfusepy.Operations):  # type: ignore[misc]
    """The file system; `ready` is called when it is mounted."""

    use_ns = True

    def __init__(self, url: str, ready: Callable[[], None]) -> None:
        self._objects = Objects(url)
        self._ready = ready
        self._mounted = time.time_ns()
        self._lock = threading.Lock()
        self._open: dict[str, OpenFile] = {}
        self._made_folders: set[str] = set()

    def init(self, path: str) -> None:
        self._ready()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        file = self._open.get(path)
        if file is not None:
            return _attributes(stat.S_IFREG | 0o666, self._size(file), file.opened)
        about = self._objects.about(path) if path.count("/") > 1 else None
        if about is not None:
            changed = int(datetime.fromisoformat(about["updated"]).timestamp() * 1e9)
            return _attributes(stat.S_IFREG | 0o666, int(about["size"]), changed)
        if self._is_folder(path):
            return _attributes(stat.S_IFDIR | 0o777, 0, self._mounted)
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        files, folders = self._objects.list(path)
        inside = path.rstrip("/") + "/"
        own = (name for name in (*self._open, *self._made_folders) if name.rpartition("/")[0] + "/" == inside)
        return iter({".", "..", *files, *folders, *(name.removeprefix(inside) for name in own)})

    def mkdir(self, path: str, mode: int) -> None:
        self._made_folders.add(path)

    def rmdir(self, path: str) -> None:
        if self._holds_anything(path):
            raise mfusepy.FuseOSError(errno.ENOTEMPTY)
        self._made_folders.discard(path)

    def create(self, path: str, mode: int, flags: int) -> int:
        return self._hold(path, OpenFile(changed=True))

    def open(self, path: str, flags: int) -> int:
        about = self._objects.about(path)
        if about is None and path not in self._open:
            raise mfusepy.FuseOSError(errno.ENOENT)
        about = about or {"generation": "", "size": 0}
        return self._hold(path, OpenFile(str(about["generation"]), int(about["size"]), loaded=False))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        file = self._loaded(path)
        with file.lock:
            file.content.seek(offset)
            return file.content.read(size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        file = self._loaded(path)
        with file.lock:
            file.content.seek(offset)
            file.changed = True
            return file.content.write(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        if fh is None and path not in self._open:
            self.open(path, 0)
            self.truncate(path, length, 0)
            self.flush(path, 0)
            self.release(path, 0)
            return
        file = self._loaded(path)
        with file.lock:
            file.content.truncate(length)
            file.changed = True

    def flush(self, path: str, fh: int) -> None:
        """Upload what was written: this is what `close` waits for."""
        file = self._open.get(path)
        if file is None:  # it was renamed or removed while it was open
            return
        with file.lock:
            if not file.changed:
                return
            about = self._objects.about(path)
            if (str(about["generation"]) if about else "") != file.generation:
                raise mfusepy.FuseOSError(errno.ESTALE)
            file.generation = self._objects.upload(path, file.content)
            file.changed = False

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        """Nothing: with streaming writes only closing a file finalizes its object."""

    def release(self, path: str, fh: int) -> None:
        with self._lock:
            file = self._open.get(path)
            if file is not None:
                file.holders -= 1
                if file.holders <= 0:
                    del self._open[path]

    def unlink(self, path: str) -> None:
        with self._lock:
            self._open.pop(path, None)
        self._objects.delete(path)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        if self._is_folder(old):
            if self._holds_anything(old):
                raise mfusepy.FuseOSError(errno.EMFILE)
            self._made_folders.discard(old)
            self._made_folders.add(new)
            return
        self.flush(old, 0)
        with self._lock:
            self._open.pop(old, None)
        self._objects.move(old, new)

    def link(self, target: str, source: str) -> None:
        raise mfusepy.FuseOSError(errno.ENOSYS)

    def symlink(self, target: str, source: str) -> None:
        raise mfusepy.FuseOSError(errno.ENOSYS)

    def chmod(self, path: str, mode: int) -> None:
        """Nothing: an object has no mode."""

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Nothing: an object has no owner."""

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        """Nothing: an object's time is that of its upload."""

    def statfs(self, path: str) -> dict[str, int]:
        plenty = 1 << 30  # blocks
        return {
            "f_bsize": BLOCK,
            "f_frsize": BLOCK,
            "f_blocks": plenty,
            "f_bfree": plenty,
            "f_bavail": plenty,
        }

    def _hold(self, path: str, opened: OpenFile) -> int:
        with self._lock:
            self._open.setdefault(path, opened).holders += 1
        return 0

    def _loaded(self, path: str) -> OpenFile:
        file = self._open.get(path)
        if file is None:
            raise mfusepy.FuseOSError(errno.ESTALE)
        with file.lock:
            if not file.loaded:
                self._objects.download(path, file.content)
                file.loaded = True
        return file

    def _size(self, file: OpenFile) -> int:
        with file.lock:
            return file.content.seek(0, 2) if file.loaded else file.size

    def _is_folder(self, path: str) -> bool:
        if path.count("/") == 1:
            return path == "/" or self._objects.bucket_exists(path.strip("/"))
        return path in self._made_folders or self._holds_anything(path)

    def _holds_anything(self, path: str) -> bool:
        inside = path + "/"
        if any(name.startswith(inside) for name in (*self._open, *self._made_folders)):
            return True
        return any(self._objects.list(path))


def _attributes(mode: int, size: int, changed: int) -> dict[str, Any]:
    times = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), changed)
    return {"st_mode": mode, "st_nlink": 1, "st_size": size, **times}


def mount(url: str, folder: str, ready: Callable[[], None]) -> None:
    """Show the buckets of the service at `url` in the folder, until the process ends."""
    writes = {"big_writes": True} if mfusepy.fuse_version_major == 2 else {}
    mfusepy.FUSE(GcsMount(url, ready), folder, foreground=True, allow_other=True, **writes)
