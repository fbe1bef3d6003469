"""The processes that a command starts: their environment, locks and temporary folder, and how they end.

`python -m` puts the working folder first on the path, so a `trainer.py` or `components/` there would be
imported instead of the installed package. `safe_environment` prevents it.

File locks show whether a run is running: the system releases them however a process ends. Each run has a
temporary folder, `TMPDIR` of all its processes, with a lock file beside it. A folder whose lock is free
belongs to a run that was killed, and the next run removes it.

Ctrl-C, SIGTERM and a closed terminal first end the processes; then the command says what is left.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PREFIX = "gauntlet-run-"
LOCK_SUFFIX = ".lock"
COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_STOP = 10.0


def safe_environment() -> dict[str, str]:
    """This process's environment, with which Python imports nothing from the working folder.

    Its output is UTF-8 in any locale; a character that cannot be encoded is shown as an escape.
    """
    return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


def acquire(path: Path) -> int | None:
    """Lock a file, which is created if necessary; returns its descriptor. None if another process holds it.

    A child process that inherits the descriptor holds the lock too, until the last of these processes ends.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder removed the file after it was opened here


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock. Creates no file."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class TemporaryFolder:
    """The folder, and the descriptor of its lock, which child processes inherit."""

    path: Path
    lock: int

    def environment(self) -> dict[str, str]:
        """Environment variables that make a process use the folder for temporary files.

        torch keeps compiled code in its default folder, so later runs can use it.
        """
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
        kept = Path(tempfile.gettempdir(), f"torchinductor_{user}")
        return {"TMPDIR": str(self.path), COMPILER_CACHE: os.environ.get(COMPILER_CACHE, str(kept))}


@contextmanager
def temporary_folder() -> Iterator[TemporaryFolder]:
    """A folder that is removed at the end. Folders of killed runs are removed first."""
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
        folder = Path(tempfile.gettempdir(), PREFIX + os.urandom(6).hex())
        if (lock := acquire(_lock_of(folder))) is None:
            continue
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            os.close(lock)
            continue
        return TemporaryFolder(folder, lock)


def _remove(folder: Path) -> None:
    """Remove a folder, then its lock file, which the caller holds."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():  # else the next run tries again
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _folder_of(lock: Path) -> Path:
    return lock.with_name(lock.name.removesuffix(LOCK_SUFFIX))


class Interrupted(BaseException):
    """The user or the system stopped the command. Its text says what was kept."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, a signal to stop raises `Interrupted`, once."""

    def stop(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for number in STOP_SIGNALS:  # a second Ctrl-C must not interrupt the cleanup
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def ending(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    """End the processes, each with its group, when the block ends by an exception."""
    try:
        yield
    except BaseException:
        for process in processes:
            end_group(process)
        raise


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process group by the process that leads it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(SECONDS_TO_STOP)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
