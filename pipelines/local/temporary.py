"""A temporary folder for each run, as `TMPDIR` of all its processes, so that a killed run leaves nothing.

Beside the folder lies a lock file. A run holds the lock until it ends. A folder whose lock is free belongs to
a run that was killed, and the next run removes it.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gauntlet.pipelines.local.locks import acquire

PREFIX = "gauntlet-run-"
LOCK_SUFFIX = ".lock"
COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class TemporaryFolder:
    """The folder, and the descriptor of its lock, for child processes that must hold it."""

    path: Path
    lock: int

    def environment(self) -> dict[str, str]:
        """The variables of a process that puts its temporary files there.

        torch keeps compiled code in its default folder, so later runs can use it.
        """
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
        kept = Path(tempfile.gettempdir(), f"torchinductor_{user}")
        return {"TMPDIR": str(self.path), COMPILER_CACHE: os.environ.get(COMPILER_CACHE, str(kept))}


@contextmanager
def temporary_folder() -> Iterator[TemporaryFolder]:
    """A folder that is removed at the end. Folders that killed runs left are removed first."""
    remove_abandoned()
    made = _make()
    try:
        yield made
    finally:
        _remove(made.path)
        os.close(made.lock)


def remove_abandoned() -> list[Path]:
    """Remove the folders of this user's runs that have ended; returns these folders."""
    removed = []
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK_SUFFIX}"):
        with suppress(OSError):
            if lock.lstat().st_uid != os.geteuid():
                continue
            descriptor = acquire(lock)
            if descriptor is not None:
                _remove(_folder_of(lock))
                os.close(descriptor)
                removed.append(_folder_of(lock))
    return removed


def _make() -> TemporaryFolder:
    while True:
        name = Path(tempfile.gettempdir(), PREFIX + os.urandom(6).hex())
        lock = acquire(_lock_of(name))
        if lock is None:
            continue
        try:
            name.mkdir(mode=0o700)
        except FileExistsError:
            os.close(lock)
            continue
        return TemporaryFolder(name, lock)


def _remove(folder: Path) -> None:
    """Remove a folder, then its lock file, which the caller holds."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():  # else the next run tries again
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _folder_of(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix(LOCK_SUFFIX))
