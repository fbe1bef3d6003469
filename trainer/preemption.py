"""SIGTERM: how a spot machine, or a person, asks training to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM ends nothing; the function says whether it came. For the main thread only."""
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
