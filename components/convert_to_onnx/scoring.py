"""The scores that a model gives rows, and how much the other rows of a batch change them.

N = rows, C = classes, or the tokens of a vocabulary. B = batch, T = tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gauntlet.components.convert_to_onnx.export import OUTPUT
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.serving.bundle import Device, open_session, softmax
from gauntlet.trainer.batching import Lengths

Logits = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]
Forward = Callable[[Batch], Logits]

CALIBRATION_ROWS = 256
CALIBRATION_BATCH_SIZE = 32
RAGGED_BATCH_SIZES = (1, 3, 32)
RAGGED_ROWS = 96  # at most, of the rows that are scored in random company at each of those sizes
SORTED_BATCH_SIZE = 32  # as Bundle.logits batches
NEIGHBOUR_ROWS = 96
NEIGHBOUR_BATCH_SIZES = (3, 32)


class Rows(Protocol):
    """A split of rows of any kind."""

    @property
    def are_padded(self) -> bool:
        """Whether rows of different lengths share a batch, with an `attention_mask`."""

    def __len__(self) -> int: ...

    def batch(self, rows: Indices) -> Batch:
        """The model's inputs of some rows."""


class SplitRows(Rows, Protocol):
    """All rows of a split, as the inputs that serving makes of them."""

    @property
    def lengths(self) -> Lengths:
        """The length of each row, by which serving batches them."""


@dataclass(frozen=True)
class NeighbourEffect:
    """How much the other rows and the padding of a batch change the answers of rows.

    Attributes:
        max_difference: The largest change of any row's probability of any class; NaN if one is NaN.
        label_changes: Rows that got another label in some batch.
    """

    rows: int
    max_difference: float
    label_changes: int


def sample(rows: Rows, seed: int) -> list[Batch]:
    """Batches of rows drawn by `seed`, to calibrate with."""
    count = min(CALIBRATION_ROWS, len(rows))
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows.batch(chosen) for chosen in np.array_split(drawn, math.ceil(count / CALIBRATION_BATCH_SIZE))]


def pytorch_forward(model: nn.Module) -> Forward:
    """The logits of a model in eval mode as a function of arrays."""

    def forward(batch: Batch) -> Logits:
        with torch.inference_mode():
            found = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
        logits: torch.Tensor = getattr(found, OUTPUT, found)  # a model may give more than logits
        return np.asarray(logits.numpy(), dtype=np.float32)

    return forward


def onnx_forward(path: Path, threads: int, device: Device = "cpu") -> Forward:
    """The logits of a graph, in the session that serving opens, as a function of arrays."""
    session = open_session(path, threads, device)

    def forward(batch: Batch) -> Logits:
        return np.asarray(session.run([OUTPUT], dict(batch))[0], dtype=np.float32)

    return forward


def parity_batches(lengths: Lengths, seed: int) -> tuple[list[Indices], list[Indices]]:
    """Row indices of ragged batches, and of those that hold all other rows, batched by length.

    Up to `RAGGED_ROWS` rows are scored in random order at each of `RAGGED_BATCH_SIZES`: padding that leaks
    shows.
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    share = min(RAGGED_ROWS, len(order) // len(RAGGED_BATCH_SIZES))
    ragged: list[Indices] = []
    for turn, size in enumerate(RAGGED_BATCH_SIZES):
        ragged += _chunks(order[turn * share : (turn + 1) * share], size)
    rest = order[len(RAGGED_BATCH_SIZES) * share :]
    by_length = rest[np.argsort(np.asarray(lengths)[rest], kind="stable")]
    return ragged, _chunks(by_length, SORTED_BATCH_SIZE)


@dataclass(frozen=True)
class Scores:
    """A model's logits of rows padded on the right (N, C), and of some of them padded on the left (M, C).

    With padding on the left a text's tokens have other positions, so these are compared among themselves.
    Images are not padded: M is 0.
    """

    right: Logits
    left: Logits

    @property
    def rows_not_finite(self) -> int:
        """Rows with a NaN or an infinity, with the padding that has more of them."""
        return max(int((~np.isfinite(logits)).any(axis=1).sum()) for logits in (self.right, self.left))


def score(
    rows: Rows, forward: Forward, columns: int, ragged: Sequence[Indices], rest: Sequence[Indices]
) -> Scores:
    """Scores of all rows, with C `columns`; each row is in `ragged` or `rest` once.

    The ragged batches of rows that are padded are scored with both paddings.
    """
    right = np.empty((len(rows), columns), dtype=np.float32)
    left = [np.empty((0, columns), dtype=np.float32)]
    for chosen in ragged:
        batch = rows.batch(chosen)
        right[chosen] = forward(batch)
        if rows.are_padded:
            left.append(forward(left_padded(batch)))
    for chosen in rest:
        right[chosen] = forward(rows.batch(chosen))
    return Scores(right, np.concatenate(left))


def _chunks(rows: Indices, size: int) -> list[Indices]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def left_padded(batch: Batch) -> Batch:
    """The same rows (B, T) with their padding in front."""
    padding = (batch["attention_mask"] == 0).sum(axis=1)  # (B,)
    return {
        name: np.stack([np.roll(row, by) for row, by in zip(values, padding, strict=True)])
        for name, values in batch.items()
    }


def right_padded(batch: Batch, width: int) -> Batch:
    """The batch (B, T, …) with zeros on the right, up to a T of `width`."""
    return {
        name: np.pad(values, [(0, 0), (0, width - values.shape[1])] + [(0, 0)] * (values.ndim - 2))
        for name, values in batch.items()
    }


def likeliest(logits: Logits) -> tuple[Logits, Labels]:
    """The probabilities of classes that exclude each other, (N, C), and the likeliest class, (N,)."""
    return softmax(logits), logits.argmax(axis=1)


def neighbour_effect(
    alone: Logits, others: Sequence[Logits], answer: Callable[[Logits], tuple[Logits, Labels]] = likeliest
) -> NeighbourEffect:
    """Compare logits (N, C) of rows scored alone with `others`, logits of the same rows in batches.

    `answer` gives the probabilities (N, C) and the labels, (N,) or (N, C), that logits mean.
    """
    expected, expected_labels = answer(alone)
    changed = np.zeros(len(alone), dtype=bool)
    largest = 0.0
    for logits in others:
        probabilities, labels = answer(logits)
        largest = float(np.maximum(largest, np.abs(probabilities - expected).max(initial=0.0)))
        changed |= (labels != expected_labels).reshape(len(alone), -1).any(axis=1)
    return NeighbourEffect(len(alone), largest, int(changed.sum()))


def measure_neighbours(
    rows: Rows,
    forward: Forward,
    seed: int,
    effect: Callable[[Logits, Sequence[Logits]], NeighbourEffect] = neighbour_effect,
) -> NeighbourEffect:
    """Score up to `NEIGHBOUR_ROWS` rows, drawn by `seed`, alone and in batches of `NEIGHBOUR_BATCH_SIZES`.

    Rows that serving pads are also scored alone with as much padding as the longest of them would need.
    `effect` compares the scores of rows alone with those of the same rows in batches.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:NEIGHBOUR_ROWS]
    alone = _in_batches(rows, forward, drawn, 1)
    others = [_in_batches(rows, forward, drawn, size) for size in NEIGHBOUR_BATCH_SIZES]
    if rows.are_padded:
        single = [rows.batch(drawn[at : at + 1]) for at in range(len(drawn))]
        width = max(values.shape[1] for values in chain(*(batch.values() for batch in single)))
        others.append(np.concatenate([forward(right_padded(batch, width)) for batch in single]))
    return effect(alone, others)


def _in_batches(rows: Rows, forward: Forward, drawn: Indices, size: int) -> Logits:
    return np.concatenate([forward(rows.batch(drawn[at : at + size])) for at in range(0, len(drawn), size)])
