"""How long a batch takes and how much memory it needs: PyTorch and every candidate.

Each model runs in a process of its own. The processes take turns, so that a busy machine slows all of them
alike. If all of them wait for a CPU, they are timed again with one thread each and by its CPU time, which
other processes hardly change. Tokenising is timed separately.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import numpy as np
import numpy.typing as npt

from gauntlet.backends.processes import how_ended
from gauntlet.contracts.conversion import Latency
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import Device
from gauntlet.serving.cpu import ThreadTime

Batch = Mapping[str, npt.NDArray[Any]]

WORKER = "gauntlet.components.convert_to_onnx.timing_worker"
PACKAGE_ROOT = Path(__file__).parents[2]
MILLISECONDS = 1e3
SECONDS_PER_CONTENDER = 1.5  # for all batch sizes together, unless the fewest batches below take longer
ROUNDS = 5
WARM_UP_BATCHES = 2
FEWEST_BATCHES = 10
MOST_BATCHES = 200
TOKENIZED_BATCHES = 50
BUSY = 0.1  # share of their time that all models wait for a CPU, from which speed-ups are measured again
TIMED_ROWS = 2_048  # rows drawn for each batch size, within the two limits above


Clock = Literal["wall", "cpu"]
"""What a batch's seconds measure: real time, or the CPU time of the process's one thread."""


@dataclass(frozen=True)
class Timing:
    """Latencies by contender and batch size, and how busy other processes kept the machine.

    Attributes:
        clock: What the latencies measure; `cpu` if the machine was too busy for `wall`.
        contention: The smallest share of its time that any contender waited for a CPU, timed by `wall`; None
            if the system does not say. A contender that waits alone waits for its own threads.
        memory_mb: The peak memory of each contender's process, in millions of bytes.
        absent: Optional contenders that could not take part, each with the reason.
    """

    latencies: Mapping[str, Mapping[int, Latency]]
    contention: float | None
    memory_mb: Mapping[str, float]
    absent: Mapping[str, str]
    threads: int
    clock: Clock


@dataclass(frozen=True)
class Turn:
    """What a process answers: seconds of each batch, and how its threads spent that time."""

    seconds: Sequence[float]
    threads: ThreadTime


@dataclass(frozen=True)
class Contender:
    """A model to time: a checkpoint folder or an ONNX file. An optional one that fails is left out.

    Attributes:
        forward: `module:function` that loads the model (`timing_worker.Load`); the module should import
            little.
        device: On a GPU the times include the copies of batch and scores; PyTorch computes in bf16 or fp16.
        interpreter: The Python that runs it: a benchmark's rival may need an environment of its own.
    """

    forward: str
    path: Path
    device: Device = "cpu"
    optional: bool = False
    interpreter: str = sys.executable


def draw_rows(rows: int, batch_size: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Rows of each batch to time, drawn from `rows` with replacement: batches as requests would form them."""
    count = min(MOST_BATCHES, max(FEWEST_BATCHES, TIMED_ROWS // batch_size))
    generator = np.random.default_rng((seed, batch_size))
    return list(generator.integers(0, rows, size=(count, batch_size)))


def batches_within(seconds: float, seconds_per_batch: float, available: int) -> int:
    """How many batches of all contenders fit into `seconds`, within the fewest and those available."""
    return min(available, max(FEWEST_BATCHES, int(seconds / seconds_per_batch)))


def summarize(seconds: Sequence[float]) -> Latency:
    """Median and 99th percentile, in milliseconds."""
    median, p99 = np.quantile(seconds, (0.5, 0.99)) * MILLISECONDS
    return Latency(median=float(median), p99=float(p99), batches=len(seconds))


def contention_of(turns: Sequence[Turn]) -> float | None:
    """Share of its threads' time that a contender waited for a CPU; None where the system does not say."""
    running = sum(turn.threads.running for turn in turns)
    return ThreadTime(running, sum(turn.threads.waiting for turn in turns)).share_waited


def speedup(pytorch: Sequence[Mapping[int, Latency]], candidate: Mapping[int, Latency]) -> dict[int, float]:
    """The median of the fastest way to run PyTorch over the candidate's, by batch size."""
    return {
        size: min(mode[size].median for mode in pytorch) / latency.median
        for size, latency in candidate.items()
    }


def measure(
    contenders: Mapping[str, Contender], batches: Mapping[int, Sequence[Batch]], threads: int, folder: Path
) -> Timing:
    """Time every contender on the same batches, by size; a `GauntletError` if a process ends too early."""
    on_gpu = any(contender.device == "gpu" for contender in contenders.values())
    tolerated = 1.0 if on_gpu else BUSY
    timing = _measure(contenders, batches, threads, "wall", folder, tolerated)
    if timing.contention is None or timing.contention <= tolerated:
        return timing
    print(
        f"All models waited for a CPU, {timing.contention:.0%} of their time at least: other processes use "
        "this machine. The models are timed again, with one thread each and by its time on a CPU.",
        flush=True,
    )
    again = _measure(contenders, batches, 1, "cpu", folder, tolerated=1.0)
    return replace(again, contention=timing.contention)


def _measure(
    contenders: Mapping[str, Contender],
    batches: Mapping[int, Sequence[Batch]],
    threads: int,
    clock: Clock,
    folder: Path,
    tolerated: float,
) -> Timing:
    """Time all batch sizes, but stop after the first one at which contention exceeds `tolerated`."""
    archive = folder / "batches.npz"
    np.savez(archive, allow_pickle=False, **_by_key(batches))
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(_Worker(name, contender, archive, threads, clock))
            for name, contender in contenders.items()
        }
        absent: dict[str, str] = {}
        for name, contender in contenders.items():
            try:
                workers[name].wait_until_ready()
            except GauntletError as error:
                if not contender.optional:
                    raise
                absent[name] = str(error)
                del workers[name]
        budget = SECONDS_PER_CONTENDER * len(workers) / len(batches)
        turns: dict[str, dict[int, list[Turn]]] = {name: {} for name in workers}
        for size, of_size in batches.items():
            print(f"timing {len(workers)} models with batches of {size}", flush=True)
            for name, taken in _take_turns(workers, size, len(of_size), budget).items():
                turns[name][size] = taken
            contention = _least_contention(turns)
            if contention is not None and contention > tolerated:
                break
        memory_mb = {name: worker.memory_mb() for name, worker in workers.items()}
    return Timing(
        latencies={
            name: {
                size: summarize([*chain(*(turn.seconds for turn in taken))])
                for size, taken in by_size.items()
            }
            for name, by_size in turns.items()
        },
        contention=_least_contention(turns),
        memory_mb=memory_mb,
        absent=absent,
        threads=threads,
        clock=clock,
    )


def time_tokenizing(
    encode: Callable[[npt.NDArray[np.int64]], object], rows: int, size: int, seed: int
) -> Latency:
    """How long `encode` takes to turn `size` of the `rows` into tensors, for batches of `draw_rows`."""
    seconds = []
    for drawn in draw_rows(rows, size, seed)[:TOKENIZED_BATCHES]:
        start = time.perf_counter()
        encode(drawn)
        seconds.append(time.perf_counter() - start)
    return summarize(seconds)


class _Worker:
    def __init__(self, name: str, contender: Contender, archive: Path, threads: int, clock: Clock) -> None:
        self._name = name
        arguments = [
            contender.forward, str(contender.path), str(archive), str(threads), clock, contender.device
        ]  # fmt: skip
        path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [contender.interpreter, "-m", WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_until_ready(self) -> None:
        self._answer()

    def turn(self, size: int, start: int, stop: int) -> Turn:
        *seconds, running, waiting = map(float, self._ask(f"{size} {start} {stop}").split())
        return Turn(seconds, ThreadTime(running, waiting))

    def memory_mb(self) -> float:
        return float(self._ask("memory"))

    def _ask(self, request: str) -> str:
        assert self._process.stdin is not None
        try:
            print(request, file=self._process.stdin, flush=True)
        except BrokenPipeError:  # it has ended: `_answer` says how
            self._fail()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return line

    def _fail(self) -> NoReturn:
        raise GauntletError(
            f"conversion: the process that times {self._name} {how_ended(self._process.wait())} before it "
            "finished. Its output is in the step's log."
        )


def _least_contention(turns: Mapping[str, Mapping[int, Sequence[Turn]]]) -> float | None:
    shares = [contention_of([*chain(*by_size.values())]) for by_size in turns.values()]
    return min((share for share in shares if share is not None), default=None)


def _take_turns(
    workers: Mapping[str, _Worker], size: int, available: int, budget: float
) -> dict[str, list[Turn]]:
    warm_up = [worker.turn(size, 0, min(WARM_UP_BATCHES, available)) for worker in workers.values()]
    seconds_per_batch = sum(float(np.median(turn.seconds)) for turn in warm_up)
    count = batches_within(budget, seconds_per_batch, available)
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    names = list(workers)
    for number, part in enumerate(np.array_split(np.arange(count), min(ROUNDS, count))):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(workers[name].turn(size, int(part[0]), int(part[-1]) + 1))
    return turns


def _by_key(batches: Mapping[int, Sequence[Batch]]) -> dict[str, npt.NDArray[np.int64]]:
    return {
        f"{size}.{index}.{name}": array
        for size, of_size in batches.items()
        for index, batch in enumerate(of_size)
        for name, array in batch.items()
    }
