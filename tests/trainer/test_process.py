"""What a process settles before torch is imported, each in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.trainer.process import SPINS

SETTINGS = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GLIBC_TUNABLES"}
ROOT = Path(__file__).parents[2]
PAGE_FAULTS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
size = 24 * 2**20
def step():
    blocks = [libc.malloc(size) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, size)
        libc.free(ctypes.c_void_p(block))
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def answer(program: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", f"from trainer.process import *\n{program}"]
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_threads_spin_as_long_as_the_environment_says_or_briefly() -> None:
    program = "settle_process(); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert answer(program) == str(SPINS)
    assert answer(program, GOMP_SPINCOUNT="7") == "7"
    assert answer(program, OMP_WAIT_POLICY="ACTIVE") == "None"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="this is not glibc")
def test_what_a_step_frees_is_there_for_the_next_one() -> None:
    handed_back = int(answer(PAGE_FAULTS))
    kept = int(answer(f"settle_process()\n{PAGE_FAULTS}"))
    assert kept < 100 < handed_back
    assert int(answer(f"settle_process()\n{PAGE_FAULTS}", GLIBC_TUNABLES="glibc.malloc.check=0")) > 100
