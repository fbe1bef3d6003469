"""Memory that allocators keep for later, which the system counts as in use."""

from __future__ import annotations

import ctypes

import pyarrow as pa


def release_memory() -> None:
    """Give freed memory back to the system, after a step that needed much.

    The heaps of glibc, one for each thread, keep what large arrays leave between smaller ones; other
    implementations of malloc have no `malloc_trim`.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
