"""Which rows form which batch: a pure function of the lengths, the seed and the epoch.

Batches of similar length have little padding, which would otherwise be most of the computation on sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Rows are sorted by length within pools of this many batches: wide enough to cut padding to a few
# percent, small enough that a batch's rows still change from epoch to epoch.
BATCHES_PER_POOL = 50

Rows = npt.NDArray[np.int64]
"""Indices of rows."""

Lengths = Sequence[int] | npt.NDArray[np.integer[Any]]


def training_batches(
    lengths: Lengths,
    batch_size: int,
    seed: int,
    epoch: int,
    chances: npt.NDArray[np.float64] | None = None,
) -> list[Rows]:
    """Row indices of each batch of one epoch, the last batch possibly smaller.

    Every row once, or as many as there are rows drawn by their `chances` (N,), some of them repeatedly.
    """
    generator = np.random.default_rng((seed, epoch))
    if chances is None:
        order = generator.permutation(len(lengths))
    else:
        order = generator.choice(len(lengths), size=len(lengths), p=chances)
    length = np.asarray(lengths)
    pool_size = BATCHES_PER_POOL * batch_size
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool[:] = pool[np.argsort(length[pool], kind="stable")]
    batches = cut(order, batch_size)
    return [batches[at] for at in generator.permutation(len(batches))]


def sampling_chances(labels: npt.NDArray[np.int64], power: float) -> npt.NDArray[np.float64]:
    """The chance of each row (N,) to be drawn: in proportion to 1 / frequency of its label ** `power`."""
    weights = np.bincount(labels)[labels] ** -power
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def evaluation_batches(lengths: Lengths, batch_size: int) -> list[Rows]:
    """Row indices of each batch in order of length: every row once."""
    return cut(np.argsort(np.asarray(lengths), kind="stable"), batch_size)


def cut(order: Rows, batch_size: int) -> list[Rows]:
    """Batches as views of the order, since lists of integers would take five times the memory."""
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def micro_batches(batch: Rows, count: int) -> list[Rows]:
    """Cut one optimizer step's rows into at most `count` near-equal parts."""
    return np.array_split(batch, min(count, len(batch)))


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model at once. If not `counts`, it only keeps the ranks in step."""

    rows: Rows
    counts: bool = True


def rank_share(batch: Rows, accumulation: int, rank: int, ranks: int) -> list[MicroBatch]:
    """A rank's micro-batches of one optimizer step.

    All ranks together get every row once, in `accumulation` parts each. Every rank gets the same number of
    micro-batches, since ranks communicate in each: if rows are too few, one that does not count.
    """
    parts = micro_batches(batch, accumulation * ranks)
    return in_step([MicroBatch(part) for part in parts], rank, ranks)


def in_step(parts: Sequence[MicroBatch], rank: int, ranks: int) -> list[MicroBatch]:
    """Every `ranks`-th part from `rank` on, plus one that does not count if there would be fewer."""
    mine = list(parts[rank::ranks])
    missing = math.ceil(len(parts) / ranks) - len(mine)
    return mine + [MicroBatch(parts[0].rows[:1], counts=False)] * missing
