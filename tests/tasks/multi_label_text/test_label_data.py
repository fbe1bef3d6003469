"""Rows with several labels in each of the forms that files have them in, their checks and their splits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.multi_label_text import tiny
from gauntlet.tasks.multi_label_text.data import Statistics, check_table, examine, label_sets, read_table
from gauntlet.tasks.multi_label_text.manifest import MultiLabelDataset
from tests.text_tables import texts_of

LABELS = ["joy", "fear", "anger"]
CHECKS = {"rows_per_class": {"min_rows": 1}}


def section(path: Path, **more: Any) -> MultiLabelDataset:
    content = {"name": "d", "version": "1", "uri": str(path), "labels": LABELS, "checks": CHECKS} | more
    return MultiLabelDataset.model_validate(content)


def labels_of(path: Path, text: str, **more: Any) -> list[tuple[str, ...]]:
    path.write_text(text, encoding="utf-8")
    return read_table(section(path, **more))["labels"].tolist()


@pytest.mark.parametrize(
    ("name", "text", "keys"),
    [
        ("a.csv", 'text,labels\none,"joy,anger"\ntwo,fear\n', {}),
        ("a.csv", "text,labels\none,anger | joy\ntwo,fear\n", {"label_separator": "|"}),
        ("a.csv", "text\tlabels\none\tanger;joy;\ntwo\tfear\n", {"label_separator": ";"}),
        ("a.tsv", "one\t0,2\tid1\ntwo\t1\tid2\n", {"columns": {"text": 0, "label": 1}}),
        ("a.csv", 'text,labels\none,"[""joy"", ""anger""]"\ntwo,"[1]"\n', {}),
        ("a.jsonl", '{"text": "one", "labels": ["anger", "joy"]}\n{"text": "two", "labels": [1]}\n', {}),
        (
            "a.csv",
            "text,joy,fear,anger\none,1,0,1\ntwo,0,1,0\n",
            {"columns": {"label": ["joy", "fear", "anger"]}},
        ),
        (
            "a.jsonl",
            '{"text": "one", "a": true, "b": false, "c": 1.0}\n{"text": "two", "a": 0, "b": 1}\n',
            {"columns": {"label": ["a", "b", "c"]}},
        ),
    ],
)
def test_every_form_names_the_same_labels(tmp_path: Path, name: str, text: str, keys: dict[str, Any]) -> None:
    assert labels_of(tmp_path / name, text, **keys) == [("joy", "anger"), ("fear",)]


def test_lists_of_indices_in_parquet_have_the_names_of_the_files_own_metadata(tmp_path: Path) -> None:
    feature = {"feature": {"names": ["anger", "joy", "fear"], "_type": "ClassLabel"}, "_type": "Sequence"}
    info = {"info": {"features": {"labels": feature, "text": {"dtype": "string", "_type": "Value"}}}}
    table = pa.table({"text": ["one", "two"], "labels": [[0, 1], [2]]})
    table = table.replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    pq.write_table(table, tmp_path / "train.parquet")
    found = read_table(section(tmp_path / "train.parquet"))["labels"].tolist()
    assert found == [("joy", "anger"), ("fear",)]


def inspected(path: Path, values: Sequence[Any], **more: Any) -> dict[str, Any]:
    rows = [{"text": f"text number {at} alone", "labels": value} for at, value in enumerate(values)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = section(path, **more)
    return {result.check: result for result in check_table(read_table(dataset), dataset).results}


def test_a_row_without_labels_is_a_missing_value_unless_it_is_allowed(tmp_path: Path) -> None:
    values = [["joy"], [], None, "", ["fear", "anger"]]
    refused = inspected(tmp_path / "a.jsonl", values)["empty_values"]
    assert (refused.verdict, refused.rows_affected) == ("fail", 3)
    assert refused.examples[0] == "a.jsonl line 2: no label for “text number 1 alone”"
    allowed = inspected(tmp_path / "a.jsonl", values, allow_unlabelled=True)["empty_values"]
    assert (allowed.verdict, allowed.rows_affected) == ("pass", 0)


def test_an_unknown_label_is_counted_and_the_nearest_one_is_named(tmp_path: Path) -> None:
    values = [["joy"], ["joy", "Angr"], ["angr"], ["fear", 7], ["anger"]]
    found = inspected(tmp_path / "a.jsonl", values)["unknown_labels"]
    assert (found.verdict, found.rows_affected) == ("fail", 3)
    assert found.examples[0] == "label “Angr”: 1 row, nearest: anger"
    assert found.examples[3] == "a.jsonl line 2: label “Angr” of “text number 1 alone”"


def test_a_row_with_an_unknown_label_leaves_whatever_the_severity(tmp_path: Path) -> None:
    checks = CHECKS | {"unknown_labels": {"severity": "warn"}}
    found = inspected(tmp_path / "a.jsonl", [["joy", "rage"], ["fear"]], checks=checks)["unknown_labels"]
    assert (found.verdict, found.rows_affected, found.rows_dropped) == ("warn", 1, 1)


@pytest.mark.parametrize("value", ['["joy"', "[joy]", "[" * 100_000])
def test_a_list_that_is_no_json_is_an_unknown_label(tmp_path: Path, value: str) -> None:
    found = inspected(tmp_path / "a.jsonl", [value, ["fear"]])
    assert (found["unknown_labels"].verdict, found["unknown_labels"].rows_affected) == ("fail", 1)


def test_a_value_that_is_neither_yes_nor_no_is_an_unknown_label(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,joy,fear,anger\none,1,0,maybe\ntwo,0,1,2\n")
    dataset = section(path, columns={"label": LABELS})
    assert read_table(dataset)["unknown_labels"].tolist() == [("anger=maybe",), ("anger=2",)]


def test_a_label_that_a_row_names_twice_is_counted_and_kept_once(tmp_path: Path) -> None:
    found = inspected(tmp_path / "a.jsonl", [["joy", "joy", "fear"], ["joy"], ["anger"]])
    assert (found["repeated_labels"].verdict, found["repeated_labels"].rows_affected) == ("warn", 1)
    assert found["repeated_labels"].examples == (
        "a.jsonl line 1: label “joy” more than once for “text number 0 alone”",
    )
    assert labels_of(tmp_path / "a.csv", "text,labels\none,joy;joy\n", label_separator=";") == [("joy",)]


def test_a_text_with_other_labels_elsewhere_is_a_conflict_whatever_the_order_of_the_labels(
    tmp_path: Path,
) -> None:
    rows = [("same", ["joy", "fear"]), ("Same!", ["fear", "joy"]), ("other", ["joy"]), ("Other.", [])]
    text = "".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows)
    (tmp_path / "a.jsonl").write_text(text)
    dataset = section(tmp_path / "a.jsonl", allow_unlabelled=True)
    results = {one.check: one for one in check_table(read_table(dataset), dataset).results}
    assert results["conflicting_labels"].rows_affected == 2
    assert "joy (a.jsonl line 3), no label (a.jsonl line 4)" in results["conflicting_labels"].examples[0]
    assert results["exact_duplicates"].rows_affected == 1


def test_a_label_without_rows_in_a_split_fails_and_is_named(tmp_path: Path) -> None:
    found = inspected(tmp_path / "a.jsonl", [["joy"], ["fear"], ["joy", "fear"]] * 20)["rows_per_class"]
    assert found.verdict == "fail"
    assert found.examples == tuple(f"{split}: 0 rows of anger" for split in SPLITS)


def test_the_generated_texts_of_a_smoke_run_pass_every_check(tmp_path: Path) -> None:
    dataset = section(tmp_path, labels=["joy", "fear, awe", "anger"], label_separator="|")
    manifest = SimpleNamespace(dataset=dataset)
    keys, source = tiny.settings(manifest, tmp_path, at_hand=False)
    drawn = MultiLabelDataset.model_validate(keys["dataset"])
    assert source == "drawn"
    assert not check_table(read_table(drawn), drawn).failed


def test_a_column_that_is_missing_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,joy,fear\none,1,0\n")
    with pytest.raises(
        DataError, match=r"no column anger: set dataset\.columns\.label to one of the columns"
    ):
        read_table(section(tmp_path / "a.csv", columns={"label": LABELS}))


# --- splits ------------------------------------------------------------------------------------------


def drawn_rows(count: int) -> list[dict[str, Any]]:
    """Texts of random words with one or two labels; 1 % have anger, most of them with another label too."""
    generator = np.random.default_rng(5)
    rows = []
    for row in range(count):
        words = generator.integers(0, 5_000, size=8)
        labels = ["joy"] if generator.random() < 0.6 else ["fear"]
        if row % 100 == 0:
            labels = [*labels, "anger"] if row % 300 else ["anger"]
        rows.append({"text": " ".join(f"w{word}" for word in words), "labels": labels})
    return rows


def splits_of(path: Path, rows: Sequence[dict[str, Any]], least: int = 10) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dataset = section(
        path, checks={"rows_per_class": {"min_rows": least}, "class_balance": {"max_ratio": 200}}
    )
    checked = check_table(read_table(dataset), dataset)
    assert not checked.failed, [result.found for result in checked.failed]
    rows = texts_of(checked)
    return dict(zip(rows["text"], rows["split"], strict=True))


def test_a_rare_label_has_enough_rows_in_every_split(tmp_path: Path) -> None:
    rows = drawn_rows(3_000)  # 30 have anger: by chance 4 or 5 of them would be in validation
    split_of = splits_of(tmp_path / "a.jsonl", rows)
    having = Counter(split_of[row["text"]] for row in rows if "anger" in row["labels"])
    assert having == {"train": 10, "validation": 10, "test": 10}


def test_a_row_keeps_its_split_when_rows_are_added_or_in_another_order(tmp_path: Path) -> None:
    rows = drawn_rows(2_000)
    before = splits_of(tmp_path / "a.jsonl", rows[:1_500], least=1)
    after = splits_of(tmp_path / "a.jsonl", rows[::-1], least=1)
    assert {text: after[text] for text in before} == before
    shares = Counter(after.values())
    assert 0.12 < shares["test"] / 2_000 < 0.18


def test_statistics_count_rows_labels_and_pairs(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        'text,labels\none a,"joy,fear"\ntwo b,"joy,fear"\nthree c,joy\nfour d,anger\n'
    )
    (tmp_path / "test.csv").write_text('text,labels\nfive e,"joy,fear,anger"\n')
    (tmp_path / "dev.csv").write_text('text,labels\nsix f,"joy"\nseven g,"fear,anger"\n')
    dataset = section(tmp_path)
    examined = examine(dataset)
    statistics = examined.statistics
    assert isinstance(statistics, Statistics)
    assert statistics.class_counts["train"] == {"joy": 3, "fear": 2, "anger": 1}
    assert statistics.labels_per_row == {"train": {1: 2, 2: 2}, "validation": {1: 1, 2: 1}, "test": {3: 1}}
    assert statistics.together == {"joy": {"fear": 2}}
    assert examined.resolution.startswith("With 1 test rows ")
    content = examined.content("train")
    assert isinstance(content, pa.RecordBatchReader)
    pq.write_table(content.read_all(), tmp_path / "train.parquet")
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert label_sets(frame).tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]
