from __future__ import annotations

import numpy as np
import pytest

from components.convert_to_onnx.parity import compare, macro_f1, parity_batches, rows_not_finite

LABELS = ("calm", "angry", "glad")
TRUTH = np.array([0, 0, 1, 1, 2])
PYTORCH = np.array([[3, 1, 0], [2, 1, 0], [0, 4, 1], [1, 0, 3], [0, 1, 5]], dtype=np.float32)
# Row 1 turns from calm to angry by 1.5; row 4 differs by 2 and keeps its label.
CANDIDATE = np.array([[3, 1, 0], [2, 2.5, 0], [0, 4, 1], [1, 0.5, 3], [0, 1, 7]], dtype=np.float32)


def test_parity_is_what_a_hand_counts() -> None:
    parity = compare(PYTORCH, CANDIDATE, TRUTH, LABELS)
    assert parity.rows == 5
    assert parity.max_abs_difference == 2.0
    assert parity.disagreements == 1
    assert parity.label_agreement == 0.8
    assert parity.agreement_by_class == {"calm": 0.5, "angry": 1.0, "glad": 1.0}
    # PyTorch predicts 0 0 1 2 2: F1 is 1, 2/3, 2/3. The candidate predicts 0 1 1 2 2: 2/3, 1/2, 2/3.
    assert parity.pytorch_macro_f1 == pytest.approx(7 / 9)
    assert parity.macro_f1 == pytest.approx(11 / 18)
    assert parity.metric_drop == pytest.approx(7 / 9 - 11 / 18)


def test_the_worst_rows_are_first_those_with_another_label_then_those_that_differ_most() -> None:
    worst = compare(PYTORCH, CANDIDATE, TRUTH, LABELS).worst
    assert [row.row for row in worst[:3]] == [1, 4, 3]
    assert (worst[0].label, worst[0].pytorch, worst[0].candidate) == ("calm", "calm", "angry")
    assert worst[0].max_abs_difference == 1.5


def test_a_class_that_pytorch_never_predicts_has_no_agreement() -> None:
    parity = compare(PYTORCH[:2], CANDIDATE[:2], TRUTH[:2], LABELS)
    assert parity.agreement_by_class == {"calm": 0.5}


def test_a_class_without_rows_or_predictions_counts_zero_in_macro_f1() -> None:
    assert macro_f1(PYTORCH[:3], TRUTH[:3]) == pytest.approx(2 / 3)  # F1 of 1, 1 and 0


def test_rows_that_are_not_finite_are_counted_once_each() -> None:
    logits = np.array([[0, 1], [np.nan, np.inf], [-np.inf, 0]], dtype=np.float32)
    assert rows_not_finite(logits) == 2


@pytest.mark.parametrize("rows", [1, 2, 24, 150, 2000])
def test_every_row_is_scored_once(rows: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, rows).tolist()
    scored = np.concatenate(parity_batches(lengths, seed=0))
    assert sorted(scored.tolist()) == list(range(rows))


def test_rows_are_scored_alone_in_threes_and_in_ragged_batches_of_32() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 2000)
    batches = parity_batches(lengths.tolist(), seed=0)
    sizes = [len(batch) for batch in batches]
    assert sizes[:96] == [1] * 96
    assert sizes[96:128] == [3] * 32
    assert sizes[128:131] == [32] * 3
    assert all(np.ptp(lengths[batch]) > 20 for batch in batches[128:131]), "lengths should differ within"
    assert all(np.ptp(lengths[batch]) <= 3 for batch in batches[131:]), "and the rest be sorted by length"


def test_the_seed_decides_which_rows_meet() -> None:
    lengths = list(range(100))
    first, again, other = (parity_batches(lengths, seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert any((one != two).any() for one, two in zip(first, other, strict=True))
