"""The thresholds of labels, against a search over every threshold with scikit-learn's F1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

from gauntlet.serving.bundle import BundleError
from gauntlet.tasks.multi_label_text.thresholds import (
    choose_thresholds,
    read_thresholds,
    sigmoid,
    write_thresholds,
)


def test_probabilities_are_those_of_the_logistic_function_and_never_overflow() -> None:
    logits = np.array([-200.0, -3.5, 0.0, 2.0, 200.0], dtype=np.float32)
    np.testing.assert_allclose(sigmoid(logits), expit(logits), atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_each_threshold_is_as_good_as_the_best_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.random((200, 3)) < (0.5, 0.2, 0.03)
    probabilities = expit(generator.normal(truth * 1.5 - 1, 1.2)).round(2).astype(np.float32)
    chosen = choose_thresholds(probabilities, truth)
    found = f1_score(truth, probabilities >= chosen, average=None)
    every = np.linspace(0, 1, 401)
    best = [
        max(f1_score(truth[:, c], probabilities[:, c] >= threshold, zero_division=0) for threshold in every)
        for c in range(3)
    ]
    np.testing.assert_allclose(found, best)


def test_a_threshold_lies_half_way_between_two_probabilities_and_near_a_half() -> None:
    probabilities = np.array([[0.9, 0.2], [0.7, 0.1], [0.1, 0.9]], dtype=np.float32)
    truth = np.array([[1, 0], [1, 0], [0, 1]])
    np.testing.assert_allclose(choose_thresholds(probabilities, truth), [0.4, 0.55])


def test_a_label_that_no_row_has_or_every_row_has_gets_a_half() -> None:
    probabilities = np.array([[0.9, 0.2], [0.7, 0.1]], dtype=np.float32)
    assert choose_thresholds(probabilities, np.array([[0, 1], [0, 1]])).tolist() == [0.5, 0.5]


def test_thresholds_are_read_in_the_order_of_the_labels(tmp_path: Path) -> None:
    write_thresholds(tmp_path / "thresholds.json", ["joy", "fear"], np.array([0.25, 0.75], dtype=np.float32))
    assert read_thresholds(tmp_path, ["fear", "joy"]).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[0.5]", "expected a threshold for each of joy, fear and no others"),
        ('{"joy": 0.5}', "expected a threshold for each of joy, fear and no others"),
        ('{"joy": 0.5, "fear": 2}', "fear: found 2, expected a number from 0 to 1"),
        ('{"joy": 0.5, "fear": "high"}', "fear: found 'high', expected a number from 0 to 1"),
        ("{", "cannot be read"),
    ],
)
def test_thresholds_that_are_not_of_the_labels_are_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "thresholds.json").write_text(content)
    with pytest.raises(BundleError, match=message):
        read_thresholds(tmp_path, ["joy", "fear"])
