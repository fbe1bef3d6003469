from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, mean_absolute_error

from gauntlet.components import bootstrap
from gauntlet.tasks.classification.metrics import resample, resamples_of, single_sets
from gauntlet.tasks.ordinal_grading.metrics import resampled_grade_metrics

CLASSES = 4
Indices = npt.NDArray[np.int64]


def weighted_metrics(
    weights: Indices, labels: Indices, predicted: Indices, classes: int
) -> bootstrap.Metrics:
    return resampled_grade_metrics(
        resamples_of(weights.astype(np.float64), labels, predicted, single_sets(classes))
    )


def noisy(labels: Indices, accuracy: float, generator: np.random.Generator) -> Indices:
    """Predictions that are right for about `accuracy` of the rows, and random for the others."""
    right = generator.random(len(labels)) < accuracy
    return np.where(right, labels, generator.integers(0, CLASSES, len(labels)))


@pytest.fixture(scope="module")
def rows() -> tuple[Indices, Indices, Indices]:
    generator = np.random.default_rng(7)
    labels = generator.choice(CLASSES, size=240, p=[0.5, 0.3, 0.15, 0.05])
    return labels, noisy(labels, 0.85, generator), noisy(labels, 0.75, generator)


def test_figures_of_weighted_rows_are_scikit_learns_with_the_weights_as_sample_weight(
    rows: tuple[Indices, Indices, Indices],
) -> None:
    labels, predicted, _ = rows
    weights = np.random.default_rng(1).integers(0, 4, (20, len(labels)))
    figures = weighted_metrics(weights, labels, predicted, CLASSES)
    for draw, weight in enumerate(weights):
        settings = {"sample_weight": weight, "labels": range(CLASSES), "zero_division": 0}
        assert figures["accuracy"][draw] == pytest.approx(
            accuracy_score(labels, predicted, sample_weight=weight)
        )
        assert figures["macro_f1"][draw] == pytest.approx(
            f1_score(labels, predicted, average="macro", **settings)
        )
        assert figures["weighted_f1"][draw] == pytest.approx(
            f1_score(labels, predicted, average="weighted", **settings)
        )
        assert figures["class_f1"][draw] == pytest.approx(
            f1_score(labels, predicted, average=None, **settings)
        )
        assert figures["mae"][draw] == pytest.approx(
            mean_absolute_error(labels, predicted, sample_weight=weight)
        )
        kappa = cohen_kappa_score(labels, predicted, weights="quadratic", sample_weight=weight)
        assert figures["qwk"][draw] == pytest.approx(kappa)


def test_kappa_is_0_where_a_resample_left_one_grade_alone() -> None:
    figures = weighted_metrics(np.array([[3, 0]]), np.array([0, 1]), np.array([0, 1]), 2)
    assert (figures["qwk"].tolist(), figures["mae"].tolist()) == ([0.0], [0.0])


def test_a_class_that_a_resample_lost_counts_as_zero() -> None:
    figures = weighted_metrics(np.array([[3, 0]]), np.array([0, 1]), np.array([0, 1]), 2)
    assert figures["class_f1"].tolist() == [[1.0, 0.0]]
    assert figures["macro_f1"].tolist() == [0.5]
    assert figures["weighted_f1"].tolist() == [1.0]


def test_bounds_agree_with_a_plain_loop_over_resampled_rows_scored_by_scikit_learn(
    rows: tuple[Indices, Indices, Indices],
) -> None:
    labels, better, worse = rows
    generator = np.random.default_rng(3)
    macro_f1, differences = [], []
    for _ in range(500):
        drawn = generator.integers(0, len(labels), len(labels))
        ours, theirs = (
            f1_score(labels[drawn], model[drawn], average="macro", labels=range(CLASSES), zero_division=0)
            for model in (better, worse)
        )
        macro_f1.append(ours)
        differences.append(ours - theirs)

    ours, theirs = resample(labels, [better, worse], single_sets(CLASSES), resamples=4_000, seed=0)
    # a 5 % quantile of 500 draws has a standard error of about 0.1 standard deviations
    for fast, plain in ((ours["macro_f1"], macro_f1), (ours["macro_f1"] - theirs["macro_f1"], differences)):
        tolerance = 0.4 * np.std(plain)
        assert np.std(fast) == pytest.approx(np.std(plain), rel=0.15)
        assert bootstrap.lower_bound(fast, 0.95) == pytest.approx(np.quantile(plain, 0.05), abs=tolerance)
        assert bootstrap.upper_bound(fast, 0.95) == pytest.approx(np.quantile(plain, 0.95), abs=tolerance)
        assert bootstrap.interval(fast, 0.95) == pytest.approx(
            np.quantile(plain, [0.025, 0.975]), abs=tolerance
        )


def test_resampled_accuracy_follows_the_binomial_distribution() -> None:
    labels = np.zeros(100, dtype=np.int64)
    predicted = np.array([0] * 80 + [1] * 20)
    (figures,) = resample(labels, [predicted], single_sets(2), resamples=20_000, seed=0)
    assert bootstrap.lower_bound(figures["accuracy"], 0.95) == pytest.approx(
        binom.ppf(0.05, 100, 0.8) / 100, abs=0.01
    )
    assert figures["accuracy"].std() == pytest.approx(np.sqrt(0.8 * 0.2 / 100), rel=0.03)


def test_models_are_scored_on_the_same_resampled_rows(rows: tuple[Indices, Indices, Indices]) -> None:
    labels, better, worse = rows
    same, again = resample(labels, [better, better.copy()], single_sets(CLASSES), 300, seed=0)
    assert np.array_equal(same["macro_f1"], again["macro_f1"])
    assert np.array_equal(same["class_f1"], again["class_f1"])
    paired = resample(labels, [better, worse], single_sets(CLASSES), 2_000, seed=0)
    apart = [
        resample(labels, [m], single_sets(CLASSES), 2_000, seed=s)[0] for s, m in ((1, better), (2, worse))
    ]
    difference_paired = (paired[0]["accuracy"] - paired[1]["accuracy"]).std()
    difference_apart = (apart[0]["accuracy"] - apart[1]["accuracy"]).std()
    # Var(a - b) of the rows themselves, by hand: the correlation of the two models is in it
    row_difference = (better == labels).astype(float) - (worse == labels)
    assert difference_paired == pytest.approx(row_difference.std() / np.sqrt(len(labels)), rel=0.06)
    assert difference_paired < difference_apart


def test_the_seed_alone_decides_the_draws(
    rows: tuple[Indices, Indices, Indices], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, predicted, _ = rows
    (first,) = resample(labels, [predicted], single_sets(CLASSES), 200, seed=5)
    monkeypatch.setattr(bootstrap, "DRAWS_IN_MEMORY", 7)  # one resample at a time
    (blocked,) = resample(labels, [predicted], single_sets(CLASSES), 200, seed=5)
    (other,) = resample(labels, [predicted], single_sets(CLASSES), 200, seed=6)
    assert np.array_equal(first["macro_f1"], blocked["macro_f1"])
    assert np.array_equal(first["class_f1"], blocked["class_f1"])
    assert not np.array_equal(first["macro_f1"], other["macro_f1"])


def test_a_perfect_model_has_no_doubt() -> None:
    labels = np.repeat(np.arange(3), 50)
    (figures,) = resample(labels, [labels], single_sets(3), resamples=500, seed=0)
    assert bootstrap.interval(figures["macro_f1"], 0.95) == (1.0, 1.0)
    assert bootstrap.lower_bound(figures["accuracy"], 0.95) == 1.0


def test_two_thousand_paired_resamples_of_five_thousand_rows_take_seconds() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 5_000)
    models = [noisy(labels, accuracy, generator) for accuracy in (0.9, 0.85)]
    start = time.process_time()
    resample(labels, models, single_sets(CLASSES), resamples=2_000, seed=0)
    assert time.process_time() - start < 5
