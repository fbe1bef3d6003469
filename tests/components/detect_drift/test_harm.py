"""Harm is proven within the stated rows, false alarms are as rare as stated, estimates hold on draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from gauntlet.components.detect_drift.harm import (
    calibrated,
    calibration_error,
    detect_harm,
    detector,
    estimate,
    fit_calibration,
    shifted_priors,
    upper_error,
)


def test_the_promised_error_is_clopper_and_pearsons_bound() -> None:
    exact = binomtest(200, 2_000).proportion_ci(0.98, method="exact").high
    assert upper_error(200, 2_000) == pytest.approx(exact)
    assert upper_error(5, 5) == 1.0


def test_a_doubled_error_is_proven_within_700_rows_at_one_false_alarm_in_a_million() -> None:
    losses = (np.random.default_rng(0).random((60, 2_000)) < 0.20).astype(float)
    values = detector(losses, upper_error(200, 2_000) + 0.02)
    reached = values >= 1e6
    assert reached.any(1).mean() >= 0.95
    assert np.median(np.where(reached.any(1), reached.argmax(1) + 1, 2_000)) <= 700


def test_false_alarms_are_as_rare_as_stated_at_the_bound_itself() -> None:
    # The expected rows to an alarm are at least 10⁴, so of 100 series of 1,000 rows at most 10 % alarm
    losses = (np.random.default_rng(1).random((100, 1_000)) < 0.12).astype(float)
    assert (detector(losses, 0.12) >= 1e4).any(1).mean() <= 0.10


def test_the_alarm_says_since_when() -> None:
    rng = np.random.default_rng(2)
    losses = np.concatenate([rng.random(1_000) < 0.05, rng.random(1_000) < 0.40]).astype(float)
    alarm = detect_harm(losses, 0.12, 1e6)
    assert alarm.row is not None
    assert 1_000 < alarm.row < 1_150
    assert alarm.since == pytest.approx(1_000, abs=40)
    assert detect_harm(losses[:1_000], 0.12, 1e6).row is None
    assert detect_harm(losses[:0], 0.12, 1e6) == detect_harm(np.empty(0), 0.12, 1e6)


def _drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities (rows, 4), and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.5, 0.4, 0.3, 0.2], size=rows)
    labels = (rng.random((rows, 1)) > probabilities.cumsum(1)[:, :-1]).sum(1)
    return probabilities, labels


def test_calibrated_probabilities_estimate_accuracy_and_macro_f1() -> None:
    probabilities, labels = _drawn(20_000, 3)
    found = estimate(probabilities)
    accuracy = (probabilities.argmax(1) == labels).mean()
    assert found.accuracy_low <= accuracy <= found.accuracy_high
    assert found.accuracy_high - found.accuracy_low < 0.015
    assert found.macro_f1 == pytest.approx(
        f1_score(labels, probabilities.argmax(1), average="macro"), abs=0.01
    )


def test_the_temperature_of_overconfident_probabilities_is_found() -> None:
    probabilities, labels = _drawn(8_000, 4)
    overconfident = calibrated(probabilities, 0.5)
    assert fit_calibration(overconfident, labels)[0] == pytest.approx(2.0, rel=0.06)
    right = probabilities.argmax(1) == labels
    assert calibration_error(probabilities.max(1), right) < 0.02
    assert calibration_error(overconfident.max(1), right) > 0.08


def test_the_shares_of_classes_are_found_without_labels() -> None:
    rng = np.random.default_rng(5)
    before, after = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    labels = rng.choice(3, 5_000, p=after)
    x = rng.normal(np.array([0.0, 1.5, 3.0])[labels])
    likelihood = np.exp(-0.5 * (x[:, None] - np.array([0.0, 1.5, 3.0])) ** 2)
    posterior = likelihood * before
    posterior /= posterior.sum(1, keepdims=True)
    assert shifted_priors(posterior, before) == pytest.approx(after, abs=0.03)
