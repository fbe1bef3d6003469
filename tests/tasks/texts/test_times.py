from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.language.data import read_table
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.times import parse_times, with_times

START = datetime(2024, 1, 1, tzinfo=UTC)


def tickets(count: int = 200) -> list[dict[str, Any]]:
    """One ticket an hour, the newest first, as an export often is."""
    return [
        {
            "message": f"ticket {n} about {n * 13}",
            "team": ("billing", "delivery")[n % 2],
            "created": (START + timedelta(hours=n)).isoformat(),
        }
        for n in reversed(range(count))
    ]


def section(path: Path, **settings: Any) -> TextDataset:
    content = {
        "name": "tickets",
        "version": "1",
        "uri": str(path),
        "labels": ["billing", "delivery"],
        "columns": {"text": "message", "time": "created"},
    }
    return TextDataset.model_validate(content | settings)


def split_of(folder: Path, dataset: TextDataset) -> Mapping[str, str]:
    run("text_classification", dataset, folder / "splits", folder / "checks", folder / "report")
    return {
        row["text"]: split
        for split in ("train", "validation", "test")
        for row in pq.read_table(folder / f"splits/{split}.parquet").to_pylist()
    }


def write(folder: Path, rows: Sequence[Mapping[str, Any]], suffix: str) -> Path:
    path = folder / f"tickets{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        times = pa.array([datetime.fromisoformat(row["created"]) for row in rows], pa.timestamp("us", "UTC"))
        table = pa.Table.from_pandas(frame)
        pq.write_table(table.set_column(2, "created", times), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_newest_tickets_are_the_test_split_in_every_format(tmp_path: Path, suffix: str) -> None:
    found = split_of(tmp_path, section(write(tmp_path, tickets(), suffix)))
    expected = ["train"] * 140 + ["validation"] * 30 + ["test"] * 30
    assert [found[f"ticket {n} about {n * 13}"] for n in range(200)] == expected


def test_a_file_without_a_header_has_the_time_at_a_position(tmp_path: Path) -> None:
    path = tmp_path / "tickets.tsv"
    path.write_text("".join(f"{row['message']}\t{n}\t{row['team']}\n" for n, row in enumerate(tickets())))
    found = split_of(tmp_path, section(path, columns={"text": 0, "time": 1}))
    assert found["ticket 199 about 2587"] == "train"  # the first row has the smallest number
    assert found["ticket 0 about 0"] == "test"


def test_no_training_row_is_held_out_when_newer_tickets_are_appended(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    before = split_of(tmp_path / "one", section(write(tmp_path / "one", tickets(200), ".csv")))
    after = split_of(tmp_path / "two", section(write(tmp_path / "two", tickets(260), ".csv")))
    assert {after[text] for text, split in before.items() if split == "train"} == {"train"}


@pytest.mark.parametrize("wrong", ["", "31/12/2024", "yesterday", "2024-02-31", "1706688000"])
def test_a_row_without_a_time_is_named_by_its_line(tmp_path: Path, wrong: str) -> None:
    rows = tickets()
    rows[6]["created"] = wrong
    path = write(tmp_path, rows, ".csv")
    with pytest.raises(DataError) as caught:
        split_of(tmp_path, section(path))
    message = str(caught.value)
    assert "dataset.columns.time: found 1 row without a time that can be read" in message
    assert f"tickets.csv line 8: {repr(wrong) if wrong else 'no value'}" in message
    assert "Expected ISO 8601 in every row, such as 2024-01-31" in message
    assert not (tmp_path / "splits").exists()


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, tickets(), ".csv")
    with pytest.raises(DataError, match=r"no column made: set dataset\.columns\.time to one of"):
        split_of(tmp_path, section(path, columns={"text": "message", "label": "team", "time": "made"}))


def test_files_that_provide_the_splits_need_no_time(tmp_path: Path) -> None:
    rows = tickets(240)
    for row in rows[:40]:
        row["created"] = "unknown"
    for name, part in (("train", rows[:160]), ("validation", rows[160:200]), ("test", rows[200:])):
        pd.DataFrame(part).to_csv(tmp_path / f"{name}.csv", index=False)
    assert len(split_of(tmp_path, section(tmp_path))) == 240


@pytest.mark.parametrize(
    ("values", "order"),
    [
        (["2024-01-02", "2024-01-01T23:59:59Z", "2024-01-02T01:00:00+02:00"], [2, 1, 0]),
        ([date(2024, 1, 2), datetime(2024, 1, 1, 12), datetime(2024, 1, 3, tzinfo=UTC)], [1, 0, 2]),
        ([1706688000, "1706687999.5", 1e9], [2, 1, 0]),
        (["20240131", "20231231", "20240101"], [1, 2, 0]),
        (["2024-02", "2024-01-31", "2024-01"], [2, 1, 0]),
    ],
)
def test_times_sort_as_they_should(values: list[Any], order: list[int]) -> None:
    times = parse_times(values, "line {}".format, "x.csv")
    assert sorted(range(len(values)), key=times.__getitem__) == order


@pytest.mark.parametrize("value", [True, [2024], {"at": 1}, float("nan"), float("inf"), None, "nan", 10**400])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="found 1 row without a time"):
        parse_times(["2024-01-31", value], "line {}".format, "x.csv")


MOMENTS = [
    "2024-02-29",
    " 1999-12-31 23:59 ",
    "2024-01-31T08:00+02:00",
    "2024-01-31T08:00:01-00:30",
    "2024-01-31T08:00:01.123Z",
    "2024-01-31 08:00:01.123456+05:45",
    "2024-01-31T08:00:01.5",
    "0999-01-31",
    "9999-01-31T00:00:00.000001",
    "20240131T080000",
]


@pytest.mark.parametrize("as_objects", [False, True])
def test_a_column_of_dates_is_read_as_each_alone_by_the_standard_library(as_objects: bool) -> None:
    moments = [datetime.fromisoformat(text.strip()) for text in MOMENTS]
    expected = [(one if one.tzinfo else one.replace(tzinfo=UTC)).timestamp() for one in moments]
    values = moments if as_objects else MOMENTS
    assert parse_times(values, str, "x.csv").tolist() == expected
    assert [parse_times([value], str, "x.csv")[0] for value in values] == expected


@pytest.mark.parametrize(
    "values",
    [
        ["1706688000", " -1.5 ", "1e3", "1_000", "0.1234567890123456789", "+7"],
        [1706688000, 2.5, -3, 2**53 + 1],
        [2**62, 1, 0],
        [1.5, "2.5", 3],
    ],
)
def test_a_column_of_numbers_is_read_as_each_alone_by_float(values: list[Any]) -> None:
    assert parse_times(values, str, "x.csv").tolist() == [float(value) for value in values]


@pytest.mark.parametrize("value", ["2023-02-29", "2024-01-31T24:00", "2024-01-31T08:00+24:00", "1", ""])
def test_a_faulty_date_in_a_column_is_named(value: str) -> None:
    values = ["2024-01-31"] * 9 + [value]
    with pytest.raises(DataError, match="found 1 row without a time that can be read: line 9: "):
        parse_times(values, "line {}".format, "x.csv")


def test_without_the_key_nothing_is_parsed() -> None:
    rows = pd.DataFrame({"place": ["line 2"], "text": ["a"]})
    assert with_times(rows, "x.csv") is rows


def talks(path: Path, records: Sequence[Mapping[str, Any]], **settings: Any) -> ConversationDataset:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    content = {"name": "talk", "version": "1", "uri": str(path), "tokenizer": "gemini-2.5-flash"}
    return ConversationDataset.model_validate(content | settings)


def test_conversations_of_any_form_are_split_by_the_time_of_their_record(tmp_path: Path) -> None:
    records = [
        {
            "at": (START + timedelta(days=n)).isoformat(),
            "messages": [
                {"role": "user", "content": f"question {n} of {n * 17}"},
                {"role": "assistant", "content": f"answer {n}"},
            ],
        }
        for n in reversed(range(100))
    ]
    dataset = talks(tmp_path / "talk.jsonl", records, columns={"time": "at"})
    dataset = ConversationDataset.model_validate(as_parameter(dataset))  # as the step is given it
    run("managed_causal_lm", dataset, tmp_path / "splits", tmp_path / "checks", tmp_path / "report")
    rows = {split: pd.read_parquet(tmp_path / f"splits/{split}.parquet") for split in ("train", "test")}
    numbers = {split: {int(text.split()[1]) for text in frame["question"]} for split, frame in rows.items()}
    assert numbers == {"train": set(range(70)), "test": set(range(85, 100))}


def test_a_conversation_without_a_time_is_named(tmp_path: Path) -> None:
    records = [{"input_text": f"question {n}", "output_text": "so it is", "at": n} for n in range(30)]
    records[3].pop("at")
    dataset = talks(tmp_path / "talk.jsonl", records, columns={"time": "at"})
    assert read_table(dataset)["time"].isna().sum() == 1
    with pytest.raises(DataError, match=r"talk\.jsonl line 4: no value"):
        run("managed_causal_lm", dataset, tmp_path / "splits", tmp_path / "checks", tmp_path / "report")
