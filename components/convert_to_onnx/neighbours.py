"""Measure how much the other rows of a batch change a row's answer.

If a graph quantises activations with one scale for the whole batch, a text gets another answer beside a long
text, or with more padding, than alone. A client that sends the text cannot see why.

N = rows, C = classes or the tokens of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from gauntlet.components.convert_to_onnx.parity import Indices, Logits, right_padded
from gauntlet.components.convert_to_onnx.rows import Rows
from gauntlet.components.convert_to_onnx.scoring import Forward
from gauntlet.serving.bundle import softmax

MOST_ROWS = 96
COMPANY_SIZES = (3, 32)


@dataclass(frozen=True)
class NeighbourEffect:
    """Answers of rows that were scored alone, and again in batches and with padding.

    Attributes:
        rows: How many rows.
        max_difference: The largest change of any row's probability of any class; NaN if one is not a number.
        label_changes: Rows that got another label in some batch.
    """

    rows: int
    max_difference: float
    label_changes: int


def neighbour_effect(alone: Logits, others: Sequence[Logits]) -> NeighbourEffect:
    """Compare logits (N, C) of rows scored alone with `others`, logits of the same rows in batches."""
    expected = softmax(alone)
    changed = np.zeros(len(alone), dtype=bool)
    largest = 0.0
    for logits in others:
        largest = float(np.maximum(largest, np.abs(softmax(logits) - expected).max(initial=0.0)))
        changed |= logits.argmax(axis=1) != alone.argmax(axis=1)
    return NeighbourEffect(len(alone), largest, int(changed.sum()))


def measure_neighbours(rows: Rows, forward: Forward, seed: int) -> NeighbourEffect:
    """Score up to `MOST_ROWS` rows, drawn by `seed`, alone and in batches of `COMPANY_SIZES`.

    Rows that serving pads are also scored alone with as much padding as the longest of them would ask for.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST_ROWS]
    alone = _in_batches(rows, forward, drawn, 1)
    others = [_in_batches(rows, forward, drawn, size) for size in COMPANY_SIZES]
    if rows.are_padded:
        single = [rows.batch(drawn[at : at + 1]) for at in range(len(drawn))]
        width = max(values.shape[1] for values in chain(*(batch.values() for batch in single)))
        others.append(np.concatenate([forward(right_padded(batch, width)) for batch in single]))
    return neighbour_effect(alone, others)


def _in_batches(rows: Rows, forward: Forward, drawn: Indices, size: int) -> Logits:
    return np.concatenate([forward(rows.batch(drawn[at : at + size])) for at in range(0, len(drawn), size)])
