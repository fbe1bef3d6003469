from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gauntlet.components.convert_to_onnx.timing import (
    BUSY,
    FEWEST_BATCHES,
    WORKER,
    Contender,
    Latency,
    Turn,
    _least_contention,
    batches_within,
    contention_of,
    draw_rows,
    measure,
    speedup,
    summarize,
    time_tokenizing,
)
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.cpu import ThreadTime
from tests import warm

EAGER = f"{WORKER}:eager_forward"
BATCH = {name: np.ones((1, 4), dtype=np.int64) for name in ("input_ids", "attention_mask")}


def test_latency_is_median_and_99th_percentile_in_milliseconds() -> None:
    seconds = [at / 1000 for at in range(1, 102)]  # 1 to 101 ms
    found = summarize(seconds)
    assert (found.median, found.p99, found.batches) == (pytest.approx(51.0), pytest.approx(100.0), 101)


def test_a_speedup_is_a_ratio_of_medians_at_the_same_batch_size() -> None:
    eager, compiled, candidate = (
        {size: Latency(median=median, p99=median + 1, batches=10) for size, median in ((1, one), (32, many))}
        for one, many in ((6.0, 200.0), (4.5, 220.0), (1.5, 100.0))
    )
    assert speedup([eager], candidate) == {1: 4.0, 32: 2.0}
    assert speedup([eager, compiled], candidate) == {1: 3.0, 32: 2.0}  # over the faster one at each size


@pytest.mark.parametrize(
    ("seconds_per_batch", "expected"),
    [(0.01, 200), (0.1, 30), (1.0, FEWEST_BATCHES)],
    ids=["as many as there are", "what fits", "never too few"],
)
def test_the_number_of_batches_fits_the_time(seconds_per_batch: float, expected: int) -> None:
    assert batches_within(3.0, seconds_per_batch, available=200) == expected


def turn(running: float, waiting: float) -> Turn:
    return Turn(seconds=[1.0], threads=ThreadTime(running, waiting))


def test_contention_is_the_share_of_the_threads_time_that_was_waited_for_a_cpu() -> None:
    assert contention_of([turn(2.0, 0.5), turn(1.0, 0.5)]) == 0.25


def test_contention_is_unknown_where_the_system_does_not_say() -> None:
    assert contention_of([turn(0.0, 0.0)]) is None


def test_the_machine_is_as_busy_as_the_contender_says_that_waited_least() -> None:
    """Threads of one model may start on the same CPU and wait for each other on an idle machine."""
    alone, beside_itself = {1: [turn(1.0, 0.01)]}, {1: [turn(1.0, 0.3)]}
    assert _least_contention({"eager": alone, "int8": beside_itself}) == pytest.approx(0.01 / 1.01)
    assert _least_contention({"eager": {1: [turn(0.0, 0.0)]}}) is None


def test_batches_are_drawn_by_the_seed_from_all_rows() -> None:
    drawn = draw_rows(150, batch_size=8, seed=3)
    assert {len(rows) for rows in drawn} == {8}
    assert set(np.concatenate(drawn).tolist()) == set(range(150))
    assert all((one == two).all() for one, two in zip(drawn, draw_rows(150, 8, 3), strict=True))
    assert any((one != two).any() for one, two in zip(drawn, draw_rows(150, 8, 4), strict=True))


def test_a_batch_may_be_larger_than_the_split() -> None:
    assert {len(rows) for rows in draw_rows(5, batch_size=32, seed=0)} == {32}


def test_a_process_that_dies_is_an_error_that_names_its_model(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(GauntletError, match="the process that times fused ended with exit code 1 before"):
        measure(
            {"fused": Contender(f"{WORKER}:onnx_forward", broken)}, {1: [BATCH]}, threads=1, folder=tmp_path
        )


@pytest.mark.usefixtures("forked")
def test_an_optional_contender_that_dies_is_left_out_with_the_reason(
    tmp_path: Path, checkpoint: Path
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no graph")
    contenders = {
        "eager": Contender(EAGER, checkpoint),
        "other": Contender(f"{WORKER}:onnx_forward", broken, optional=True),
    }
    timing = measure(contenders, {1: [BATCH]}, threads=1, folder=tmp_path)
    assert timing.latencies.keys() == {"eager"}
    assert "the process that times other ended with exit code" in timing.absent["other"]


@pytest.fixture
def forked(zygote: None) -> Iterator[None]:
    """Processes that time models are forks, which need no seconds to import torch."""
    with warm.forking():
        yield


@pytest.fixture
def busy_cpu() -> Iterator[None]:
    """One CPU for this process and those that it starts, and another process on it that never waits."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    other.kill()
    other.wait()
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system gives nobody a CPU of their own"
)
@pytest.mark.usefixtures("busy_cpu", "forked")
def test_on_a_busy_machine_all_is_timed_again_with_one_thread_by_its_time_on_a_cpu(
    tmp_path: Path, checkpoint: Path
) -> None:
    if not Path("/proc/self/schedstat").is_file():
        pytest.skip("this system does not tell how long a process waits for a CPU")
    batches = {1: [BATCH] * 100, 2: [{name: np.tile(rows, (2, 1)) for name, rows in BATCH.items()}] * 100}
    timing = measure({"eager": Contender(EAGER, checkpoint)}, batches, threads=2, folder=tmp_path)
    assert timing.contention is not None and timing.contention > BUSY
    assert (timing.clock, timing.threads) == ("cpu", 1)
    assert timing.latencies["eager"].keys() == {1, 2}


def test_memory_is_the_most_that_the_process_had(tmp_path: Path, checkpoint: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("this system does not tell")
    timing = measure({"eager": Contender(EAGER, checkpoint)}, {1: [BATCH]}, threads=1, folder=tmp_path)
    assert 100 < timing.memory_mb["eager"] < 2_000  # torch alone takes a few hundred


def test_tokenizing_is_timed_for_batches_of_the_size() -> None:
    seen: list[int] = []
    latency = time_tokenizing(lambda rows: seen.append(len(rows)), rows=7, size=4, seed=0)
    assert set(seen) == {4}
    assert latency.batches == len(seen)
    assert 0 < latency.median <= latency.p99


def test_timing_a_graph_does_not_load_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from gauntlet.components.convert_to_onnx import timing_worker; "
        "from gauntlet.tasks.causal_lm import timing; import gauntlet.serving.bundle; "
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
