"""What is settled before torch is imported: how threads wait, and that freed memory is kept."""

from __future__ import annotations

import ctypes
import os

SPINS = 10_000
"""Turns of GNU OpenMP's waiting loop: tens of microseconds, longer than most gaps between two operators."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # as malloc.h has them
LARGEST_FROM_THE_HEAP = 32 * 2**20  # bytes; the most that glibc takes there
NEVER = 2**31 - 1


def settle_process() -> None:
    """Both, unless the environment says otherwise.

    See `benchmarks/openmp_waiting.py`, and `docs/decisions.md` for what each brings.
    """
    wait_briefly()
    keep_freed_memory()


def wait_briefly() -> None:
    """Let OpenMP threads spin at a barrier for tens of microseconds, then sleep.

    By default they spin for milliseconds. That gains a few percent on an idle machine and costs most of
    the speed on a shared one, where a thread spins away the very time slice that the other one needs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one, and one heap for all threads.

    By default it hands much back to the system, which gives it out again page by page, filled with zeros.
    Another malloc has no such settings, and is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_THE_HEAP)
    mallopt(M_TRIM_THRESHOLD, NEVER)
