"""How long a process waits for a CPU while others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.serving.cpu import TASKS, CpuWait

ROOT = Path(__file__).parents[2]
WAITING_BESIDE_ANOTHER = """
import os, subprocess, sys, time
from gauntlet.serving.cpu import CpuWait

cpu = sorted(os.sched_getaffinity(0))[0]
os.sched_setaffinity(0, [cpu])
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same CPU
wait = CpuWait()
try:
    while True:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        share = wait.since().share_waited
        if share > 0.25:
            break
finally:
    other.kill()
print(share)
"""


def answer(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not say how threads waited")
def test_a_process_that_shares_its_cpu_is_seen_to_wait() -> None:
    share = answer(WAITING_BESIDE_ANOTHER)
    assert 0.25 < float(share) <= 1


def test_waiting_is_the_share_of_the_time_that_threads_could_have_run(tmp_path: Path) -> None:
    def schedstat(thread: str, running: int, waiting: int) -> None:
        (tmp_path / thread).mkdir(exist_ok=True)
        (tmp_path / thread / "schedstat").write_text(f"{running} {waiting} 7\n")

    schedstat("1", 100, 50)
    schedstat("2", 10, 0)
    wait = CpuWait(tmp_path)
    schedstat("1", 160, 70)
    schedstat("2", 30, 0)
    schedstat("3", 9_000, 9_000)  # a new thread: what it did before it was first seen is not of this time
    assert wait.since().share_waited == pytest.approx(20 / 100)
    assert wait.since().share_waited is None  # nothing ran since
    assert CpuWait(tmp_path / "nowhere").since().share_waited is None
