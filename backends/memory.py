"""The memory of this machine: how much a process may use, and how what is freed goes back to the system."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import psutil

from gauntlet.manifests.errors import DataError

M_MMAP_THRESHOLD = -3  # as malloc.h has it
LARGE = 4 * 2**20  # bytes
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")  # cgroup v2: bytes, or "max"
GIB = 2**30

TIMES_HELD = 10
"""How many times its own size a file that is read whole takes in memory: 4 to 9 were measured."""

IN_PIECES = (
    "Write it as parquet, or in UTF-8 as JSON lines or CSV by RFC 4180, which are read in pieces, or use a "
    "machine with more memory"
)


def return_large_arrays() -> None:
    """From now on give arrays of 4 MiB or more back to the system as soon as they are freed.

    By default glibc soon takes arrays of up to 32 MiB from its heaps, one for each thread, which keep what is
    freed between arrays that are in use. `GLIBC_TUNABLES` in the environment is left as it is. Other
    implementations of malloc have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "GLIBC_TUNABLES" not in os.environ:
        mallopt(M_MMAP_THRESHOLD, LARGE)


def release_memory() -> None:
    """Give freed memory back to the system, after a step that needed much."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def usable_memory(limit_file: Path = CGROUP_MEMORY) -> int:
    """Bytes of memory of the machine, or of its container if that has less."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = limit_file.read_text().strip()
    except OSError:
        return total
    return total if limit == "max" else min(total, int(limit))


def require_memory(name: str, size: int, advice: str = IN_PIECES) -> None:
    """Raise a `DataError` if this machine has too little memory for what is read whole, of `size` bytes."""
    usable = usable_memory()
    if TIMES_HELD * size > usable:
        raise DataError(
            f"{name}: found {size / GIB:,.2f} GiB that are read whole, expected at most "
            f"{usable / TIMES_HELD / GIB:,.2f} GiB, a tenth of this machine's memory. {advice}"
        )
