"""Tables of texts with numbers: what the checks find, where, and how the splits are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gauntlet.components.validate_data.checks import Examination
from gauntlet.contracts.data import CheckResult
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.regression.data import Statistics, examine, read_number, sources
from gauntlet.tasks.regression.manifest import RegressionDataset
from gauntlet.tasks.regression.tiny import write_texts
from gauntlet.tasks.texts.data import CheckedTexts
from tests.text_tables import texts_of


def dataset(uri: Path, **changes: Any) -> RegressionDataset:
    content = {
        "name": "stars",
        "version": "1",
        "uri": str(uri),
        "columns": {"text": "review", "target": "stars"},
    }
    return RegressionDataset.model_validate(content | changes)


@pytest.fixture
def reviews(tmp_path: Path) -> pd.DataFrame:
    """300 different reviews with stars from 1 to 5."""
    write_texts(tmp_path, np.linspace(1, 5, 300), ("review", "stars"))
    return pd.read_csv(tmp_path / "texts.csv", dtype={"stars": str})


def examined(table: pd.DataFrame, folder: Path, **changes: Any) -> Examination:
    table.to_csv(folder / "reviews.csv", index=False)
    return examine(dataset(folder / "reviews.csv", **changes))


def written(found: Examination, split: str) -> pa.Table:
    content = found.content(split)  # type: ignore[arg-type]
    assert isinstance(content, pa.RecordBatchReader)
    return content.read_all()


def result(examination: Examination, check: str) -> CheckResult:
    return next(one for one in examination.checked.results if one.check == check)


def test_a_clean_table_passes_and_its_splits_have_numbers_of_every_range(
    reviews: pd.DataFrame, tmp_path: Path
) -> None:
    found = examined(reviews, tmp_path)
    assert found.checked.failed == () and found.checked.warned == ()
    statistics = found.statistics
    assert isinstance(statistics, Statistics)
    assert sum(statistics.rows.values()) == 300 and statistics.target == "stars"
    for split, rows in statistics.rows.items():
        table = written(found, split)
        assert table.column_names == ["text", "target", "row"]
        targets = table["target"].to_numpy()
        counts, _ = np.histogram(targets, bins=[1, 1.8, 2.6, 3.4, 4.2, 5.01])  # fifths of all numbers
        assert counts.min() >= 10, split
        assert sum(statistics.targets[split].counts) == rows
        assert statistics.targets[split].mean == pytest.approx(targets.mean())
    train = written(found, "train")["target"].to_numpy()
    assert statistics.quantiles[50] == pytest.approx(np.median(train))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("five", "found “five”, expected a number"),
        ("3,5", "found “3,5”, expected a number with a point for its decimals"),
        ("1_000", "found “1_000”, expected a number"),
        ("nan", "found “nan”, expected a finite number"),
        ("-inf", "found “-inf”, expected a finite number"),
        ("1e31", "found “1e31”, expected a finite number of at most 1e+30"),
    ],
)
def test_a_target_that_is_no_number_is_named_with_its_file_and_line(
    value: str, fault: str, reviews: pd.DataFrame, tmp_path: Path
) -> None:
    reviews.loc[7, "stars"] = value
    found = examined(reviews, tmp_path)
    check = result(found, "invalid_targets")
    assert check.verdict == "fail" and check.rows_affected == 1
    assert check.examples[0].startswith(f"reviews.csv line 9: {fault}")
    assert len(found.checked.rows) == 299, "it cannot be written as a number"


def test_numbers_of_json_are_numbers_and_truth_values_are_not() -> None:
    assert read_number(3) == (3.0, None)
    assert read_number(" 2.5 ") == (2.5, None)
    assert read_number(None) == read_number(float("nan")) == read_number(" ") == (None, None)
    assert read_number(True)[1] is not None
    assert read_number(10**400)[1] is not None
    assert read_number([1])[1] is not None


def test_a_missing_target_is_named_by_its_column(reviews: pd.DataFrame, tmp_path: Path) -> None:
    reviews.loc[0, "stars"] = None
    check = result(examined(reviews, tmp_path), "empty_values")
    assert check.verdict == "fail"
    assert check.examples[0].startswith("reviews.csv line 2: no target for")


def test_a_number_outside_the_declared_range_fails(reviews: pd.DataFrame, tmp_path: Path) -> None:
    found = examined(reviews, tmp_path, target={"min": 1.05, "max": 4})
    check = result(found, "target_range")
    expected = sum(not 1.05 <= float(value) <= 4 for value in reviews["stars"])
    assert check.verdict == "fail" and check.rows_affected == expected
    assert check.examples[0] == "reviews.csv line 2: found 1, expected at least 1.05 and at most 4"


def test_equal_numbers_leave_nothing_to_learn(reviews: pd.DataFrame, tmp_path: Path) -> None:
    check = result(examined(reviews.assign(stars="3"), tmp_path), "constant_target")
    assert check.verdict == "fail"
    assert check.found.startswith("the same target in all ")


def test_a_number_far_from_all_others_is_a_warning(reviews: pd.DataFrame, tmp_path: Path) -> None:
    reviews.loc[5, "stars"] = "500"
    check = result(examined(reviews, tmp_path), "outliers")
    # Of 300 numbers evenly from 1 to 5 the median is 3.01 and the median distance from it 1.003.
    assert check.verdict == "warn" and check.rows_affected == 1
    assert check.examples[0].startswith("reviews.csv line 7: 500 is 334.1 robust standard deviations")
    mostly_zero = reviews.assign(stars=["0"] * 290 + ["1"] * 9 + ["90"])
    found = result(examined(mostly_zero, tmp_path), "outliers")
    assert found.rows_affected == 1, "a median distance of 0 does not make every other number an outlier"


def test_the_same_text_with_another_number_conflicts_beyond_the_tolerance(
    reviews: pd.DataFrame, tmp_path: Path
) -> None:
    doubled = pd.concat([reviews, reviews.iloc[[10]].assign(stars="1.6")], ignore_index=True)
    first = float(reviews.at[10, "stars"])
    check = result(examined(doubled, tmp_path), "conflicting_targets")
    assert check.verdict == "fail" and check.rows_affected == 2
    assert f"{first:g} (reviews.csv line 12), 1.6 (reviews.csv line 302)" in check.examples[0]
    tolerant = examined(doubled, tmp_path, target={"tolerance": 0.5})
    assert result(tolerant, "conflicting_targets").verdict == "pass"
    assert result(tolerant, "exact_duplicates").rows_affected == 1


def test_near_duplicates_lie_in_one_split(reviews: pd.DataFrame, tmp_path: Path) -> None:
    long = " ".join(f"word{number}" for number in range(30))
    twins = pd.DataFrame({"review": [f"{long} x{at}" for at in range(40)], "stars": ["2"] * 20 + ["4"] * 20})
    found = examined(pd.concat([reviews, twins], ignore_index=True), tmp_path)
    assert isinstance(found.checked, CheckedTexts)
    rows = texts_of(found.checked)
    assert rows.loc[rows["text"].str.startswith("word0"), "split"].nunique() == 1


def test_rows_of_the_test_file_in_the_training_file_leak(reviews: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    reviews.iloc[:220].to_csv(tmp_path / "data" / "train.csv", index=False)
    reviews.iloc[200:].to_csv(tmp_path / "data" / "test.csv", index=False)
    check = result(examine(dataset(tmp_path / "data")), "leakage")
    assert check.verdict == "fail" and check.rows_affected == 20


def test_a_split_with_few_rows_fails(reviews: pd.DataFrame, tmp_path: Path) -> None:
    found = examined(reviews.iloc[::10], tmp_path)
    check = result(found, "rows_per_split")
    assert check.verdict == "fail" and "rows in test" in check.found
    assert check.settings["dataset.checks.rows_per_split.min_rows"] >= 2


def test_jsonl_and_parquet_have_the_same_content_as_csv(reviews: pd.DataFrame, tmp_path: Path) -> None:
    csv = examined(reviews, tmp_path)
    numbers = reviews.assign(stars=reviews["stars"].astype(float))
    lines = [json.dumps(row) for row in numbers.to_dict("records")]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    numbers.to_parquet(tmp_path / "reviews.parquet")
    for name in ("reviews.jsonl", "reviews.parquet"):
        assert examine(dataset(tmp_path / name)).statistics.sha256 == csv.statistics.sha256
    assert sources(dataset(tmp_path / "reviews.csv")) == (str(tmp_path / "reviews.csv"),)


def test_a_missing_column_is_named_by_the_key_of_the_manifest(reviews: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column stars: set dataset\.columns\.target to one of"):
        examined(reviews.rename(columns={"stars": "score"}), tmp_path)
