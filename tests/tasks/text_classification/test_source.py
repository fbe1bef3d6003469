from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.tasks.text_classification.data import read_table
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.files import find_files, format_of
from gauntlet.tasks.texts.labels import resolve_label
from gauntlet.tasks.texts.records import SUFFIX_FORMATS

LABELS = ("joy", "fear")


def _dataset(uri: Path | str, **settings: Any) -> TextDataset:
    content = {"name": "d", "version": "1", "uri": str(uri), "labels": LABELS}
    return TextDataset.model_validate(content | settings)


def _write(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8")


def is_table(name: str) -> bool:
    return format_of(name, "auto", SUFFIX_FORMATS) is not None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_is_searched_for_files_named_after_the_splits(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv", "test_final.tsv", "labels.txt", "train.py", "README.md"):
        (tmp_path / name).write_text("text\tlabel\na\tjoy\n")
    files = find_files(_dataset(tmp_path), is_table)
    assert [(file.split, file.name) for file in files] == [
        ("train", "train.tsv"),
        ("validation", "dev.tsv"),
        ("test", "test_final.tsv"),
    ]


def test_a_folder_without_a_training_file_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    _write(tmp_path, data="text,label\n", test="text,label\n")
    with pytest.raises(DataError, match=r"found data.csv, test.csv, expected .* name starts with train"):
        find_files(_dataset(tmp_path), is_table)
    _write(tmp_path, **{f"part{number:03d}": "text,label\n" for number in range(400)})
    with pytest.raises(DataError, match=r"part\d+\.csv and 394 more files, expected .* to one file or to a"):
        find_files(_dataset(tmp_path), is_table)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, train="", train_old="")
    with pytest.raises(DataError, match=r"train: train.csv, train_old.csv.*dataset.files"):
        find_files(_dataset(tmp_path), is_table)


def test_named_files_may_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    _write(tmp_path / "a", one="text,label\nx,joy\n")
    _write(tmp_path, two="text,label\ny,fear\nz,joy\n")
    table = read_table(_dataset(tmp_path, files={"train": "two.csv", "test": "a/one.csv"}))
    assert table[["text", "label", "split", "place", "row"]].values.tolist() == [
        ["y", "fear", "train", "two.csv line 2", 0],
        ["z", "joy", "train", "two.csv line 3", 1],
        ["x", "joy", "test", "a/one.csv line 2", 0],
    ]


def test_the_encoding_is_one_that_python_knows_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\ncafé,joy\n".encode("cp1252"))
    table = read_table(_dataset(tmp_path / "a.csv", encoding="Windows-1252"))
    assert table["text"].tolist() == ["café"]
    for encoding in ("zip", "rot13", "no such", "\0"):
        with pytest.raises(ValidationError, match="an encoding that Python knows"):
            _dataset(tmp_path, encoding=encoding)


def test_a_single_file_is_all_training_rows(tmp_path: Path) -> None:
    _write(tmp_path, everything="text,label\nx,joy\n")
    assert read_table(_dataset(tmp_path / "everything.csv"))["split"].tolist() == ["train"]


def test_nothing_at_the_uri_is_a_mistake_in_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_table(_dataset(tmp_path / "absent.csv"))


def test_faults_of_several_files_are_reported_together(tmp_path: Path) -> None:
    _write(tmp_path, train="words,label\nx,joy\n", test="")
    with pytest.raises(DataError) as caught:
        read_table(_dataset(tmp_path))
    assert "train.csv: no column text" in str(caught.value)
    assert "test.csv: found an empty file" in str(caught.value)


def test_a_matching_sha256_lets_the_data_in(tmp_path: Path) -> None:
    _write(tmp_path, train="text,label\nx,joy\n")
    path = tmp_path / "train.csv"
    assert len(read_table(_dataset(path, sha256=_sha256(path)))) == 1
    assert len(read_table(_dataset(tmp_path, sha256={"train.csv": _sha256(path)}))) == 1


def test_a_wrong_sha256_shows_both_and_comes_before_any_parsing(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"not even a header")
    with pytest.raises(DataError) as caught:
        read_table(_dataset(path, sha256="0" * 64))
    assert f"train.csv: found sha256 {_sha256(path)}, expected {'0' * 64}" in str(caught.value)


def test_every_file_needs_its_own_sha256_and_every_sha256_its_file(tmp_path: Path) -> None:
    _write(tmp_path, train="text,label\nx,joy\n", test="text,label\ny,joy\n")
    with pytest.raises(DataError, match=r"one hash, but the files are train.csv, test.csv"):
        read_table(_dataset(tmp_path, sha256="0" * 64))
    with pytest.raises(DataError) as caught:
        read_table(_dataset(tmp_path, sha256={"train.csv": "1" * 64, "old.csv": "2" * 64}))
    message = str(caught.value)
    assert "test.csv: dataset.sha256 has no hash" in message
    assert "old.csv: dataset.sha256 names it" in message
    assert f"expected {'1' * 64}" in message


def test_invalid_utf8_is_a_fault_of_its_row_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(
        b"text,label\nfine,joy\nun caf\xe9 noir,fear\nlost \xef\xbf\xbd,joy\nbell\x07,joy\n"
    )
    table = read_table(_dataset(tmp_path))
    faults = dict(zip(table["place"], table["fault"], strict=True))
    assert table["fault"].notna().tolist() == [False, True, True, True]
    assert faults["train.csv line 3"] == r"byte 0xe9, which is not UTF-8, at character 7: “un caf\xe9 noir”"
    assert faults["train.csv line 4"].startswith("replacement character U+FFFD at character 6")
    assert faults["train.csv line 5"].startswith("control character U+0007 at character 5")
    assert table["text"][1] == "un caf\ufffd noir"


def test_blank_texts_and_labels_are_missing_values(tmp_path: Path) -> None:
    _write(tmp_path, train="text,label\n  ,joy\nx,\n\u200b\u00ad,joy\n")
    table = read_table(_dataset(tmp_path))
    assert table["text"].isna().tolist() == [True, False, True]
    assert table["label"].isna().tolist() == [False, True, False]


def test_two_forms_of_one_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="labels must be distinct"):
        _dataset(tmp_path, labels=["caf\u00e9", "cafe\u0301"])


def test_a_text_column_that_holds_numbers_is_the_wrong_column(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": 5, "label": "joy"}\n')
    with pytest.raises(DataError, match=r"train.jsonl line 1: found “5” \(int\).*dataset.columns.text"):
        read_table(_dataset(tmp_path))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("fear", "fear"),
        (" fear ", "fear"),
        (1, "fear"),
        (1.0, "fear"),
        ("1", "fear"),
        ("2", "2"),
        (-1, "-1"),
        ("0,1", "0,1"),
        ([0, 1], "[0, 1]"),
        (True, "true"),
        ("Fear", "Fear"),
        ("", None),
        ("\u200b", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_label_is_a_name_or_an_index_and_anything_else_stays_as_found(value: Any, name: str | None) -> None:
    assert resolve_label(value, LABELS) == name


def test_digits_are_names_where_a_label_is_made_of_digits() -> None:
    grades = ("8", "9", "10")
    assert resolve_label("8", grades) == "8"
    assert resolve_label("1", grades) == "1"
    assert resolve_label(1, grades) == "1"  # an unknown label, never the second one


@pytest.mark.parametrize(
    ("labels", "value", "name"),
    [
        (("1", "0"), 0, "0"),
        (("1", "0"), 1.0, "1"),
        (("5", "4", "3", "2", "1"), 2, "2"),
        (("-1", "0", "1"), -1, "-1"),
        (("-1", "+1"), 1, "1"),  # unknown: `+1` is another spelling, and never an index
        (("true", "false"), True, "true"),
        (("False", "True"), True, "True"),
        (("0.5", "1.0"), 1.0, "1.0"),
        (("1.0", "2.0", "3.0"), 1, "1.0"),
        (("1.0", "2.0", "3.0"), 0, "0"),  # unknown, and no index
        (("NA", "null", "None", "nan"), "NA", "NA"),
        (("NA", "null", "None", "nan"), "nan", "nan"),
        (("NA", "null"), None, None),
        (("caf\u00e9", "the"), "cafe\u0301", "caf\u00e9"),
        (("cafe\u0301", "the"), "caf\u00e9 ", "cafe\u0301"),
        (("tea", "milk"), "the\u0301", "th\u00e9"),
        (("joy", "fear"), "1" * 5000, "1" * 5000),  # Python reads no integer that long
    ],
)
def test_a_value_that_is_a_label_is_that_label_whatever_its_type(
    labels: tuple[str, ...], value: Any, name: str | None
) -> None:
    assert resolve_label(value, labels) == name


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_integer_labels_are_read_alike_in_every_format(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, 1]})
    path = tmp_path / f"train.{suffix}"
    write = {
        "csv": lambda: frame.to_csv(path, index=False),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }
    write[suffix]()
    assert read_table(_dataset(path, labels=["1", "0"]))["label"].tolist() == ["0", "1", "1"]


def _write_with_class_names(path: Path, names: list[str], labels: list[int | None]) -> None:
    """As the library `datasets` writes a column of the type ClassLabel."""
    table = pa.table(
        {"text": [f"text {row}" for row in range(len(labels))], "label": pa.array(labels, pa.int64())}
    )
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_class_names_that_a_parquet_file_carries_decide_over_the_order_in_the_manifest(
    tmp_path: Path,
) -> None:
    _write_with_class_names(tmp_path / "train.parquet", ["fear", "joy", "awe"], [0, 1, 2, -1, None])
    labels = read_table(_dataset(tmp_path))["label"]
    assert labels[:3].tolist() == ["fear", "joy", "awe"]
    assert labels[3:].isna().all()


def test_shards_of_a_split_are_read_together(tmp_path: Path) -> None:
    for number, rows in enumerate([["a", "b"], ["c"]]):
        frame = pd.DataFrame({"text": rows, "label": "joy"})
        frame.to_parquet(tmp_path / f"train-{number:05}-of-00002.parquet")
    pd.DataFrame({"text": ["d"], "label": "fear"}).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    table = read_table(_dataset(tmp_path))
    assert table["text"].tolist() == ["a", "b", "c", "d"]
    assert table["split"].tolist() == ["train", "train", "train", "test"]
    assert table["row"].tolist() == [0, 1, 2, 0]


def test_a_single_shard_of_two_is_not_the_whole_split(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a"], "label": "joy"}).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="found 1 of 2 shards, without number 1"):
        read_table(_dataset(tmp_path))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    for number in (0, 2):
        pd.DataFrame({"text": ["a"], "label": "joy"}).to_parquet(
            tmp_path / f"train-{number:05}-of-00003.parquet"
        )
    with pytest.raises(DataError, match=r"found 2 of 3 shards, without number 1\. Fetch the data again"):
        read_table(_dataset(tmp_path))


def test_an_integer_column_with_gaps_still_holds_indices(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": [1.0, float("nan")]})
    frame.to_parquet(tmp_path / "train.parquet")
    labels = read_table(_dataset(tmp_path))["label"]
    assert labels[0] == "fear"
    assert labels.isna().tolist() == [False, True]
