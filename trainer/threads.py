"""How torch's CPU threads wait for each other; settled before torch is imported, or not at all."""

from __future__ import annotations

import os

SPINS = 10_000
"""Turns of GNU OpenMP's waiting loop: tens of microseconds, longer than most gaps between two operators."""


def wait_briefly() -> None:
    """Let OpenMP threads spin at a barrier for microseconds, then sleep, unless the environment objects.

    By default they spin for milliseconds. That gains a few percent on an idle machine and costs most of
    the speed on a shared one, where a thread spins away the very time slice that the other one needs. See
    `benchmarks/openmp_waiting.py`.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
