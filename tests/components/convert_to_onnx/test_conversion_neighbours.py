from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gauntlet.components.convert_to_onnx.scoring import measure_neighbours, neighbour_effect
from gauntlet.components.convert_to_onnx.timing import Batch


class Numbers:
    """Rows of one token each, but the last of three; a row's token is its number."""

    labels = ("even", "odd")
    truth = np.zeros(40, dtype=np.int64)
    lengths = (1,) * 39 + (3,)
    are_padded = True

    def __len__(self) -> int:
        return 40

    def batch(self, rows: npt.NDArray[np.int64]) -> Batch:
        width = max(self.lengths[row] for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        ids[:, 0] = rows
        return {"input_ids": ids}

    def excerpt(self, row: int) -> dict[str, int]:
        return {"row": row}


def logits(shares: list[float]) -> npt.NDArray[np.float32]:
    return np.log(np.array([[share, 1 - share] for share in shares], dtype=np.float32))


def test_the_largest_change_of_a_probability_and_the_labels_that_changed_are_what_a_hand_counts() -> None:
    effect = neighbour_effect(logits([0.9, 0.6, 0.2]), [logits([0.9, 0.45, 0.2]), logits([0.8, 0.45, 0.4])])
    assert effect.max_difference == pytest.approx(0.2, abs=1e-6)
    assert (effect.rows, effect.label_changes) == (3, 1)


def test_an_answer_that_is_no_number_in_some_batch_shows() -> None:
    assert math.isnan(neighbour_effect(logits([0.5]), [logits([0.5]) * np.nan]).max_difference)


def own(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.stack([ids[:, 0] % 2, 1 - ids[:, 0] % 2], axis=1).astype(np.float32)


def test_rows_that_answer_for_themselves_change_nothing() -> None:
    effect = measure_neighbours(Numbers(), lambda batch: own(batch["input_ids"]), seed=1)
    assert (effect.rows, effect.max_difference, effect.label_changes) == (40, 0.0, 0)


@pytest.mark.parametrize("of", ["the number of rows", "the padding"])
def test_what_a_batch_or_its_padding_changes_is_found(of: str) -> None:
    def forward(batch: Batch) -> npt.NDArray[np.float32]:
        ids = batch["input_ids"]
        size = len(ids) - 1 if of == "the number of rows" else ids.shape[1] - 1
        return own(ids) + np.array([size * 10, 0], dtype=np.float32)

    effect = measure_neighbours(Numbers(), forward, seed=1)
    assert effect.max_difference > 0.7
    assert effect.label_changes >= 19  # the even numbers
