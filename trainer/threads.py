"""How torch's CPU threads wait for each other; settled before torch is imported, or not at all."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let OpenMP threads sleep at a barrier instead of spinning, unless the environment says otherwise.

    Spinning is faster on an idle machine (by a half, measured once) and over ten times slower on a shared
    one: a thread then spins away the very time slice that the other one needs. See
    `benchmarks/openmp_waiting.py`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
