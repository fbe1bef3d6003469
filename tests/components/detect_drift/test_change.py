"""Tests of change have the p-values of independent implementations, and alarm no more often than stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, chi2, chi2_contingency, ks_2samp

from gauntlet.components.detect_drift.change import (
    Change,
    MeanFeatures,
    MeanScores,
    classes_of_counts,
    counted,
    detectable,
    edges_of,
    family_p_values,
    holm,
    ks_of_counts,
    weighted_chi_square_sf,
)


@pytest.mark.parametrize(("value", "expected"), [(0.1, 0.9458), (0.7, 0.5064), (2.0, 0.1240)])
def test_the_tail_of_a_weighted_chi_square_is_that_of_imhofs_table(value: float, expected: float) -> None:
    # Imhof 1961, Biometrika 48: Q = 0.6 χ²₁ + 0.3 χ²₁ + 0.1 χ²₁
    assert weighted_chi_square_sf(value, np.array([0.6, 0.3, 0.1])) == pytest.approx(expected, rel=0.06)


def test_the_far_tail_of_equal_weights_is_that_of_chi_square() -> None:
    for value in (20.0, 80.0, 200.0):
        found = weighted_chi_square_sf(value, np.ones(20))
        assert found == pytest.approx(chi2.sf(value, 20), rel=0.02)


def test_binned_ks_is_scipys_on_the_rows() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=2_000)
    edges = edges_of(reference)
    for shift in (0.0, 0.1, 0.2, 0.5):
        window = rng.normal(shift, size=500)
        effect, p_value = ks_of_counts(counted(window, edges), counted(reference, edges))
        exact = ks_2samp(window, reference)
        assert effect == pytest.approx(exact.statistic, abs=1 / 128)
        assert np.log10(p_value) == pytest.approx(np.log10(exact.pvalue), abs=max(0.4, shift * 8))


def test_no_value_is_a_bin_of_its_own() -> None:
    values = np.array([0.0, 1.0, 2.0, np.nan, -5.0, 9.0])
    counts = counted(values, np.array([0.0, 1.0, 2.0]))
    assert counts.tolist() == [2, 1, 1, 1, 1]


def test_the_class_mix_has_the_p_value_of_the_contingency_table() -> None:
    window, reference = np.array([60, 30, 10]), np.array([500, 400, 100])
    effect, p_value = classes_of_counts(window, reference)
    assert effect == pytest.approx(0.10)
    assert p_value == pytest.approx(chi2_contingency([window, reference]).pvalue, rel=0.15)
    _, far = classes_of_counts(window * 40, reference * 40)
    assert far == pytest.approx(chi2_contingency([window * 40, reference * 40]).pvalue)


def test_classes_that_the_reference_lacks_are_a_change() -> None:
    reference = np.concatenate([[900, 100], np.zeros(1_000, dtype=int)])
    window = np.concatenate([[350, 50], np.ones(100, dtype=int), np.zeros(900, dtype=int)])
    assert classes_of_counts(window, reference)[1] < 1e-20


def compared_together(reference: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """The distance and p-value of all columns together."""
    rows = {str(at): values for at, values in enumerate(reference.T)}
    edges = {name: edges_of(values) for name, values in rows.items()}
    scores = MeanScores.of({name: counted(rows[name], edges[name]) for name in rows}, edges, rows)
    assert scores is not None
    return scores.compared({str(at): counted(values, edges[str(at)]) for at, values in enumerate(window.T)})


def test_the_mean_scores_of_normal_rows_have_hotellings_p_value() -> None:
    # T² of the rows themselves, with the reference's covariance; 128 bins are not quite the rows
    rng = np.random.default_rng(3)
    mixing = np.array([[1.0, 0.9, 0.0], [0.0, 0.4, 0.5], [0.0, 0.0, 1.0]])
    reference = rng.normal(size=(5_000, 3)) @ mixing
    for shift in (0.0, 0.1, 0.2):
        window = rng.normal(size=(500, 3)) @ mixing + [0, shift, 0]
        gap = window.mean(0) - reference.mean(0)
        squared = gap @ np.linalg.solve(np.cov(reference.T), gap)
        distance, p_value = compared_together(reference, window)
        assert distance == pytest.approx(np.sqrt(squared), abs=0.02)
        expected = chi2.sf(squared / (1 / 500 + 1 / 5_000), 3)
        assert np.log10(p_value) == pytest.approx(np.log10(expected), abs=0.3, rel=0.1)


def test_columns_that_follow_from_others_do_not_make_a_change() -> None:
    rng = np.random.default_rng(4)
    first = rng.normal(size=(2_500, 1))
    same = np.hstack([first, -first, np.ones_like(first)])
    distance, p_value = compared_together(same[:2_000], same[2_000:])
    assert distance < 0.2
    assert p_value > 0.01
    rows = {"a": np.ones(50)}
    edges = {"a": edges_of(rows["a"])}
    assert MeanScores.of({"a": counted(rows["a"], edges["a"])}, edges, rows) is None


@pytest.mark.parametrize("runs", [15, pytest.param(300, marks=pytest.mark.acceptance)])
def test_clean_windows_alarm_no_more_often_than_stated(runs: int) -> None:
    rng = np.random.default_rng(1)
    small = {"KS": 0, "TV": 0, "MMD": 0, "T2": 0}
    alpha = 0.05
    mix = np.array([0.5, 0.3, 0.15, 0.05])
    for _ in range(runs):
        reference, window = rng.lognormal(size=400), rng.lognormal(size=100)
        edges = edges_of(reference)
        small["KS"] += ks_of_counts(counted(window, edges), counted(reference, edges))[1] <= alpha
        small["TV"] += classes_of_counts(rng.multinomial(100, mix), rng.multinomial(400, mix))[1] <= alpha
        vectors = rng.dirichlet(np.ones(4), size=500)
        features = MeanFeatures.of(np.sqrt(vectors[:400]))
        assert features is not None
        small["MMD"] += features.compared(np.sqrt(vectors[400:]))[1] <= alpha
        small["T2"] += compared_together(vectors[:400], vectors[400:])[1] <= alpha
    # 99.9 % of such counts are below this bound if the rate is 5 %
    assert max(small.values()) <= binom.ppf(0.999, runs, alpha), small


def test_a_shift_of_vectors_that_keeps_every_column_is_found() -> None:
    rng = np.random.default_rng(2)
    first = rng.normal(size=(3_000, 1))
    together = np.hstack([first, first + 0.1 * rng.normal(size=first.shape)])
    alone = np.hstack([together[:, :1], rng.permutation(together[:, 1:])])
    features = MeanFeatures.of(together[:2_000])
    assert features is not None
    assert features.compared(together[2_000:])[1] > 0.01
    assert features.compared(alone[2_000:])[1] < 1e-6


def test_rows_that_are_all_alike_have_no_mean_features() -> None:
    assert MeanFeatures.of(np.ones((50, 3))) is None


@pytest.mark.parametrize(
    ("reference", "window", "smallest"), [(155, 500, 0.15), (2_000, 500, 0.081), (10_000, 2_000, 0.040)]
)
def test_the_smallest_detectable_difference(reference: int, window: int, smallest: float) -> None:
    assert detectable(window, reference, 0.01) == pytest.approx(smallest, abs=6e-4)


def test_holm_adjusts_p_values_in_their_order() -> None:
    # By hand: 3 · 0.01, then 2 · 0.02, then the larger of that and 0.03
    assert holm({"a": 0.03, "b": 0.01, "c": 0.02}) == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.04})


def test_a_familys_p_value_counts_its_columns() -> None:
    changes = [Change("one", name, "KS", 0.1, p_value) for name, p_value in (("a", 0.01), ("b", 0.5))]
    changes.append(Change("two", "c", "KS", 0.1, 0.3))
    assert family_p_values(changes) == pytest.approx({"one": 0.04, "two": 0.3})


def test_the_joint_test_has_half_of_the_false_alarms() -> None:
    changes = [Change("one", "a", "KS", 0.1, 0.01), Change("joint", "all", "T2", 0.1, 0.004)]
    changes.append(Change("two", "b", "KS", 0.1, 0.3))
    # By hand: 2 · 0.004 for the joint test; by Holm 2 · 0.01 and 0.3 for the others, twice
    assert family_p_values(changes) == pytest.approx({"joint": 0.008, "one": 0.04, "two": 0.6})
