"""Where rows come from: several files, patterns, folders named after columns, what `datasets` saves."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from gauntlet.components.validate_data import packed
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.language.data import read_table as read_conversations
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.text_classification.data import read_table, sources
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests.fakes.cloud import FakeCloud
from tests.text_tables import rows_of_test

LABELS = ("joy", "fear")


def dataset(uri: Path | str, **settings: Any) -> TextDataset:
    content = {"name": "d", "version": "1", "uri": str(uri), "labels": LABELS}
    return TextDataset.model_validate(content | settings)


def rows(found: TextDataset) -> list[tuple[str, str, str, str]]:
    table = read_table(found)
    return [tuple(row) for row in table[["text", "label", "split", "place"]].itertuples(index=False)]


def write(folder: Path, **contents: str) -> None:
    """Each file `NAME.csv` with a text and its label."""
    for name, text in contents.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text,label\n{text},joy\n")


def test_a_pattern_is_all_files_that_it_matches_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, b="two", a="one", other="three")
    write(tmp_path / "deep" / "er", c="four")
    assert rows(dataset(tmp_path / "?.csv")) == [
        ("one", "joy", "train", "a.csv line 2"),
        ("two", "joy", "train", "b.csv line 2"),
    ]
    assert [text for text, *_ in rows(dataset(tmp_path / "**" / "*.csv"))] == ["one", "two", "four", "three"]
    assert read_table(dataset(tmp_path / "?.csv"))["row"].tolist() == [0, 1]


def test_a_pattern_that_matches_files_of_splits_gives_each_its_split(tmp_path: Path) -> None:
    write(tmp_path, train_0="one", train_1="two", test="three", dev="four")
    assert [(row[0], row[2]) for row in rows(dataset(tmp_path / "*.csv"))] == [
        ("one", "train"),
        ("two", "train"),
        ("four", "validation"),
        ("three", "test"),
    ]
    write(tmp_path, more="five")
    with pytest.raises(
        DataError, match=r"found dev.csv, .* the split validation, and more.csv, which is not"
    ):
        rows(dataset(tmp_path / "*.csv"))
    (tmp_path / "more.csv").unlink()
    with pytest.raises(DataError, match=r"found test.csv, .* the split test, and none of train"):
        rows(dataset(tmp_path / "te*.csv"))


def test_a_split_is_of_several_names_and_patterns(tmp_path: Path) -> None:
    write(tmp_path, x1="one", x2="two", y="three", z="four")
    found = dataset(tmp_path, files={"train": ["x*.csv", "z.csv"], "test": "y.csv"})
    assert [(row[0], row[2]) for row in rows(found)] == [
        ("one", "train"),
        ("two", "train"),
        ("four", "train"),
        ("three", "test"),
    ]
    assert len(sources(found)) == 4
    with pytest.raises(DataError, match=r"x1.csv: dataset.files has it in train and again in test"):
        rows(dataset(tmp_path, files={"train": "*.csv", "test": "x1.csv"}))


def test_a_pattern_that_matches_nothing_says_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, a="one")
    with pytest.raises(UsageError, match=r"\*\.parquet: matches no file\. .* itself has a\.csv"):
        rows(dataset(tmp_path / "*.parquet"))
    with pytest.raises(UsageError, match=r"no such file or folder"):
        rows(dataset(tmp_path / "absent" / "*.parquet"))


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, **{"a[1]": "one", "a1": "two"})
    assert [text for text, *_ in rows(dataset(tmp_path / "a[1].csv"))] == ["one"]


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", secret="one")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").symlink_to(tmp_path / "elsewhere" / "secret.csv")
    with pytest.raises(UsageError, match=r"a\.csv: leads out of"):
        rows(dataset(tmp_path / "data" / "*.csv"))
    assert len(rows(dataset(tmp_path / "data" / "*.csv", roots=[str(tmp_path)]))) == 1


def test_a_pattern_in_a_bucket_finds_its_objects_and_their_identities(cloud: FakeCloud) -> None:
    content = b"text,label\none,joy\n"
    for name in ("data/2024/a.csv", "data/2025/b.csv.gz", "data/2025/notes.txt"):
        cloud.bucket.objects[f"gs://bucket/{name}"] = gzip.compress(content) if "gz" in name else content
    found = dataset("gs://bucket/data/*/?.csv*")
    assert [row[3] for row in rows(found)] == ["2024/a.csv line 2", "2025/b.csv.gz line 2"]
    assert sources(found) == ("gs://bucket/data/2024/a.csv", "gs://bucket/data/2025/b.csv.gz")


# --- folders named after columns ---------------------------------------------------------------------


def test_folders_of_hive_give_their_rows_the_label(tmp_path: Path) -> None:
    """As pyarrow writes a partitioned dataset."""
    table = pa.table({"text": ["a", "b", "c"], "label": ["joy", "fear", "joy"]})
    pyarrow.dataset.write_dataset(table, tmp_path, format="parquet", partitioning=["label"],
                                  partitioning_flavor="hive")  # fmt: skip
    (tmp_path / "_SUCCESS").touch()
    found = [(text, label, place) for text, label, _, place in rows(dataset(tmp_path))]
    assert found == [
        ("b", "fear", "label=fear/part-0.parquet row 0"),
        ("a", "joy", "label=joy/part-0.parquet row 0"),
        ("c", "joy", "label=joy/part-0.parquet row 1"),
    ]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".csv", "text,label\na,joy\n"), (".jsonl", '{"text": "a", "label": "joy"}\n')],
)
def test_a_folder_s_column_can_be_the_time_and_replaces_the_file_s_own(
    tmp_path: Path, suffix: str, content: str
) -> None:
    for day in ("2024-01-02", "2024-01-01"):
        (tmp_path / f"label=fear%20of/day={day}").mkdir(parents=True)
        (tmp_path / f"label=fear%20of/day={day}" / f"0{suffix}").write_text(content)
    found = dataset(tmp_path, columns={"time": "day", "label": "label"}, labels=["joy", "fear of"])
    table = read_table(found)
    assert table["time"].tolist() == ["2024-01-01", "2024-01-02"]
    assert table["label"].tolist() == ["fear of", "fear of"]


def test_a_folder_of_rows_without_a_value_gives_none(tmp_path: Path) -> None:
    write(tmp_path / "label=__HIVE_DEFAULT_PARTITION__", a="x")
    write(tmp_path / "label=joy", a="y")
    assert read_table(dataset(tmp_path))["label"].isna().tolist() == [True, False]


def test_folders_of_splits_are_these_splits(tmp_path: Path) -> None:
    write(tmp_path / "split=train", a="x")
    write(tmp_path / "split=test", a="y")
    found = dataset(tmp_path, columns={"label": "label"})
    assert [(row[0], row[2]) for row in rows(found)] == [("x", "train"), ("y", "test")]


def test_files_of_other_columns_in_their_paths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "label=joy" / "day=1", a="x")
    write(tmp_path / "label=joy", b="y")
    with pytest.raises(
        DataError, match=r"a.csv: found the columns label, day in .* label, expected the same"
    ):
        rows(dataset(tmp_path))


def test_the_newest_folder_is_the_test_split(tmp_path: Path) -> None:
    for day in range(1, 11):
        write(tmp_path / f"day=2024-01-{day:02}", a=f"text of number {day}")
    checks = {"rows_per_class": {"min_rows": 1, "severity": "warn"}, "near_duplicates": {"severity": "warn"}}
    found = dataset(tmp_path, columns={"label": "label", "time": "day"}, checks=checks,
                    split={"train": 0.7, "validation": 0.1, "test": 0.2})  # fmt: skip
    assert rows_of_test(found) == ["text of number 10", "text of number 9"]


# --- what datasets saves -----------------------------------------------------------------------------


def save(folder: Path, texts: list[str], shards: int = 1) -> None:
    """As `Dataset.save_to_disk` writes it: Arrow streams, with the names of the classes in their metadata."""
    folder.mkdir(parents=True)
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": LABELS, "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    names = [f"data-{at:05}-of-{shards:05}.arrow" for at in range(shards)]
    for at, name in enumerate(names):
        table = pa.table({"text": texts[at::shards], "label": [1] * len(texts[at::shards])})
        with pa.ipc.new_stream(folder / name, table.schema.with_metadata(metadata)) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_dataset_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    save(tmp_path / "d", ["a", "b", "c"], shards=2)
    assert rows(dataset(tmp_path / "d")) == [
        ("a", "fear", "train", "data-00000-of-00002.arrow row 0"),
        ("c", "fear", "train", "data-00000-of-00002.arrow row 1"),
        ("b", "fear", "train", "data-00001-of-00002.arrow row 0"),
    ]


def test_a_saved_dict_of_datasets_has_its_splits(tmp_path: Path) -> None:
    for split, text in {"train": "a", "test": "b", "unsupervised": "c"}.items():
        save(tmp_path / split, [text])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test", "unsupervised"]}')
    assert [(row[0], row[2], row[3]) for row in rows(dataset(tmp_path))] == [
        ("a", "train", "train/data-00000-of-00001.arrow row 0"),
        ("b", "test", "test/data-00000-of-00001.arrow row 0"),
    ]
    (tmp_path / "dataset_dict.json").write_text('{"splits": 7}')
    with pytest.raises(DataError, match=r"dataset_dict\.json: not a list of files as save_to_disk writes it"):
        rows(dataset(tmp_path))


# --- compression -------------------------------------------------------------------------------------


def _gzip(path: Path, data: bytes) -> None:
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(data))


def _zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path.with_suffix(".csv.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", data)


def _zstd(path: Path, data: bytes) -> None:
    path.with_suffix(".csv.zst").write_bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize("pack", [_gzip, _zip, _zstd])
def test_a_bomb_is_refused_and_the_key_that_lets_it_in_is_named(
    tmp_path: Path, pack: Callable[[Path, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SMALL", 1_000)
    pack(tmp_path / "a", b"text,label\n" + b"a" * 1_000_000 + b",joy\n")
    with pytest.raises(DataError, match=r"unpacks to .* expected at most .*raise dataset.max_expansion"):
        rows(dataset(tmp_path / "a.*"))
    assert len(rows(dataset(tmp_path / "a.*", max_expansion=100_000))) == 1


def test_a_parquet_file_that_is_cut_short_is_not_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {at}" for at in range(10_000)], "label": ["joy"] * 10_000})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1_000)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(GauntletError, match=r"a.parquet: not a whole parquet file"):
        rows(dataset(tmp_path / "*.parquet"))


# --- where -------------------------------------------------------------------------------------------

OBJECTS = [{"text": f"text {at}", "label": "joy", "year": 2018 + at, "lang": "en"} for at in range(4)]
LINES = "".join(json.dumps(one) + "\n" for one in OBJECTS)
CSV = "text,label,year,lang\n" + "".join(f"{','.join(map(str, one.values()))}\n" for one in OBJECTS)


@pytest.mark.parametrize(
    ("name", "content", "condition", "lines"),
    [
        ("a.csv", CSV, "year >= '2020'", "line 4,line 5"),
        ("a.csv", CSV, "CAST(year AS INT) >= 2020 AND lang = 'en'", "line 4,line 5"),
        ("a.csv", f"sep=,\n{CSV}", "year >= '2020'", "line 5,line 6"),  # read by the parser of odd files
        ("a.jsonl", LINES, "year >= 2020", "line 3,line 4"),
        ("a.json", json.dumps(OBJECTS), "year >= 2020", "object 3,object 4"),
    ],
)
def test_rows_of_which_where_is_true_are_read(
    tmp_path: Path, name: str, content: str, condition: str, lines: str
) -> None:
    (tmp_path / name).write_text(content)
    table = read_table(dataset(tmp_path / name, where=condition, columns={"label": "label"}))
    assert table["text"].tolist() == ["text 2", "text 3"]
    assert table["place"].tolist() == [f"{name} {line}" for line in lines.split(",")]
    assert table["row"].tolist() == [0, 1]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_where_of_typed_columns(tmp_path: Path, suffix: str) -> None:
    table = pa.Table.from_pylist(OBJECTS)
    if suffix == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    found = dataset(tmp_path / f"a.{suffix}", where="year = 2019 OR year = 2021", columns={"label": "label"})
    assert rows(found) == [
        ("text 1", "joy", "train", f"a.{suffix} row 1"),
        ("text 3", "joy", "train", f"a.{suffix} row 3"),
    ]


def test_folders_that_where_leaves_out_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "year=2020", a="x")
    write(tmp_path / "year=2021", a="y")
    (tmp_path / "year=2020" / "a.csv").write_bytes(b"no table at all")
    found = dataset(tmp_path, where="CAST(year AS INT) > 2020")
    assert rows(found) == [("y", "joy", "train", "year=2021/a.csv line 2")]
    assert sources(found) == (str(tmp_path / "year=2021" / "a.csv"),)
    with pytest.raises(DataError, match=r"dataset.where: year = '1999': is true of no row of train"):
        rows(dataset(tmp_path, where="year = '1999'"))


def test_a_split_of_which_where_is_true_of_no_row_is_not_made_of_another(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(CSV)
    (tmp_path / "test.csv").write_text(CSV.replace("en", "de"))
    with pytest.raises(DataError, match=r"lang = 'en': is true of no row of test. Correct it, or leave"):
        rows(dataset(tmp_path, where="lang = 'en'", columns={"label": "label"}))


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", CSV), ("a.jsonl", LINES), ("a.csv", f"sep=,\n{CSV}")]
)
def test_a_column_that_where_names_and_no_file_has(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = dataset(tmp_path / name, where="month = 1", columns={"label": "label"})
    with pytest.raises(
        DataError, match=rf"{name}: no column month: dataset.where names it, .* are: text, label"
    ):
        rows(found)


def test_a_condition_is_checked_with_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a condition on columns of each row"):
        dataset(tmp_path, where="year >")


def test_a_label_column_that_changes_its_type_between_files_is_refused(tmp_path: Path) -> None:
    for name, labels in {"a": ["joy", None], "b": [None, None], "c": [1, 0]}.items():
        pq.write_table(pa.table({"text": ["x", "y"], "label": labels}), tmp_path / f"{name}.parquet")
    with pytest.raises(
        DataError, match=r"c.parquet: dataset.columns.label: found numbers, and text in a.parquet"
    ):
        rows(dataset(tmp_path / "*.parquet"))
    found = dataset(
        tmp_path, files={"train": "a.parquet", "test": "c.parquet"}
    )  # splits may be of two makers
    assert read_table(found)["label"].tolist()[2:] == ["fear", "joy"]


def test_where_of_conversations(tmp_path: Path) -> None:
    lines = [{"prompt": "Hello", "response": f"answer {at}", "score": at} for at in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    content = {"name": "d", "version": "1", "uri": str(tmp_path / "a.jsonl"), "tokenizer": "none"}
    found = ConversationDataset.model_validate(content | {"where": "score >= 1"})
    assert read_conversations(found)["place"].tolist() == ["a.jsonl line 2", "a.jsonl line 3"]
    with pytest.raises(
        DataError, match=r"a.jsonl: no key mark: dataset.where names it, .*: prompt, response, sco"
    ):
        read_conversations(found.model_copy(update={"where": "mark >= 1"}))


def test_a_file_of_a_bucket_has_the_sha256_of_the_manifest(cloud: FakeCloud) -> None:
    content = b"text,label\none,joy\n"
    cloud.bucket.objects["gs://bucket/a.csv"] = content
    right = hashlib.sha256(content).hexdigest()
    assert len(rows(dataset("gs://bucket/a.csv", sha256=right))) == 1
    with pytest.raises(DataError, match=rf"a.csv: found sha256 {right}, expected 0000"):
        rows(dataset("gs://bucket/a.csv", sha256="0" * 64))
