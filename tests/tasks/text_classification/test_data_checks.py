from __future__ import annotations

import re
from typing import Any

import pytest

from gauntlet.contracts.data import CheckResult
from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.text_classification.data import check_table
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.data import CheckedTexts
from tests.text_tables import TextRow, text_rows, texts_of

LABELS = ("joy", "fear")
ORDER = (
    "encoding",
    "empty_values",
    "unknown_labels",
    "text_length",
    "conflicting_labels",
    "exact_duplicates",
    "near_duplicates",
    "leakage",
    "rows_per_class",
    "class_balance",
)
TEN = "alpha bravo charlie delta echo foxtrot golf hotel india juliett"
NINE = "alpha bravo charlie delta echo foxtrot golf hotel india"


def _filler(rows: int) -> list[TextRow]:
    """Clean rows, `rows` of each label in each split, no two alike."""
    return [
        (f"filler {label} {split} {number}", label, split)
        for label in LABELS
        for split in SPLITS
        for number in range(rows)
    ]


def _inspect(
    rows: list[TextRow], faults: dict[int, str] | None = None, **checks: Any
) -> tuple[CheckedTexts, dict[str, CheckResult]]:
    table = text_rows(rows, faults)
    dataset = TextDataset.model_validate(
        {"name": "d", "version": "1", "uri": "/d", "labels": LABELS, "checks": checks}
    )
    checked = check_table(table, dataset)
    return checked, {result.check: result for result in checked.results}


def _texts(checked: CheckedTexts, split: str) -> list[str]:
    table = texts_of(checked)
    kept = table[(table["split"] == split) & ~table["text"].str.startswith("filler")]
    return kept["text"].tolist()


def test_clean_data_passes_every_check_in_the_documented_order() -> None:
    checked, results = _inspect(_filler(10))
    assert tuple(results) == ORDER
    assert {result.verdict for result in results.values()} == {"pass"}
    assert len(checked.rows) == 60


def test_every_check_reports_though_others_failed_before_it() -> None:
    rows = [
        *_filler(10),
        ("bad bytes", "joy", "train"),
        (None, "joy", "train"),
        ("label of no set", "3,4", "train"),
        ("x" * 3000, "joy", "train"),
        ("both ways", "joy", "train"),
        ("Both ways!", "fear", "train"),
        ("twice", "joy", "train"),
        ("Twice.", "joy", "train"),
        (TEN, "joy", "train"),
        (NINE, "joy", "train"),
        ("in two splits", "joy", "train"),
        ("in two splits", "joy", "test"),
    ]
    checked, results = _inspect(
        rows,
        faults={60: "byte 0xe9"},
        near_duplicates={"severity": "fail"},
        rows_per_class={"min_rows": 12},
        class_balance={"max_ratio": 1.5},
    )
    assert {name: result.rows_affected for name, result in results.items() if name in ORDER[:8]} == {
        "encoding": 1,
        "empty_values": 1,
        "unknown_labels": 1,
        "text_length": 1,
        "conflicting_labels": 2,
        "exact_duplicates": 1,
        "near_duplicates": 1,
        "leakage": 1,
    }
    assert [result.check for result in checked.failed] == list(ORDER)
    assert results["leakage"].fraction == pytest.approx(1 / 72)


@pytest.mark.parametrize(
    ("severity", "max_fraction", "verdict", "kept"),
    [
        ("fail", 0.0, "fail", 2),
        ("fail", 1 / 62, "pass", 2),
        ("warn", 0.0, "warn", 2),
        ("warn", 1 / 62, "pass", 2),
        ("drop", 0.0, "fail", 1),
        ("drop", 1 / 62, "drop", 1),
    ],
)
def test_severity_and_bound_decide_what_becomes_of_a_row(
    severity: str, max_fraction: float, verdict: str, kept: int
) -> None:
    rows = [*_filler(10), ("again", "joy", "train"), ("again", "joy", "train")]
    checked, results = _inspect(rows, exact_duplicates={"severity": severity, "max_fraction": max_fraction})
    assert results["exact_duplicates"].verdict == verdict
    assert results["exact_duplicates"].rows_dropped == 2 - kept
    assert len(_texts(checked, "train")) == kept


def test_a_text_within_both_length_bounds_passes() -> None:
    rows = [*_filler(10), ("x" * 5, "joy", "train"), ("y" * 40, "joy", "train"), ("z" * 41, "joy", "train")]
    checked, results = _inspect(
        rows, text_length={"severity": "drop", "max_fraction": 1, "min_chars": 5, "max_chars": 40}
    )
    assert results["text_length"].rows_affected == 1
    assert _texts(checked, "train") == ["x" * 5, "y" * 40]


@pytest.mark.parametrize("severity", ["warn", "drop"])
def test_a_row_that_cannot_be_trained_on_leaves_whatever_the_severity(severity: str) -> None:
    rows = [*_filler(10), (None, "joy", "train"), ("no label", None, "train"), ("odd label", "?", "test")]
    setting = {"severity": severity, "max_fraction": 0.5}
    checked, results = _inspect(rows, empty_values=setting, unknown_labels=setting)
    assert results["empty_values"].rows_dropped == 2
    assert results["unknown_labels"].rows_dropped == 1
    assert len(checked.rows) == 60
    assert "train.csv line 60: no text" in results["empty_values"].examples
    assert "test.csv line 62: label “?” of “odd label”" in results["unknown_labels"].examples


def test_a_dropped_row_does_not_count_in_a_later_check() -> None:
    rows = [*_filler(10), ("again", "joy", "train"), ("again", "?", "train")]
    _, results = _inspect(rows, unknown_labels={"severity": "drop", "max_fraction": 1})
    assert results["exact_duplicates"].rows_affected == 0
    assert results["conflicting_labels"].rows_affected == 0


def test_conflicts_are_dropped_from_train_and_validation_and_left_in_test() -> None:
    rows = [
        *_filler(10),
        ("torn", "joy", "train"),
        ("torn", "fear", "train"),
        ("torn", "joy", "validation"),
        ("Torn!", "joy", "test"),
        ("torn", "fear", "test"),
    ]
    checked, results = _inspect(rows, conflicting_labels={"severity": "drop", "max_fraction": 1})
    assert (results["conflicting_labels"].rows_affected, results["conflicting_labels"].rows_dropped) == (5, 3)
    assert _texts(checked, "train") == _texts(checked, "validation") == []
    assert _texts(checked, "test") == ["Torn!", "torn"]


def test_of_near_duplicates_the_first_is_kept_and_a_row_alike_to_a_dropped_one_stays() -> None:
    eight = NINE.rsplit(" ", 1)[0]  # 8/9 of NINE, 8/10 of TEN
    rows = [*_filler(10), (TEN, "joy", "train"), (NINE, "fear", "train"), (eight, "joy", "train")]
    checked, results = _inspect(
        rows, near_duplicates={"severity": "drop", "max_fraction": 1, "similarity": 0.85}
    )
    assert results["near_duplicates"].rows_affected == 1
    assert _texts(checked, "train") == [TEN, eight]
    assert results["near_duplicates"].examples[0].endswith("0.90")


def test_an_exact_duplicate_is_no_near_duplicate_and_another_split_is_leakage() -> None:
    rows = [*_filler(10), (TEN, "joy", "train"), (TEN, "joy", "train"), (NINE, "joy", "test")]
    _, results = _inspect(rows)
    assert results["exact_duplicates"].rows_affected == 1
    assert results["near_duplicates"].rows_affected == 0
    assert results["leakage"].rows_affected == 2


def test_leaks_are_dropped_from_train_for_validation_and_from_validation_for_test() -> None:
    rows = [
        *_filler(10),
        ("seen in validation", "joy", "train"),
        ("Seen in validation!", "joy", "validation"),
        ("seen in test", "joy", "validation"),
        ("seen in test", "joy", "test"),
        (TEN, "fear", "train"),
        (NINE, "fear", "test"),
    ]
    checked, results = _inspect(rows, leakage={"severity": "drop", "max_fraction": 1})
    assert results["leakage"].rows_dropped == 3
    assert _texts(checked, "train") == []
    assert _texts(checked, "validation") == ["Seen in validation!"]
    assert _texts(checked, "test") == ["seen in test", NINE]


def test_a_looser_similarity_finds_more_leaks() -> None:
    rows = [*_filler(10), (TEN, "joy", "train"), (NINE.rsplit(" ", 1)[0], "joy", "test")]
    assert _inspect(rows)[1]["leakage"].rows_affected == 0
    assert _inspect(rows, leakage={"similarity": 0.8})[1]["leakage"].rows_affected == 1


def test_classes_that_are_short_or_absent_are_named_with_their_split() -> None:
    rows = [row for row in _filler(10) if row[1:] != ("fear", "test")]
    _, results = _inspect(rows, rows_per_class={"min_rows": 10})
    assert results["rows_per_class"].verdict == "fail"
    assert results["rows_per_class"].found == "fear has 0 in test"


def test_near_duplicates_that_tie_a_class_to_one_split_are_named() -> None:
    rows = [(f"the very same nine words of a template {n}", "fear", "train") for n in range(60)]
    rows += [(f"joy number {n} of {n * 31}", "joy", "train") for n in range(90)]
    _, results = _inspect(
        rows,
        rows_per_class={"min_rows": 10},
        near_duplicates={"severity": "warn", "similarity": 0.8},
        leakage={"similarity": 0.8},
    )
    found = results["rows_per_class"].found
    assert re.search(r"fear has 0 in \w+, fear has 0 in \w+; ", found)
    assert "60 of the 60 rows of fear are near-duplicates of each other, so they stay together, in " in found


def test_data_of_one_class_fails_by_name() -> None:
    _, results = _inspect([row for row in _filler(10) if row[1] == "joy"])
    assert (
        results["rows_per_class"].found == "fear has 0 in train, fear has 0 in validation, fear has 0 in test"
    )
    assert results["class_balance"].verdict == "fail"
    assert results["class_balance"].found == "no ratio, for fear has no rows"


def test_the_balance_is_the_largest_over_the_smallest_training_class() -> None:
    rows = _filler(10) + [(f"more joy {number}", "joy", "train") for number in range(15)]
    _, results = _inspect(rows, class_balance={"max_ratio": 2.5})
    assert results["class_balance"].verdict == "pass"
    assert results["class_balance"].found == "2.5 times (joy 25, fear 10)"
    _, results = _inspect(rows, class_balance={"max_ratio": 2.4, "severity": "warn"})
    assert results["class_balance"].verdict == "warn"
    assert results["class_balance"].rows_affected == 10


def test_when_nothing_is_left_every_check_still_reports() -> None:
    checked, results = _inspect([("a", "?", "train"), (None, "joy", "train")])
    assert tuple(results) == ORDER
    assert checked.rows.empty
    assert results["unknown_labels"].verdict == results["rows_per_class"].verdict == "fail"


def test_unknown_labels_are_listed_with_their_rows_and_the_nearest_known_label() -> None:
    unknown = ["acount"] + ["billing"] * 12 + ["Joy"] * 2
    rows = _filler(10) + [(f"text {number}", label, "train") for number, label in enumerate(unknown)]
    _, results = _inspect(rows)
    assert results["unknown_labels"].rows_affected == 15
    assert results["unknown_labels"].examples[:3] == (
        "label “billing”: 12 rows",
        "label “Joy”: 2 rows, nearest: joy",
        "label “acount”: 1 row",
    )
