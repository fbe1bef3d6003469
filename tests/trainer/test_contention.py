"""Training beside other processes: what waiting for a CPU is measured as, and what training does about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import contention
from trainer.contention import BUSY, QUIET, Contention, CpuWait, ShortSpins
from trainer.process import SPINS

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
linux = pytest.mark.skipif(not contention.TASKS.is_dir(), reason="the system does not say how threads waited")

# With GOMP_SPINCOUNT=INFINITE an idle thread spins for ever, unless libgomp shortens the spinning.
SLEEPING_WORKERS = """
import os
import torch
from trainer.contention import TASKS, ShortSpins

torch.set_num_threads(2)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
before = {thread.name for thread in TASKS.iterdir()}
operand = torch.zeros(1 << 17)
operand.add_(1)
[worker] = {thread.name for thread in TASKS.iterdir()} - before
state = lambda: (TASKS / worker / "stat").read_text().rpartition(")")[2].split()[0]
cpu = lambda: int((TASKS / worker / "schedstat").read_text().split()[0])


def wait_until_it_spins():  # that is: takes CPU time though there is nothing to compute
    spun = cpu()
    while cpu() < spun + 200_000_000:
        if state() == "S":
            operand.add_(1)
            spun = cpu()

wait_until_it_spins()
spins = ShortSpins()
spins.start()
operand.add_(1)
while state() != "S":
    pass
print("asleep")
spins.stop()
wait_until_it_spins()
print("spinning")
"""

WAITING_BESIDE_ANOTHER = """
import os, subprocess, sys, time
from trainer.contention import BUSY, CpuWait

cpu = sorted(os.sched_getaffinity(0))[0]
os.sched_setaffinity(0, [cpu])
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same CPU
wait = CpuWait()
try:
    while True:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        share = wait.share()
        if share > BUSY:
            break
finally:
    other.kill()
print(share)
"""


def answer(program: str, **environment: str) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@linux
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)
def test_waiting_threads_sleep_while_short_spins_are_on_and_spin_again_afterwards() -> None:
    assert answer(SLEEPING_WORKERS, GOMP_SPINCOUNT="INFINITE") == ["asleep", "spinning"]


@linux
def test_a_process_that_shares_its_cpu_is_seen_to_wait() -> None:
    [share] = answer(WAITING_BESIDE_ANOTHER)
    assert BUSY < float(share) <= 1


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
    assert wait.share() == pytest.approx(20 / 100)
    assert wait.share() is None  # nothing ran since
    assert CpuWait(tmp_path / "nowhere").share() is None


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", str(SPINS))


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_training_gives_way_from_one_bound_to_the_other_and_says_so_once(
    ours: None, two_threads: None
) -> None:
    seen = Contention(CPU)
    assert seen.adapt(None) is None
    assert seen.adapt(BUSY) is None
    assert not seen._spins.on
    told = seen.adapt(0.7)
    assert told is not None
    assert "70%" in told
    assert seen._spins.on
    seen.adapt((BUSY + QUIET) / 2)
    assert seen._spins.on
    seen.adapt(QUIET / 2)
    assert not seen._spins.on
    assert seen.adapt(0.9) is None  # said before
    assert seen._spins.on
    seen.finish()
    assert not seen._spins.on


@pytest.mark.parametrize("chosen", [{"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_how_threads_wait_is_left_alone_where_the_environment_says_it(
    chosen: dict[str, str], ours: None, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    seen = Contention(CPU)
    assert seen.adapt(0.9) is None
    assert not seen._spins.on


def test_a_single_thread_needs_no_other_pools() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    spins = ShortSpins()
    try:
        spins.start()
        assert not spins.on
    finally:
        torch.set_num_threads(before)


def test_results_are_the_same_to_the_last_bit(two_threads: None) -> None:
    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 1))
        optimizer = torch.optim.AdamW(network.parameters())
        rows = torch.randn(2_048, 64)
        for _ in range(5):
            optimizer.zero_grad()
            network(rows).square().mean().backward()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    undisturbed = trained()
    spins = ShortSpins()
    spins.start()
    try:
        assert torch.equal(trained(), undisturbed)
    finally:
        spins.stop()
