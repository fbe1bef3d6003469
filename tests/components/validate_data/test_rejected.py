from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from gauntlet import manifests
from gauntlet.components.validate_data.run import harmless, run
from gauntlet.manifests.dataset import Dataset
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.schema import section_of
from gauntlet.pipelines.cli import main
from gauntlet.tasks.image_classification.tiny import write_files
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests import drawn_cards, drawn_images
from tests.drawn_cards import read_splits, write_cards, write_splits
from tests.drawn_images import draw
from tests.language_models import conversations, write_jsonl

LABELS = ("billing", "delivery")


def rejected(folder: Path) -> list[dict[str, str]]:
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tickets(folder: Path, extra: list[str]) -> Path:
    rows = [f"{LABELS[at % 2]} question number {at} of somebody,{LABELS[at % 2]}" for at in range(200)]
    path = folder / "tickets.csv"
    path.write_text("\n".join(["text,label", *rows, *extra]) + "\n", encoding="utf-8")
    return path


def refused(section: Dataset, folder: Path, task: str = "text_classification") -> str:
    with pytest.raises(DataError) as raised:
        run(task, section, folder / "splits", folder / "checks.json", folder / "report.html")
    return str(raised.value)


def settings(folder: Path) -> dict[str, Any]:
    checks = json.loads((folder / "checks.json").read_text(encoding="utf-8"))["checks"]
    return {key: value for check in checks for key, value in check["settings"].items()}


def test_every_row_at_fault_is_listed_with_its_line_and_value_and_not_five_of_them(tmp_path: Path) -> None:
    unknown = [f"something else number {at},acount" for at in range(30)]
    path = tickets(
        tmp_path,
        [
            *unknown,
            "no label here,",
            "a bell \x07 rings,billing",
            "delivery question number 1 of somebody,billing",
        ],
    )
    section = TextDataset(name="t", version="1", uri=str(path), labels=LABELS)
    refused(section, tmp_path)
    rows = rejected(tmp_path)
    assert [(row["line"], row["value"]) for row in rows if row["check"] == "unknown_labels"] == [
        (str(line), "acount") for line in range(202, 232)
    ]
    by_check = {row["check"]: row for row in rows}
    assert (by_check["empty_values"]["file"], by_check["empty_values"]["line"]) == ("tickets.csv", "232")
    assert (by_check["empty_values"]["value"], by_check["empty_values"]["verdict"]) == (
        "no label here",
        "fail",
    )
    assert "no label" in by_check["empty_values"]["reason"]
    assert "U+0007" in by_check["encoding"]["reason"]
    assert {row["line"] for row in rows if row["check"] == "conflicting_labels"} == {"3", "234"}
    assert "billing" in by_check["conflicting_labels"]["reason"]
    assert {row["line"] for row in rows if row["check"] == "near_duplicates"} <= {
        str(n) for n in range(2, 235)
    }


def test_cells_are_no_formulas_and_the_file_is_as_rfc_4180_has_it(tmp_path: Path) -> None:
    path = tickets(
        tmp_path, ['"=cmd|\' /C calc\'!A0, ""x""",="1+1"', "@SUM(A1) of something,-2", "+1 to all of it,a"]
    )
    refused(TextDataset(name="t", version="1", uri=str(path), labels=LABELS), tmp_path)
    rows = [row for row in rejected(tmp_path) if row["check"] == "unknown_labels"]
    assert [row["value"] for row in rows] == ['\'="1+1"', "'-2", "a"]
    assert (tmp_path / "rejected.csv").read_bytes().count(b"\r\n") == len(rejected(tmp_path)) + 1
    assert [harmless(cell) for cell in ("=1", "+1", "-1", "@a", "\t=1", "＝1", "1=1", "")] == [
        "'=1", "'+1", "'-1", "'@a", "'\t=1", "'＝1", "1=1", "",
    ]  # fmt: skip


def test_the_settings_together_let_all_of_the_data_through(tmp_path: Path) -> None:
    few = [f"account matter number {at} that somebody has,account" for at in range(12)]
    path = tickets(
        tmp_path, [*few, "no label here,", "odd one,acount", few[0], f"{few[1].partition(',')[0]},billing"]
    )
    content = {"name": "t", "version": "1", "uri": str(path), "labels": [*LABELS, "account"]}
    refused(TextDataset.model_validate(content), tmp_path)
    advised = settings(tmp_path)
    assert advised["dataset.checks.empty_values.severity"] == "drop"
    assert {"dataset.checks.rows_per_class.min_rows", "dataset.checks.exact_duplicates.max_fraction"} <= set(
        advised
    )
    checks: dict[str, Any] = {}
    for key, value in advised.items():
        if key.startswith("dataset.checks."):
            _, _, check, bound = key.split(".")
            checks.setdefault(check, {})[bound] = value
    again = tmp_path / "again"
    section = section_of("text_classification", "dataset", content | {"checks": checks})
    run("text_classification", section, again / "splits", again / "checks.json", again / "report.html")
    assert (again / "splits" / "statistics.json").is_file()
    assert {row["check"] for row in rejected(again)} >= {"empty_values", "unknown_labels", "exact_duplicates"}


def test_records_of_conversations_images_and_cards_are_listed_too(tmp_path: Path) -> None:
    records = [*conversations(), ("Hello?", " "), conversations()[0]]
    talk = write_jsonl(tmp_path / "talk.jsonl", records)
    section = ConversationDataset(name="t", version="1", uri=str(talk), tokenizer="gemini-2.5-flash")
    refused(section, tmp_path / "talk", "managed_causal_lm")
    found = [(row["file"], row["line"], row["check"]) for row in rejected(tmp_path / "talk")]
    assert found == [("talk.jsonl", "73", "empty_conversations"), ("talk.jsonl", "74", "exact_duplicates")]

    train = draw(20, seed=0)
    train[0][7] = 9
    train[1][[2, 5]] = 30
    content = drawn_images.dataset(write_files(tmp_path / "idx", train, draw(20, seed=1)))
    refused(
        section_of("image_classification", "dataset", content), tmp_path / "images", "image_classification"
    )
    listed = rejected(tmp_path / "images")
    assert [(row["line"], row["value"]) for row in listed if row["check"] == "unknown_labels"] == [
        ("image 2", "30"),
        ("image 5", "30"),
    ]
    assert [row["reason"] for row in listed if row["check"] == "empty_images"] == ["every pixel is 9"]

    folder = write_cards(tmp_path / "cards")
    splits = read_splits(folder)
    splits["train"][3]["grade"] = 11
    write_splits(folder, splits)
    cards = section_of("ordinal_grading", "dataset", drawn_cards.dataset(folder))
    refused(cards, tmp_path / "cards_out", "ordinal_grading")
    wrong = [row for row in rejected(tmp_path / "cards_out") if row["check"] == "grade_range"]
    assert [(row["line"], row["reason"]) for row in wrong] == [
        ("train[3]", "grade 11, expected a whole number from 1 to 10")
    ]


def test_validate_writes_checks_page_and_rows_shows_the_table_and_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    tickets(tmp_path, ["something else,acount"])
    path = tmp_path / "my tickets.yaml"
    path.write_text(
        "{name: tickets, description: d, task: text_classification, gates: {min_macro_f1: 0.5}, "
        "dataset: {name: t, version: '1', uri: tickets.csv, labels: [billing, delivery]}}",
        encoding="utf-8",
    )
    assert gauntlet("validate", str(path), "--set", "seed=3", "--output", str(tmp_path / "out")) == 4
    printed = capsys.readouterr()
    called = f"gauntlet validate '{path}' --output {tmp_path / 'out'} --set seed=3"
    assert f"{called} --set dataset.checks.unknown_labels." in printed.out
    assert "unknown_labels" in printed.out and str(tmp_path / "out" / "rejected.csv") in printed.out
    assert "failed 1 of 12 checks" in printed.err and "MANIFEST" not in printed.out + printed.err
    command = next(line for line in printed.out.splitlines() if "--set dataset.checks" in line)
    advised = shlex.split(command[command.index("gauntlet validate") :])[1:]
    assert gauntlet(*advised) == 0
    assert "│ pass" in capsys.readouterr().out
    assert gauntlet("validate", str(path)) == 4
    capsys.readouterr()
    for folder in (tmp_path / "out", tmp_path / "home" / "validation" / "tickets"):
        assert {file.name for file in folder.iterdir()} == {"checks.json", "report.html", "rejected.csv"}
    assert gauntlet("runs") == 0
    assert "no runs in" in capsys.readouterr().out


def test_validate_of_data_that_cannot_be_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    sample = Path(manifests.__path__[0]) / "emotion_sample.yaml"
    data = tmp_path / "empty.csv"
    data.write_text("", encoding="utf-8")
    assert gauntlet("validate", str(sample), "--set", f"dataset.uri={data}") == 4
    assert "found an empty file" in capsys.readouterr().err
    assert gauntlet("validate", str(tmp_path / "none.yaml")) == 2


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
