from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest

from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.report import evaluation_page
from gauntlet.tasks.classification.scorecard import (
    ChampionFailure,
    ChampionPredictions,
    Scoring,
    assess,
)
from gauntlet.tasks.classification.scores import Scores

CLASSES = ("joy", "fear", "love")
SETTINGS = Evaluation(bootstrap_resamples=500, confidence=0.9, worst_mistakes=2)
LABELS = np.array([0] * 20 + [1] * 20 + [2] * 20)
TEXTS = [f"row {row}" for row in range(len(LABELS))]


def answers(predicted: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.where(np.eye(len(CLASSES), dtype=bool)[predicted], 0.8, 0.1).astype(np.float32)


def wrong_in(*rows: int) -> npt.NDArray[np.int64]:
    predicted = LABELS.copy()
    predicted[list(rows)] = (predicted[list(rows)] + 1) % len(CLASSES)
    return predicted


def scorecard(
    champion: ChampionPredictions | ChampionFailure | None, challenger: npt.NDArray[np.int64] | None = None
) -> Scores:
    predicted = wrong_in(0, 1, 2, 30) if challenger is None else challenger
    return assessed(TEXTS, LABELS, predicted, champion)


def assessed(
    texts: list[str],
    labels: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    champion: ChampionPredictions | ChampionFailure | None = None,
) -> Scores:
    scoring = Scoring(CLASSES)
    mistakes = scoring.mistakes(texts, labels, answers(predicted), SETTINGS.worst_mistakes)
    return assess(labels, predicted, champion, SETTINGS, 0, scoring, mistakes=mistakes)


def test_without_a_champion_nothing_is_compared_and_no_key_is_null() -> None:
    content = scorecard(None).as_json()
    assert set(content) == {"rows", "labels", "confidence", "challenger", "mistakes", "training_overlap"}
    assert (content["rows"], content["confidence"]) == (60, 0.9)
    assert set(content["challenger"]) == {
        "accuracy",
        "macro_f1",
        "weighted_f1",
        "per_class",
        "confusion",
        "intervals",
        "lower_bounds",
    }
    assert content["challenger"]["accuracy"] == pytest.approx(56 / 60)
    assert set(content["challenger"]["intervals"]) == {"macro_f1", "weighted_f1", "accuracy"}
    assert set(content["challenger"]["lower_bounds"]) == {"macro_f1", "accuracy"}
    assert len(content["mistakes"]) == 2
    assert json.loads(json.dumps(content, allow_nan=False))["labels"] == list(CLASSES)


def test_an_interval_holds_the_figure_and_the_one_sided_bound_lies_above_its_lower_end() -> None:
    challenger = scorecard(None).challenger
    for figure in ("macro_f1", "accuracy"):
        low, high = challenger.intervals[figure]
        assert low < challenger.lower_bounds[figure] < getattr(challenger, figure) < high


def test_the_champion_is_measured_on_the_same_rows_and_the_difference_is_paired() -> None:
    content = scorecard(ChampionPredictions("4", wrong_in(0, 1, 2, 30, 31, 32, 33))).as_json()
    assert content["champion"]["version"] == "4"
    assert content["champion"]["accuracy"] == pytest.approx(53 / 60)
    paired = content["paired"]
    difference = content["challenger"]["macro_f1"] - content["champion"]["macro_f1"]
    assert paired["macro_f1_difference"] == pytest.approx(difference)
    # the challenger errs on a subset of the champion's rows: no resample makes it worse
    assert 0 <= paired["lower_bound"] < difference < paired["upper_bound"]
    ours, theirs = (content[model]["per_class"] for model in ("challenger", "champion"))
    assert paired["class_f1_difference"] == pytest.approx(
        {label: ours[c]["f1"] - theirs[c]["f1"] for c, label in enumerate(CLASSES)}
    )
    for label, (low, high) in paired["class_f1_intervals"].items():
        assert low <= paired["class_f1_difference"][label] <= high


SEEN = np.arange(60) // 10 == 1
"""Rows 10 to 19, half of joy's, are the champion's training rows."""


def test_models_are_compared_on_the_rows_that_neither_was_trained_on() -> None:
    theirs = wrong_in(0, 1, 2, 30, 31, 32, 33)
    compared = scorecard(ChampionPredictions("4", theirs, SEEN))
    clean = ~SEEN
    alone = assessed(
        [text for text, kept in zip(TEXTS, clean, strict=True) if kept],
        LABELS[clean],
        wrong_in(0, 1, 2, 30)[clean],
        ChampionPredictions("4", theirs[clean]),
    )
    assert (compared.champion, compared.paired) == (alone.champion, alone.paired)
    assert compared.challenger_on_clean_rows == alone.challenger
    assert compared.champion is not None and compared.champion.accuracy == pytest.approx(43 / 50)
    assert compared.challenger.accuracy == pytest.approx(56 / 60)  # its own figures are of all rows
    overlap = compared.training_overlap
    assert (overlap.champion, overlap.clean_rows) == (10, 50)
    assert "10 of 60 test rows were in the champion's training split; compared on the 50 clean" in (
        overlap.summary
    )


def test_a_class_without_clean_rows_is_named() -> None:
    overlap = scorecard(ChampionPredictions("4", LABELS, LABELS == 1)).training_overlap
    assert overlap.classes_without_clean_rows == ("fear",)


def test_a_champion_that_was_trained_on_every_test_row_cannot_be_compared() -> None:
    content = scorecard(ChampionPredictions("4", LABELS, SEEN | True)).as_json()
    assert "champion" not in content
    assert content["champion_error"].startswith("60 of 60 test rows were in the champion's training split")


def test_the_report_says_that_the_differences_are_of_the_clean_rows() -> None:
    page = evaluation_page(scorecard(ChampionPredictions("4", wrong_in(0, 1, 2, 30, 31), SEEN)), "emotion")
    assert "10 of 60 test rows were in the champion&#39;s training split" in page
    assert "all differences are of the 50 clean rows" in page
    assert "On the same resampled clean rows" in page


def test_a_model_compared_with_itself_differs_by_exactly_nothing() -> None:
    paired = scorecard(ChampionPredictions("1", wrong_in(0, 1, 2, 30))).paired
    assert paired is not None
    assert (paired.lower_bound, paired.macro_f1_difference, paired.upper_bound) == (0, 0, 0)


def test_a_models_own_bounds_do_not_depend_on_what_it_is_compared_with() -> None:
    assert scorecard(None).challenger == scorecard(ChampionPredictions("4", wrong_in(5))).challenger


def test_a_champion_that_failed_is_told_apart_from_no_champion() -> None:
    content = scorecard(ChampionFailure("version 3 cannot be read")).as_json()
    assert content["champion_error"] == "version 3 cannot be read"
    assert "champion" not in content
    assert "paired" not in content


def test_the_headline_has_the_comparison_only_when_there_is_one() -> None:
    alone = scorecard(None).headline()
    assert alone["macro_f1_lower_bound"] < alone["macro_f1"] < 1
    assert set(alone) == {
        "accuracy",
        "macro_f1",
        "weighted_f1",
        "accuracy_lower_bound",
        "macro_f1_lower_bound",
    }
    compared = scorecard(ChampionPredictions("4", wrong_in(5))).headline()
    assert compared["macro_f1"] - compared["champion_macro_f1"] == pytest.approx(
        compared["macro_f1_difference"]
    )


def test_the_report_shows_figures_confusion_and_mistakes_and_loads_nothing() -> None:
    page = evaluation_page(scorecard(None), "emotion")
    assert "0.9333" in page  # 56 of 60
    assert "No champion is registered yet" in page
    assert ">17</td>" in page  # joy: 17 of 20 right
    assert "row 0" in page
    for loading in ("<script", "<link", "src=", "@import", "http:", "https:"):
        assert loading not in page


def test_the_report_puts_the_champion_beside_the_challenger() -> None:
    page = evaluation_page(scorecard(ChampionPredictions("4", wrong_in(*range(0, 12, 2)))), "emotion")
    assert "Champion, version 4" in page
    assert page.count('<table class="matrix">') == 2
    assert "+0.0" in page


def test_the_report_warns_of_a_champion_that_failed() -> None:
    page = evaluation_page(scorecard(ChampionFailure("version 3 cannot be read")), "emotion")
    assert "The champion could not be compared" in page
    assert "version 3 cannot be read" in page
    assert "No champion is registered yet" not in page


def test_the_report_shows_hostile_text_as_text() -> None:
    texts = ["<script>alert(1)</script>"] * len(LABELS)
    hostile = assessed(texts, LABELS, wrong_in(0))
    assert "<script" not in evaluation_page(hostile, "emotion")
    assert "&lt;script&gt;" in evaluation_page(hostile, "emotion")
