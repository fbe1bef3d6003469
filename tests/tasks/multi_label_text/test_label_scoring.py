"""What evaluate-model finds about several labels per text, and what the gate makes of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from gauntlet.components.gate_model.rules import Documents, judge
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import number_sets
from gauntlet.tasks.classification.report import evaluation_page
from gauntlet.tasks.classification.scorecard import ChampionPredictions, assess
from gauntlet.tasks.classification.scores import Scores
from gauntlet.tasks.multi_label_text.evaluation import LabelScoring
from gauntlet.tasks.multi_label_text.gates import RULES
from gauntlet.tasks.multi_label_text.manifest import MultiLabelGates

CLASSES = ("joy", "fear", "anger, rage")
SETTINGS = Evaluation(bootstrap_resamples=2_000, confidence=0.95, worst_mistakes=3)
THRESHOLDS = np.array([0.5, 0.4, 0.9], dtype=np.float32)
ROWS = 400


def drawn() -> tuple[Any, Any]:
    """True labels and probabilities: joy is told well, fear half, and the third never reaches 0.9."""
    generator = np.random.default_rng(3)
    truth = generator.random((ROWS, 3)) < (0.6, 0.3, 0.05)
    noise = generator.random((ROWS, 3))
    probabilities = np.where(noise < (0.9, 0.7, 0.0), truth * 0.7 + 0.15, 0.3).astype(np.float32)
    return truth, probabilities


def scored(champion: Any = None) -> Scores:
    truth, probabilities = drawn()
    answers = probabilities >= THRESHOLDS
    sets, (labels, ours, theirs) = number_sets(truth, answers, answers if champion is None else champion)
    scoring = LabelScoring(CLASSES, sets, THRESHOLDS)
    mistakes = scoring.mistakes([f"text {row}" for row in range(ROWS)], labels, probabilities, 3)
    compared = None if champion is None else ChampionPredictions("3", theirs)
    return assess(labels, ours, compared, SETTINGS, 0, scoring, mistakes=mistakes)


def test_figures_are_scikit_learns() -> None:
    truth, probabilities = drawn()
    given, ours = probabilities >= THRESHOLDS, scored().challenger
    assert ours.macro_f1 == pytest.approx(f1_score(truth, given, average="macro", zero_division=0))
    assert ours.micro_f1 == pytest.approx(f1_score(truth, given, average="micro"))
    assert ours.accuracy == pytest.approx(accuracy_score(truth, given))
    figures = precision_recall_fscore_support(truth, given, zero_division=0)
    for c, one in enumerate(ours.per_class):
        found = (one.precision, one.recall, one.f1, one.support)
        assert found == pytest.approx(tuple(figure[c] for figure in figures))
        assert one.predicted == given[:, c].sum()
    assert [one.threshold for one in ours.per_class] == pytest.approx([0.5, 0.4, 0.9])


def test_limits_are_those_of_rows_drawn_one_by_one() -> None:
    truth, probabilities = drawn()
    given = probabilities >= THRESHOLDS
    generator = np.random.default_rng(1)
    samples = [generator.integers(0, ROWS, ROWS) for _ in range(1_000)]
    micro = [f1_score(truth[rows], given[rows], average="micro") for rows in samples]
    fear = [f1_score(truth[rows, 1], given[rows, 1]) for rows in samples]
    ours = scored().challenger
    assert ours.intervals["micro_f1"] == pytest.approx(tuple(np.quantile(micro, [0.025, 0.975])), abs=0.006)
    assert ours.lower_bounds["micro_f1"] == pytest.approx(np.quantile(micro, 0.05), abs=0.006)
    assert ours.per_class[1].f1_lower_bound == pytest.approx(np.quantile(fear, 0.05), abs=0.01)


def test_the_surest_wrong_decisions_come_first() -> None:
    mistakes = scored().mistakes
    truth, probabilities = drawn()
    # A row that has the third label is never given it, so its absence is often a mistake.
    wrong = np.where(probabilities >= THRESHOLDS, probabilities, 1 - probabilities)
    wrong = (wrong * ((probabilities >= THRESHOLDS) != truth)).max(axis=1)
    assert [one.confidence for one in mistakes] == pytest.approx(sorted(wrong)[::-1][:3])
    assert all(one.label != one.predicted for one in mistakes)


def test_the_champion_is_compared_on_the_same_rows_label_by_label() -> None:
    truth, _ = drawn()
    weak = truth.copy()
    weak[:200, 0] = ~weak[:200, 0]
    content = scored(weak)
    assert content.paired is not None and content.champion is not None
    difference = content.challenger.macro_f1 - content.champion.macro_f1  # type: ignore[operator]
    assert content.paired.macro_f1_difference == pytest.approx(difference)
    assert content.paired.lower_bound < difference < content.paired.upper_bound  # type: ignore[operator]
    assert set(content.paired.class_f1_difference) == set(CLASSES)
    low, high = content.paired.class_f1_intervals["joy"]
    assert 0 < low < content.paired.class_f1_difference["joy"] < high  # type: ignore[operator]
    assert content.champion.per_class[0].threshold is None  # the challenger's are its own


def judged(name: str, scores: Scores, **gates: Any) -> Any:
    section = MultiLabelGates(min_macro_f1=0.1, **gates).model_dump(mode="json")
    documents = Documents(section, json.loads(json.dumps(scores.as_json())))
    return judge(next(rule for rule in RULES if rule.name == name), documents)


def test_a_label_that_no_row_reaches_is_named_in_the_report_and_by_the_gate() -> None:
    scores = scored()
    page = evaluation_page(scores, "emotions")
    assert "No test row reaches the threshold of anger, rage, so the model never gives this label." in page
    assert "0.900" in page
    found = judged("label_f1", scores, min_label_f1=0.1)
    assert (found.verdict, found.value, found.bound) == ("fail", 0.0, 0.1)
    assert found.note.endswith("label's F1: anger, rage; no test row reaches its threshold")
    assert judged("label_f1", scores).verdict == "pass"  # no floor
    assert "no test row reaches" in judged("label_f1", scores).note


def test_floors_of_single_labels_hold_for_the_lower_limit() -> None:
    scores = scored()
    limit = scores.challenger.per_class[1].recall_lower_bound
    assert limit is not None and limit < scores.challenger.per_class[1].recall  # type: ignore[operator]
    assert judged("label_recall", scores, min_label_recall={"fear": limit - 0.01}).verdict == "pass"
    failed = judged("label_recall", scores, min_label_recall={"fear": limit + 0.01})
    assert (failed.verdict, failed.bound) == ("fail", pytest.approx(limit + 0.01))
    assert failed.note == "Bootstrap lower limit of a label's recall: fear"


@pytest.mark.parametrize("broken", [None, [], [{"label": "joy"}], [{"label": "joy", "f1_lower_bound": 2}]])
def test_scores_without_a_labels_limit_fail_the_rule(broken: Any) -> None:
    content = scored().as_json()
    content["challenger"]["per_class"] = broken
    documents = Documents(MultiLabelGates(min_macro_f1=0.1).model_dump(mode="json"), content)
    assert judge(next(rule for rule in RULES if rule.name == "label_f1"), documents).verdict == "fail"
