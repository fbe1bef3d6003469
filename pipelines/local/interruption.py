"""Ctrl-C, SIGTERM and a closed terminal: processes are ended first, then the command says what is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_STOP = 10.0


class Interrupted(BaseException):
    """The user or the system asked the command to stop. Its text says what became of the work."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, a signal to stop raises `Interrupted`, once."""

    def stop(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for number in STOP_SIGNALS:  # a second Ctrl-C must not cut the stopping short
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
    """End the processes, each with its group, when what is done within ends by an exception."""
    try:
        yield
    except BaseException:
        for process in processes:
            end_group(process)
        raise


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process that leads its group, and the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(SECONDS_TO_STOP)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
