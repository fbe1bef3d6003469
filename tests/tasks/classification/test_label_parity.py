from __future__ import annotations

import numpy as np
import pytest

from gauntlet.components.convert_to_onnx.scoring import left_padded, parity_batches
from gauntlet.tasks.classification.conversion import (
    ClassScores,
    LabelParity,
    compare,
    labels_of,
    likeliest_class,
    macro_f1,
)

LABELS = ("calm", "angry", "glad")
TRUTH = np.array([0, 0, 1, 1, 2])
PYTORCH = np.array([[3, 1, 0], [2, 1, 0], [0, 4, 1], [1, 0, 3], [0, 1, 5]], dtype=np.float32)
# Row 1 turns from calm to angry by 1.5; row 4 differs by 2 and keeps its label.
CANDIDATE = np.array([[3, 1, 0], [2, 2.5, 0], [0, 4, 1], [1, 0.5, 3], [0, 1, 7]], dtype=np.float32)


NONE = np.empty((0, 3), dtype=np.float32)


def compared(pytorch: np.ndarray, candidate: np.ndarray, truth: np.ndarray) -> LabelParity:
    return compare(ClassScores(pytorch, NONE), ClassScores(candidate, NONE), truth, LABELS, seed=0)


def test_parity_is_what_a_hand_counts() -> None:
    parity = compared(PYTORCH, CANDIDATE, TRUTH)
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
    worst = compared(PYTORCH, CANDIDATE, TRUTH).worst
    assert [row.row for row in worst[:3]] == [1, 4, 3]
    assert (worst[0].label, worst[0].pytorch, worst[0].candidate) == ("calm", "calm", "angry")
    assert worst[0].max_abs_difference == 1.5


def test_a_class_that_pytorch_never_predicts_has_no_agreement() -> None:
    parity = compared(PYTORCH[:2], CANDIDATE[:2], TRUTH[:2])
    assert parity.agreement_by_class == {"calm": 0.5}


def test_a_class_without_rows_or_predictions_counts_zero_in_macro_f1() -> None:
    predicted = likeliest_class(PYTORCH[:3])
    assert macro_f1(predicted, labels_of(TRUTH[:3], 3)) == pytest.approx(2 / 3)  # F1 of 1, 1 and 0


def test_rows_that_are_not_finite_are_counted_once_each_for_the_worse_padding() -> None:
    logits = np.array([[0, 1], [np.nan, np.inf], [-np.inf, 0]], dtype=np.float32)
    assert ClassScores(logits, logits[:2]).rows_not_finite == 2
    assert ClassScores(logits[:1], logits[1:2]).rows_not_finite == 1


def test_rows_padded_on_the_left_count_for_the_difference_and_for_agreement() -> None:
    left = PYTORCH[:4]
    other = left + np.array([[0, 0, 0], [0, 9, 0], [0, 0, 0], [0, 0, 0]], dtype=np.float32)
    parity = compare(ClassScores(PYTORCH, left), ClassScores(PYTORCH, other), TRUTH, LABELS, seed=0)
    assert (parity.disagreements, parity.left_padded_disagreements) == (0, 1)
    assert (parity.rows, parity.left_padded_rows) == (5, 4)
    assert parity.max_abs_difference == 9.0
    assert parity.label_agreement == 0.75


def test_padding_goes_to_the_left_and_the_tokens_keep_their_order() -> None:
    batch = {
        "input_ids": np.array([[5, 6, 0, 0], [7, 8, 9, 4], [3, 0, 0, 0]]),
        "attention_mask": np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]),
    }
    moved = left_padded(batch)
    assert moved["input_ids"].tolist() == [[0, 0, 5, 6], [7, 8, 9, 4], [0, 0, 0, 3]]
    assert moved["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]


def test_what_the_metric_may_have_lost_is_a_paired_bootstrap() -> None:
    """PyTorch is right on 400 rows, the other on all but 8: how many of these a resample has decides."""
    truth = np.repeat([0, 1], 200)
    right = np.eye(2, dtype=np.float32)[truth]
    wrong = right.copy()
    wrong[:8] = wrong[:8, ::-1]
    empty = np.empty((0, 2), dtype=np.float32)
    parity = compare(ClassScores(right, empty), ClassScores(wrong, empty), truth, ("no", "yes"), seed=1)
    low, high = parity.metric_drop_interval
    # About a share of 8 / 400 of the rows, of a binomial distribution with a deviation of 0.007.
    assert low == pytest.approx(0.02 - 1.96 * 0.007, abs=0.003)
    assert high == pytest.approx(0.02 + 1.96 * 0.007, abs=0.003)
    assert parity.metric_drop_bound == pytest.approx(0.02 + 1.645 * 0.007, abs=0.003)
    same = compare(ClassScores(wrong, empty), ClassScores(wrong, empty), truth, ("no", "yes"), seed=1)
    assert same.metric_drop_bound == 0.0


@pytest.mark.parametrize("rows", [1, 2, 24, 150, 2000])
def test_every_row_is_scored_once(rows: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, rows).tolist()
    ragged, rest = parity_batches(lengths, seed=0)
    scored = np.concatenate([*ragged, *rest])
    assert sorted(scored.tolist()) == list(range(rows))


def test_rows_are_scored_alone_in_threes_and_in_ragged_batches_of_32() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 2000)
    ragged, rest = parity_batches(lengths.tolist(), seed=0)
    assert [len(batch) for batch in ragged] == [1] * 96 + [3] * 32 + [32] * 3
    assert all(np.ptp(lengths[batch]) > 20 for batch in ragged[128:]), "lengths should differ within"
    assert all(np.ptp(lengths[batch]) <= 3 for batch in rest), "and the rest be sorted by length"


def test_the_seed_decides_which_rows_meet() -> None:
    lengths = list(range(100))
    first, again, other = (parity_batches(lengths, seed)[0] for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    assert any((one != two).any() for one, two in zip(first, other, strict=True))
