"""OpenMP threads that yield the CPU sooner while other processes use the machine too.

In GNU OpenMP a thread that waits for the others spins for `GOMP_SPINCOUNT` turns before it sleeps. On an idle
machine spinning is faster. On a shared machine the spinning thread uses up the time slice that the thread it
waits for needs. libgomp reads the count once, when it is loaded. It also shortens the spinning to 1,000 turns
by itself while a process has more OpenMP threads than CPUs (`gomp_throttled_spin_count_var` in libgomp's
`env.c` and `team.c`), and it counts the idle threads of every pool. `ShortSpins` adds idle pools and removes
them again, which switches between the two counts while training runs. The threads that compute stay as many,
so results stay the same to the last bit.
"""

from __future__ import annotations

import os
import threading

import torch

from gauntlet.trainer.process import SPINS

BUSY = 0.25
"""The machine counts as shared if this process waits for a CPU for more than this share of its time."""
QUIET = 0.10
"""It no longer counts as shared if it waits for less than this share."""
OPERATOR_ROWS = 32_768  # at::internal::GRAIN_SIZE: an operator this large per thread is divided among threads


class ShortSpins:
    """Idle OpenMP pools, which make libgomp shorten the spinning of every pool of this process."""

    def __init__(self) -> None:
        self._pools: list[threading.Thread] = []
        self._end = threading.Event()

    @property
    def on(self) -> bool:
        """Whether the pools are there."""
        return bool(self._pools)

    def start(self) -> None:
        """Open pools until there are more threads than CPUs; they sleep until `stop`."""
        if self._pools or torch.get_num_threads() == 1:  # a single thread never waits for another
            return
        self._end = threading.Event()
        threads, others = 1, torch.get_num_threads() - 1
        while threads + others <= len(os.sched_getaffinity(0)):
            opened = threading.Event()
            pool = threading.Thread(target=self._hold_open, args=(opened, self._end), daemon=True)
            pool.start()
            opened.wait()
            self._pools.append(pool)
            threads += others

    def stop(self) -> None:
        """Close the pools."""
        self._end.set()
        for pool in self._pools:
            pool.join()
        self._pools.clear()

    @staticmethod
    def _hold_open(opened: threading.Event, end: threading.Event) -> None:
        # The first large operator of a thread opens its pool.
        torch.zeros(OPERATOR_ROWS * torch.get_num_threads()).add_(1)
        opened.set()
        end.wait()


class Contention:
    """Shortens spinning while the machine is shared, unless the environment sets how threads wait."""

    def __init__(self) -> None:
        is_ours = os.environ.get("GOMP_SPINCOUNT") == str(SPINS) and "OMP_WAIT_POLICY" not in os.environ
        self._adapts = is_ours and hasattr(os, "sched_getaffinity")
        self._spins = ShortSpins()
        self._told = False

    def adapt(self, waited: float | None) -> str | None:
        """Choose how long threads spin from the share of the last seconds that they waited for a CPU.

        Returns:
            A message for the log, the first time that the machine is shared.
        """
        if not self._adapts or waited is None:
            return None
        if waited < QUIET:
            self._spins.stop()
        elif waited > BUSY:
            self._spins.start()
            if self._spins.on and not self._told:
                self._told = True
                return (
                    f"other processes use this machine's CPUs: training waited {waited:.0%} of the last "
                    "seconds for a CPU. Meanwhile its threads sleep sooner when they wait for each other."
                )
        return None

    def finish(self) -> None:
        """Restore the process's settings."""
        self._spins.stop()
