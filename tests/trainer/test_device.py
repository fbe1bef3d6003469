"""What training finds on a machine, and what it makes of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gauntlet.serving.cpu import usable_cpus

THREADS = """
import torch
from gauntlet.trainer.device import make_deterministic
make_deterministic(0, {processes})
print(torch.get_num_threads())
"""


def threads(processes: int, **environment: str) -> int:
    """How many threads torch has in a process of its own, one of so many on this machine."""
    inherited = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", THREADS.format(processes=processes)]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("processes", [1, 2, 64])
def test_the_usable_cpus_are_divided_among_the_processes_and_each_has_one(processes: int) -> None:
    assert threads(processes) == max(1, usable_cpus() // processes)


def test_the_environment_says_how_many_threads_a_process_has() -> None:
    assert threads(1, OMP_NUM_THREADS="1") == 1
