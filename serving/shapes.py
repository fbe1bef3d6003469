"""How a model uses several CPUs: one batch at a time on all of them, or a batch on each.

A batch on all CPUs is done soonest. A batch on each computes more rows a second where a graph's products are
too small to be divided well. Which is better depends on the graph and the machine, so it is measured.

Several threads may run one session of ONNX Runtime at once, so that a batch on each CPU takes one session of
one thread, and no second copy of the weights. While both shapes are measured, both sessions are held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import exp, log
from statistics import fmean, median
from time import monotonic
from typing import Literal

from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.interface import Row, RowModel
from gauntlet.serving.settings import Shape

SECONDS = 1.5
"""How long both shapes are measured, about."""
TURN_SECONDS = 0.05
"""How long a turn of one shape with one size of batches takes, about."""
MOST_TURNS, LEAST_TURNS = 9, 3
LONGEST_ROW = 64
"""The most tokens of the rows that are measured."""
MOST_ROWS = 8
GAIN = 0.9
"""A batch on each CPU must compute this many times the rows of one on all CPUs. The latter's threads spin
between its products, and so take the CPU from whoever reads requests, which is not measured here.
"""

Chosen = Literal["wide", "per-core"]


@dataclass(frozen=True)
class Choice:
    """A shape, and the model with its session.

    Attributes:
        workers: How many batches are computed at once.
        rows_per_second: Of each shape, if both were measured: the geometric mean over the sizes of batches.
    """

    shape: Chosen
    model: RowModel
    workers: int
    rows_per_second: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        measured = (f"{figure:.0f} rows a second {shape}" for shape, figure in self.rows_per_second.items())
        return ", ".join((f"shape {self.shape}", *measured))


def choose(model: RowModel, shape: Shape, most_rows: int, batch_tokens: int) -> Choice:
    """The shape that is asked for, or with `auto` the one that computes more rows a second here.

    There is no choice with one CPU, with a GPU, or for a model without `with_threads`.
    """
    cpus = usable_cpus()
    narrowed = getattr(model, "with_threads", None)
    on_cpu = model.session.get_providers() == ["CPUExecutionProvider"]
    if shape == "wide" or cpus == 1 or narrowed is None or not on_cpu:
        return Choice("wide", model, 1)
    narrow: RowModel = narrowed(1)
    if shape == "per-core":
        return Choice("per-core", narrow, cpus)
    length = min(LONGEST_ROW, model.lengths[len(model.lengths) // 2])
    sizes = sorted({1, max(1, min(most_rows, MOST_ROWS, batch_tokens // length))})
    batches = [[model.sample(length) for _ in range(size)] for size in sizes]
    rates = measured({"wide": (model, 1), "per-core": (narrow, cpus)}, batches)
    is_wide = rates["per-core"] < GAIN * rates["wide"]
    chosen: Chosen = "wide" if is_wide else "per-core"
    return Choice(chosen, model if is_wide else narrow, 1 if is_wide else cpus, rates)


def measured(
    shapes: Mapping[str, tuple[RowModel, int]], batches: Sequence[Sequence[Row]]
) -> dict[str, float]:
    """Rows a second of each model with so many threads that run it, all batches of one size at a time.

    The shapes take turns, so that both meet what else the machine does; of each, the median counts.
    """
    found: dict[tuple[str, int], list[float]] = {}
    with ThreadPoolExecutor(max(workers for _, workers in shapes.values())) as threads:
        started = monotonic()
        for turn in range(MOST_TURNS + 1):
            for at, rows in enumerate(batches):
                for name, (model, workers) in shapes.items():
                    rate = _rate(model, workers, rows, threads)
                    if turn:  # the first run also allocates
                        found.setdefault((name, at), []).append(rate)
            if turn >= LEAST_TURNS and monotonic() - started > SECONDS:
                break
    return {name: exp(fmean(log(median(found[name, at])) for at in range(len(batches)))) for name in shapes}


def _rate(model: RowModel, workers: int, rows: Sequence[Row], threads: ThreadPoolExecutor) -> float:
    """Rows a second in one turn."""
    ends = monotonic() + TURN_SECONDS

    def run(_: int) -> int:
        count = 0
        while not count or monotonic() < ends:
            model.run(rows)
            count += 1
        return count

    started = monotonic()
    batches = sum(threads.map(run, range(workers)))
    return batches * len(rows) / (monotonic() - started)
