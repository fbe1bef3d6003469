"""Settings of the whole process: OpenMP and malloc, made before torch is imported, and SIGTERM."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SPINS = 10_000
"""Iterations of GNU OpenMP's spin loop: tens of microseconds, longer than most gaps between operators."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as malloc.h has them
LARGEST_FROM_THE_HEAP = 32 * 2**20  # bytes; the most that glibc takes there
NEVER = 2**31 - 1


def settle_process() -> None:
    """Set how OpenMP threads wait and what malloc keeps, unless the environment sets them.

    OpenMP threads spin at a barrier for tens of microseconds, then sleep. By default they spin for
    milliseconds. That gains a few percent on an idle machine and costs most of the speed on a shared one,
    where a spinning thread uses up the time slice that another thread needs.

    glibc keeps the memory that a step frees for the next step, in one heap for all threads. By default it
    returns much of it to the system, which zero-fills every page that it hands out again. Other
    implementations of malloc have no such settings.

    `benchmarks/openmp_waiting.py` measures the gain; see `docs/explanation/decisions.md`.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_THE_HEAP)
    mallopt(M_TRIM_THRESHOLD, NEVER)


@contextmanager
def noticing_sigterm() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM does not end the process; the function says whether it came. Main thread only."""
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
