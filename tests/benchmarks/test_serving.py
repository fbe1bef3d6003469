"""The benchmark of servers: what it searches, counts and takes for an answer."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.serving import (
    OURS,
    PEERS,
    STEP,
    Search,
    judge,
    memory_mb,
    p99_ms,
    processes,
    read_texts,
    running,
)
from benchmarks.serving import Setting as S
from gauntlet.serving.load import Outcome
from tests.text_bundles import certified


@pytest.mark.parametrize("near", [5.0, 90.0, 137.0, 900.0])
def test_the_rate_that_is_found_is_within_a_step_of_the_capacity(near: float) -> None:
    """Of a queue with one server, whose delay grows without bound towards 137 requests/s."""
    asked: list[float] = []

    def p99(rate: float) -> float:
        asked.append(rate)
        return math.inf if rate >= 137 else 1000 * 4.6 / (137 - rate)

    search = Search(p99)
    found = search.rate(50, near)  # 4.6 / (137 - 45) = 0.05
    assert found <= 45 < found * STEP
    assert search.rate(1e9, near) <= 137 < search.rate(1e9, near) * STEP
    assert len(asked) == len(set(asked))
    assert search.rate(1, near) == 0.0


def test_a_request_without_an_answer_is_later_than_any_other() -> None:
    answered = [0.001] * 98
    assert p99_ms(Outcome(Counter({"200": 98, "429": 1}), answered)) == math.inf
    assert p99_ms(Outcome(Counter({"200": 199, "429": 1}), answered + [0.002] * 101)) == 2.0


def test_processes_below_a_server_are_counted_with_it() -> None:
    program = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert len(processes(server.pid)) == 2
        assert memory_mb(server.pid) > 5
        server.communicate(b"\n")
    assert os.getpid() in processes(os.getpid())


def test_each_peer_has_its_files_and_a_grid_of_settings_on_all_cpus() -> None:
    folder = Path(__file__).parents[2] / "benchmarks/serving_peers"
    for name, peer in PEERS.items():
        grid = peer.grid(2)
        assert len(grid) == len(set(grid))
        if name == OURS:
            assert grid == [S(workers=0, threads=2)]
            continue
        assert {one.workers * one.threads for one in grid} == {2}
        assert "onnxruntime==1.31.1" in (folder / f"{name}.txt").read_text().splitlines()
    assert "fastapi==0.165.0" in (folder / "fastapi.txt").read_text().splitlines()


def test_a_server_is_measured_and_aims_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = PEERS[OURS]
    texts = ["good", "bad and fine"]
    bodies = [b'{"instances": ["good"]}', b'{"instances": ["bad and fine"]}']
    with running(peer, sys.executable, certified(tmp_path), S(0, 2), bodies) as server:
        outcome, _ = server.load(50, 0.2)
    assert outcome.statuses == {"200": 10}
    assert server.peak_mb > 20
    assert len(read_texts(None)) == 1032
    (tmp_path / "texts").write_text("".join(f"{text};joy\n" for text in texts))
    assert sorted(read_texts(tmp_path / "texts")) == sorted(texts)
    fast, slow = {"rate_50": 300.0, "rate_20": 100.0}, {"rate_50": 150.0, "rate_20": 90.0}
    results = {"rounds": {OURS: [fast], "slow": [slow], "slower": [slow | {"rate_50": 50.0}]}}
    assert judge({**results, "without_http": [330.0]}) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("met     2.00 times slow's requests/s at p99 <= 50 ms")
    assert said[1].startswith("MISSED  1.11 times slow's requests/s at p99 <= 20 ms")
    assert said[2].startswith("met     the engine without HTTP has 1.10 times as many")
    assert said[3].startswith("serving: 300 requests/s at p99 <= 50 ms, 100 at 20 ms, 2.00 times slow")
