from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.components.validate_data.component import validate_data
from gauntlet.components.validate_data.run import run
from gauntlet.contracts.document import replacing
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.text_classification.manifest import TextDataset

LABELS = ["joy", "fear"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Outputs:
    root: Path

    @property
    def splits(self) -> Path:
        return self.root / "step" / "splits"

    @property
    def checks(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.root / "step" / "checks").read_text())
        return content

    @property
    def report(self) -> str:
        return (self.root / "step" / "report").read_text()

    @property
    def files(self) -> set[str]:
        return {
            path.relative_to(self.root / "step").as_posix() for path in self.root.rglob("*") if path.is_file()
        }

    def run(self, uri: Path, **settings: Any) -> None:
        section = TextDataset.model_validate(
            {"name": "moods", "version": "2", "uri": str(uri), "labels": LABELS} | settings
        )
        step = self.root / "step"
        run("text_classification", section, step / "splits", step / "checks", step / "report")

    def split(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.splits / f"{name}.parquet").to_pylist()
        return rows


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "run")


def _csv(tmp_path: Path, rows: list[tuple[str, str]], name: str = "train.csv") -> Path:
    path = tmp_path / name
    path.write_text("text;label\n" + "".join(f"{text};{label}\n" for text, label in rows), encoding="utf-8")
    return path


def _rows(number: int) -> list[tuple[str, str]]:
    return [(f"row {count} says {LABELS[count % 2]}", LABELS[count % 2]) for count in range(number)]


def test_texts_that_training_will_cut_are_a_warning_in_the_log_and_on_the_page(
    tmp_path: Path, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*_rows(200), ("a sentence of rather more words than that", "joy")]
    outputs.run(_csv(tmp_path, rows), tokenizer="sentence-transformers/all-MiniLM-L6-v2", max_tokens=8)
    words = "1 text is cut at 8 tokens (training.max_length; the encoder reads up to 512)"
    assert f"warning: context_length: 1 row (0.498 %), {words}" in capsys.readouterr().out
    assert words in outputs.report
    assert sum(len(outputs.split(split)) for split in SPLITS) == 201


def test_good_data_becomes_three_splits_that_hold_every_row_once(tmp_path: Path, outputs: Outputs) -> None:
    rows = _rows(200)
    outputs.run(_csv(tmp_path, rows))
    assert outputs.files == {
        "checks",
        "rejected.csv",
        "report",
        "splits/statistics.json",
        "splits/training_rows.npz",
        "splits/test_rows.npz",
        *(f"splits/{split}.parquet" for split in SPLITS),
    }
    written = [row for split in SPLITS for row in outputs.split(split)]
    assert sorted(row["row"] for row in written) == list(range(200))
    assert all((row["text"], LABELS[row["label"]]) == rows[row["row"]] for row in written)
    assert all(len(outputs.split(split)) >= 20 for split in SPLITS)  # ten of each class


def test_the_component_writes_the_same_splits(tmp_path: Path, outputs: Outputs) -> None:
    data = _csv(tmp_path, _rows(200))
    outputs.run(data)
    expected = json.loads((outputs.splits / "statistics.json").read_text())["sha256"]
    step = tmp_path / "component"
    section = TextDataset.model_validate(
        {"name": "moods", "version": "2", "uri": str(data), "labels": LABELS}
    )
    validate_data.python_func(
        dataset=as_parameter(section),
        task="text_classification",
        data_fingerprint="f" * 64,
        splits_folder="",
        splits=SimpleNamespace(path=str(step / "splits"), uri=str(step / "splits")),
        checks=SimpleNamespace(path=str(step / "checks")),
        report=SimpleNamespace(path=str(step / "report")),
        rejected=SimpleNamespace(path=str(step / "rejected")),
    )
    assert json.loads((step / "splits" / "statistics.json").read_text())["sha256"] == expected


def test_the_parquet_columns_are_those_of_the_contract(tmp_path: Path, outputs: Outputs) -> None:
    outputs.run(_csv(tmp_path, _rows(200)))
    schema = pq.read_schema(outputs.splits / "train.parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "text": pa.string(),
        "label": pa.int64(),
        "row": pa.int64(),
    }


def test_the_same_data_give_the_same_splits_and_others_by_another_key(
    tmp_path: Path, outputs: Outputs
) -> None:
    hashes = []
    for key in ("", "", "again"):
        outputs.run(_csv(tmp_path, _rows(200)), split={"key": key})
        hashes.append(json.loads((outputs.splits / "statistics.json").read_text())["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_statistics_say_where_the_data_came_from(tmp_path: Path, outputs: Outputs) -> None:
    uri = _csv(tmp_path, _rows(200))
    outputs.run(uri, commit_hash="cafe", created="2026-11-21", size=200)
    statistics = json.loads((outputs.splits / "statistics.json").read_text())
    assert statistics["created"] == "2026-11-21"
    assert statistics["uri"] == str(uri)
    assert (statistics["name"], statistics["version"], statistics["commit_hash"]) == ("moods", "2", "cafe")
    assert statistics["rows"] == {split: len(outputs.split(split)) for split in SPLITS}


def test_data_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path, outputs: Outputs) -> None:
    with pytest.raises(DataError, match=r"dataset\.size: found 200 rows in .*, expected 1,000"):
        outputs.run(_csv(tmp_path, _rows(200)), size=1_000)
    assert not outputs.splits.exists()


def test_bad_data_leaves_checks_and_report_and_no_splits(
    tmp_path: Path, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*_rows(200), ("[red]again[/red]", "joy"), ("[red]Again![/red]", "joy"), ("what?", "anger")]
    with pytest.raises(DataError) as caught:
        outputs.run(_csv(tmp_path, rows))
    assert outputs.files == {"checks", "report", "rejected.csv"}
    assert outputs.checks["passed"] is False
    by_name = {check["check"]: check for check in outputs.checks["checks"]}
    assert by_name["exact_duplicates"]["verdict"] == "fail"
    assert by_name["exact_duplicates"]["rows_affected"] == 1
    assert by_name["unknown_labels"]["examples"] == [
        "label “anger”: 1 row",
        "train.csv line 204: label “anger” of “what?”",
    ]
    message = str(caught.value)
    assert "failed 2 of 10 checks" in message
    assert (
        "unknown_labels: found 1 row (0.493 %), expected at most 0 % of the rows "
        "(dataset.checks.unknown_labels.max_fraction)" in message
    )
    assert "exact_duplicates: found 1 row" in message
    printed = capsys.readouterr().out
    assert re.search(r"unknown_labels\s+│ fail\s+│\s+1 │ label “anger”: 1 row", printed)
    assert "“[red]again[/red]”: train.csv line 202, train.csv line 203" in printed
    assert "\x1b" not in printed


def test_what_the_manifest_lets_drop_passes_without_those_rows(tmp_path: Path, outputs: Outputs) -> None:
    rows = [*_rows(200), ("again", "joy"), ("Again!", "joy")]
    outputs.run(_csv(tmp_path, rows), checks={"exact_duplicates": {"severity": "drop", "max_fraction": 0.01}})
    kept = [row["text"] for split in SPLITS for row in outputs.split(split)]
    assert len(kept) == 201
    assert "Again!" not in kept
    assert outputs.checks["passed"] is True


def test_latin1_data_stops_the_run_by_the_encoding_check(tmp_path: Path, outputs: Outputs) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes("".join(["text;label\n", *(f"café {n};joy\n" for n in range(40))]).encode("latin-1"))
    with pytest.raises(DataError, match=r"encoding: found 40 rows \(100 %\)"):
        outputs.run(path)
    assert "byte 0xe9, which is not UTF-8, at character 4" in outputs.checks["checks"][0]["examples"][0]


def test_ten_million_characters_in_a_row_stop_the_run_and_fit_into_the_report(
    tmp_path: Path, outputs: Outputs
) -> None:
    with pytest.raises(DataError, match="text_length: found 1 row") as caught:
        outputs.run(_csv(tmp_path, [*_rows(200), ("many words " * 910_000, "joy")]))
    assert "rows_per_class" not in str(caught.value)
    (example,) = outputs.checks["checks"][3]["examples"]
    assert example.startswith("train.csv line 202: 10,010,000 characters: “many words")
    assert len(outputs.report) < 100_000


def test_one_class_stops_the_run_and_names_the_absent_one(tmp_path: Path, outputs: Outputs) -> None:
    with pytest.raises(DataError, match="rows_per_class: found fear has 0 in train"):
        outputs.run(_csv(tmp_path, [(f"row {n}", "joy") for n in range(100)]))


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_stands_alone_and_shows_data_as_text(tmp_path: Path, outputs: Outputs) -> None:
    attack = "<script>alert(1)</script>"
    with pytest.raises(DataError):
        outputs.run(_csv(tmp_path, [*_rows(200), (attack, "joy"), (attack, "fear")]))
    page = _Page(outputs.report)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert page.links == []
    assert f"“{attack}”: joy (train.csv line 202), fear (train.csv line 203)" in page.text
    assert "1 of 10 checks failed" in page.text


def test_the_report_draws_every_filled_bin_of_every_split(tmp_path: Path, outputs: Outputs) -> None:
    outputs.run(_csv(tmp_path, _rows(200)))
    statistics = json.loads((outputs.splits / "statistics.json").read_text())
    filled = sum(count > 0 for length in statistics["text_length"].values() for count in length["counts"])
    page = _Page(outputs.report)
    assert len(re.findall(r"(?:train|validation|test): [\d,]+ texts \(", page.text)) == filled
    assert "All 10 checks let the data through" in page.text


def test_a_write_that_breaks_off_leaves_neither_the_file_nor_a_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("the one before")
    with pytest.raises(OSError, match="disk"), replacing(tmp_path / "report") as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert (tmp_path / "report").read_text() == "the one before"


@dataclass
class _Artifact:
    path: str
    uri: str = ""


def test_the_component_reads_a_section_as_kfp_hands_it_over(tmp_path: Path, outputs: Outputs) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{label}\trow {n}\n" for n in range(100) for label in (n % 2,)))
    section = TextDataset.model_validate(
        {
            "name": "moods",
            "version": "2",
            "uri": str(path),
            "labels": LABELS,
            "columns": {"text": 1, "label": 0},
            "checks": {"rows_per_class": {"min_rows": 5}},
        }
    )
    parameter = json.loads(json.dumps(as_parameter(section)), parse_int=float)
    step = outputs.root / "step"
    validate_data.python_func(
        dataset=parameter,
        task="text_classification",
        data_fingerprint="f" * 64,
        splits_folder="",
        splits=_Artifact(str(step / "splits")),
        checks=_Artifact(str(step / "checks")),
        report=_Artifact(str(step / "report")),
        rejected=_Artifact(str(step / "rejected")),
    )
    assert sum(len(outputs.split(split)) for split in SPLITS) == 100


def test_a_failed_component_ends_with_the_exit_code_of_bad_data(tmp_path: Path, outputs: Outputs) -> None:
    uri = _csv(tmp_path, [("a", "joy")])
    section = TextDataset(name="moods", version="2", uri=str(uri), labels=("joy", "fear"))
    step = outputs.root / "step"
    with pytest.raises(SystemExit) as caught:
        validate_data.python_func(
            dataset=as_parameter(section),
            task="text_classification",
            data_fingerprint="f" * 64,
            splits_folder="",
            splits=_Artifact(str(step / "splits")),
            checks=_Artifact(str(step / "checks")),
            report=_Artifact(str(step / "report")),
            rejected=_Artifact(str(step / "rejected")),
        )
    assert caught.value.code == 4
    assert "rows_per_class" in json.loads((step / "error.json").read_text())["message"]
    assert (step / "rejected" / "rejected.csv").is_file()
