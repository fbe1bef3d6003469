"""The benchmark of drift detection: what its shifts change, and when its aims count as met."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drift_detection import (
    CELLS,
    KS,
    OURS,
    SIZES,
    Job,
    Plan,
    Speed,
    Table,
    draw,
    exceeding,
    judge_power,
    judge_speed,
    most_alarms,
    powers,
    rows_to_proof,
)


@pytest.fixture
def table() -> Table:
    """40 rows of two classes, the same with typos and longer, and 10 others."""
    labels = np.array([*[0, 1] * 60, *[-1] * 10])
    return Table(
        names=("characters", "probabilities[0]", "probabilities[1]"),
        numbers=np.arange(390.0).reshape(130, 3),
        classes=np.where(np.arange(130) % 10 == 0, 1 - labels, labels).clip(0),
        labels=labels,
        rows=40,
        has_word=np.arange(40)[None] < 20,
    )


def windows_of(job: Job, shift: str, size: float) -> np.ndarray:
    return job.windows[job.group == CELLS.index((shift, size))]


def test_a_shift_changes_its_share_of_the_rows(table: Table) -> None:
    job = draw(table, Plan(splits=2, reference=0.5), rows=20, clean=3, shifted=2)
    changed = {
        "typos": lambda rows: (rows >= 40) & (rows < 80),
        "length": lambda rows: (rows >= 80) & (rows < 120),
        "domain": lambda rows: rows >= 120,
    }
    for shift, is_changed in changed.items():
        for size in SIZES:
            assert (is_changed(windows_of(job, shift, size)).sum(1) == round(20 * size)).all()
    for at, split in enumerate(job.split):
        assert not np.isin(job.windows[at] % 40, job.references[split])[job.windows[at] < 120].any()
    of_one_class = table.labels[windows_of(job, "label", 0.6)].mean(1)
    assert (np.abs(of_one_class - 0.5) > 0.05).all()
    assert (table.has_word[0][windows_of(job, "subpopulation", 0.6)].mean(1) >= 0.6).all()


def test_a_concept_shift_changes_labels_only(table: Table) -> None:
    job = draw(table, Plan(splits=1), rows=20, clean=40, shifted=40)
    cell = job.group == CELLS.index(("concept", 0.6))
    assert (job.windows[cell] < 40).all()
    wrong = table.wrong[job.windows[cell]]
    assert (
        job.losses[cell] != wrong
    ).sum() == 40 * 12  # with two classes, each changed label is another loss
    assert (job.losses[job.group < 0] == table.wrong[job.windows[job.group < 0]]).all()


def test_all_detectors_have_the_same_rate_of_false_alarms(table: Table) -> None:
    job = draw(table, Plan(splits=2), rows=4, clean=100, shifted=1)
    scores = np.random.default_rng(0).normal(size=len(job.windows)) * 1e6
    fired = exceeding(scores, job)
    assert fired[job.group < 0].mean() == pytest.approx(0.01)
    assert all(power in (0, 0.5, 1) for power in powers(fired, job).values())


def test_the_aims_name_the_best_peer() -> None:
    shifts = ("label", "subpopulation", "typos", "domain", "length", "concept")
    power = {
        OURS: dict.fromkeys(shifts, 0.6),
        KS: dict.fromkeys(shifts, 0.4) | {"typos": 0.7},
        "Gauntlet, e-detector (labels)": dict.fromkeys(shifts, 0.5),
        "other (labels)": dict.fromkeys(shifts, 0.4),
    }
    found = dict(judge_power(power))
    assert found["2. power on typos 0.60, at least KS of probabilities, Bonferroni's 0.70"] is False
    assert found["2. power on concept 0.50, at least other (labels)'s 0.40"] is True
    mean = "3. mean power 0.600, 1.30 times KS of probabilities, Bonferroni's 0.460, at least 1.3"
    assert found[mean] is True
    assert sum(found.values()) == 6


def test_speed_is_compared_with_evidently_at_its_largest_log() -> None:
    ours = {100: Speed(2.5e6, 100.0), 1_000: Speed(3e6, 110.0), 10_000: Speed(1.9e6, 140.0)}
    found = dict(judge_speed({"detect-drift": ours, "evidently": {100: Speed(1e6, 1), 1_000: Speed(1e5, 1)}}))
    assert found == {
        "5. 1,900,000 rows/s of CPU at 10,000 rows, at least 2,000,000": False,
        "5. 30.0 times evidently's rows/s at 1,000 rows, at least 20": True,
        "5. 1.27 times the memory for 10 times the rows, at most 1.2": False,
    }


def test_a_split_may_alarm_as_often_as_the_binomial_distribution_allows() -> None:
    # scipy.stats.binom(500, 0.01).cdf is 0.99935 at 13 and 0.99979 at 14; 0.99 ** (1 / 20) is 0.99950
    assert most_alarms(Plan()) == 14


def test_a_larger_error_is_proven_earlier() -> None:
    assert rows_to_proof(4, 0.1, 0.4) < 100 < rows_to_proof(4, 0.1, 0.25) < 1_000
