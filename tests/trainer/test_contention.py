"""Training beside other processes: its threads sleep sooner while they wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gauntlet.serving.cpu import TASKS
from gauntlet.trainer.cpu.contention import BUSY, QUIET, Contention, ShortSpins
from gauntlet.trainer.process import SPINS

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
linux = pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not say how threads waited")

# With GOMP_SPINCOUNT=INFINITE an idle thread spins for ever, unless libgomp shortens the spinning.
SLEEPING_WORKERS = """
import os
import torch
from gauntlet.serving.cpu import TASKS
from gauntlet.trainer.cpu.contention import ShortSpins

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
    seen = Contention()
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
    seen = Contention()
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
