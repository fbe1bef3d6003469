"""The interval of an A/B test covers the difference at all looks at once, and its bounds are as published."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gauntlet.components.compare_variants.sequence import (
    LEAST,
    Bools,
    Bounds,
    Floats,
    best_rho,
    gamma_exponential_bound,
    interval,
    log_gamma_exponential,
    looks,
    normal_bound,
    sums,
)

ALPHA = 0.1
Draw = Callable[[np.random.Generator, Bools], Floats]


def test_the_bounds_are_those_of_the_authors() -> None:
    """Targets of the tests of confseq 0.0.11, which are from a reference implementation in R."""
    assert best_rho(100, 0.05) == pytest.approx(12.60056, abs=1e-5)
    assert normal_bound(100, best_rho(100, 0.05), 0.05) == pytest.approx(30.35209, abs=1e-5)
    rho = best_rho(100, 2 * 0.05)  # of a one-sided bound
    assert log_gamma_exponential(10, 100, rho, 2) == pytest.approx(-0.2490165, abs=1e-5)
    assert gamma_exponential_bound(np.array([100.0]), rho, 2, 0.05) == pytest.approx(33.02017, abs=1e-5)


def test_the_estimate_is_the_mean_of_scores_that_can_be_computed_by_hand() -> None:
    values, is_second = np.array([4.0, 8.0, 6.0]), np.array([True, False, True])
    found = sums(values, is_second, Bounds(0.5, 0.0, 10.0))
    # In tenths, with a = b = 0.5 before the first value: X = (0.4 - 0.5) / 0.5. Then b = 0.45, and
    # X = b - 0.5 - (0.8 - 0.5) / 0.5. Then a = 0.65, and X = b - a + (0.6 - b) / 0.5.
    assert found.effects == pytest.approx(np.cumsum([-0.2, -0.65, 0.1]))
    assert found.squares == pytest.approx(np.cumsum([0.04, 0.36, 0.09]))


def ever_missed(
    draw: Draw, effect: float, low: float | None, high: float | None, share: float, runs: int, units: int
) -> float:
    """The share of runs whose interval ever misses the effect, over a hundred looks."""
    random = np.random.default_rng(11)
    is_second = random.random((runs, units)) < share
    bounds = Bounds(share, low, high)
    found = sums(draw(random, is_second), is_second, bounds)
    first = 1 if low is not None else round(1.2 * LEAST / min(share, 1 - share))
    at = np.array([one for one in looks(units, 100) if one >= first])
    difference, half = interval(found, at, bounds, ALPHA, units)
    return float((np.abs(difference - effect) > half).any(axis=-1).mean())


def binary(first: float, second: float) -> Draw:
    return lambda random, is_second: (
        random.random(is_second.shape) < np.where(is_second, second, first)
    ).astype(float)


def exponential(random: np.random.Generator, is_second: Bools) -> Floats:
    return 1000 + random.exponential(3.0, is_second.shape)


CASES = pytest.mark.parametrize(
    ("draw", "effect", "low", "high", "share"),
    [
        (binary(0.3, 0.3), 0.0, 0.0, 1.0, 0.5),
        (binary(0.02, 0.02), 0.0, 0.0, 1.0, 0.2),
        (binary(0.3, 0.4), 0.1, 0.0, 1.0, 0.5),
        (exponential, 0.0, None, None, 0.5),
    ],
    ids=["no difference", "rare", "difference", "without bounds"],
)


@CASES
def test_the_interval_ever_misses_with_a_probability_of_at_most_alpha(
    draw: Draw, effect: float, low: float | None, high: float | None, share: float
) -> None:
    """With no difference a miss is a false winner. 300 runs: at most alpha and three standard deviations."""
    missed = ever_missed(draw, effect, low, high, share, runs=300, units=1000)
    assert missed <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 300)


@pytest.mark.acceptance
@CASES
def test_it_misses_as_rarely_over_many_units(
    draw: Draw, effect: float, low: float | None, high: float | None, share: float
) -> None:
    assert ever_missed(draw, effect, low, high, share, runs=3000, units=10_000) <= ALPHA


def test_a_difference_is_found_with_less_than_three_times_the_units_of_a_test_with_one_look() -> None:
    """A z-test at 5 % finds 0.30 against 0.36 in 80 of 100 cases with 1,926 units in all (Fleiss)."""
    random, units, bounds = np.random.default_rng(3), 3 * 1926, Bounds(0.5, 0.0, 1.0)
    is_second = random.random((200, units)) < bounds.share
    found = sums(binary(0.30, 0.36)(random, is_second), is_second, bounds)
    difference, half = interval(found, np.array([units]), bounds, 0.05, units)
    assert np.mean(difference > half) > 0.8
