"""Metrics of numbers, their intervals and their histograms, against scikit-learn and hand calculations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from gauntlet.tasks.regression.metrics import bin_edges, half_width, histogram, measure, resample


def test_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(1e4, 3.0, 500)  # far from 0, where squares lose digits
    predicted = targets + generator.normal(0.5, 2.0, 500)
    found = measure(targets, predicted)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, predicted))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(targets, predicted))
    assert found["r2"] == pytest.approx(r2_score(targets, predicted))


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_r2_of_equal_targets_is_that_of_scikit_learn(error: float) -> None:
    targets = np.full(10, 0.5)
    assert measure(targets, targets + error)["r2"] == r2_score(targets, targets + error)
    inexact = np.full(10, 0.3)  # whose mean differs from 0.3 in the last bit
    assert measure(inexact, inexact + error)["r2"] == r2_score(targets, targets + error)


def test_models_are_scored_on_the_same_resamples() -> None:
    generator = np.random.default_rng(1)
    targets, noise = generator.normal(size=300), generator.normal(size=300)
    worse, better = resample(targets, [targets + noise, targets + noise / 2], 400, seed=3)
    np.testing.assert_allclose(worse["mae"], 2 * better["mae"])
    # The standard error of a mean of 300 absolute errors: a normal distribution's have the spread 0.603.
    assert worse["mae"].std() == pytest.approx(0.603 / np.sqrt(300), rel=0.2)


@pytest.mark.parametrize(
    ("residuals", "coverage", "expected"),
    [
        (range(1, 10), 0.8, 8),  # of 9 residuals the ⌈10 · 0.8⌉-th
        ([-3.0, 1.0, 2.0], 0.5, 2),  # the ⌈4 · 0.5⌉-th smallest without its sign
        (range(1, 5), 0.9, 4),  # the 5th of 4: the largest there is
    ],
)
def test_the_half_width_is_a_quantile_of_the_residuals(
    residuals: list[float], coverage: float, expected: float
) -> None:
    assert half_width(np.array(residuals, dtype=np.float64), coverage) == expected


def test_intervals_hold_the_share_of_new_targets_that_was_asked_for() -> None:
    generator = np.random.default_rng(2)
    shares = [
        np.mean(np.abs(generator.standard_t(3, 500)) <= half_width(generator.standard_t(3, 99), 0.9))
        for _ in range(400)
    ]
    # The theorem: between 0.9 and 0.9 + 1 / 100 on average.
    assert 0.895 < np.mean(shares) < 0.915


def test_bins_begin_at_round_numbers_and_hold_every_value() -> None:
    grades = np.repeat(np.arange(1.0, 11.0), 20)
    edges = bin_edges(grades)
    assert edges == tuple(range(1, 12))
    assert histogram(grades, edges) == (20,) * 10
    assert histogram(np.array([-50.0, 10.9, 99.0]), edges) == (1, 0, 0, 0, 0, 0, 0, 0, 0, 2)
    assert bin_edges(np.linspace(0, 1, 101))[:4] == (0.0, 0.1, 0.2, 0.3)
    assert bin_edges(np.array([7.0])) == (7.0, 8.0)
