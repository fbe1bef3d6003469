"""The scores that a model gives rows.

N = rows, C = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gauntlet.components.convert_to_onnx.export import OUTPUT
from gauntlet.components.convert_to_onnx.parity import Indices, Logits, Scores, left_padded
from gauntlet.components.convert_to_onnx.rows import Rows
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.serving.session import Device, open_session

Forward = Callable[[Batch], Logits]

CALIBRATION_ROWS = 256
CALIBRATION_BATCH_SIZE = 32


def sample(rows: Rows, seed: int) -> list[Batch]:
    """Batches of rows drawn by `seed`, to calibrate with."""
    count = min(CALIBRATION_ROWS, len(rows))
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows.batch(chosen) for chosen in np.array_split(drawn, math.ceil(count / CALIBRATION_BATCH_SIZE))]


def score(rows: Rows, forward: Forward, ragged: Sequence[Indices], rest: Sequence[Indices]) -> Scores:
    """Scores of all rows, which `ragged` and `rest` hold once.

    The ragged batches of rows that are padded are scored with both paddings.
    """
    right = np.empty((len(rows), len(rows.labels)), dtype=np.float32)
    left = [np.empty((0, len(rows.labels)), dtype=np.float32)]
    for chosen in ragged:
        batch = rows.batch(chosen)
        right[chosen] = forward(batch)
        if rows.are_padded:
            left.append(forward(left_padded(batch)))
    for chosen in rest:
        right[chosen] = forward(rows.batch(chosen))
    return Scores(right, np.concatenate(left))


def pytorch_forward(model: nn.Module) -> Forward:
    """A classifier in eval mode as a function of arrays."""

    def forward(batch: Batch) -> Logits:
        with torch.inference_mode():
            found = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
        logits: torch.Tensor = getattr(found, OUTPUT, found)  # a grader gives more than logits
        return np.asarray(logits.numpy(), dtype=np.float32)

    return forward


def onnx_forward(path: Path, threads: int, device: Device = "cpu") -> Forward:
    """A graph, in the session that serving opens, as a function of arrays."""
    session = open_session(path, threads, device)

    def forward(batch: Batch) -> Logits:
        return np.asarray(session.run([OUTPUT], dict(batch))[0], dtype=np.float32)

    return forward
