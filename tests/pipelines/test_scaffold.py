"""`gauntlet new`: the manifest that is proposed for data of each form, and what it says of other data."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.cli import main

WORDS = ("parcel", "never", "came", "nobody", "answers", "mails", "please", "refund", "invoice", "today")

MANY = "multi_label_text_classification"
COLUMNS = {"text": "text", "target": "y"}


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))


def sentences(number: int) -> list[str]:
    """Different sentences, hardly any word in the same place."""
    rng = random.Random(0)
    return [
        " ".join(rng.choices(WORDS, k=9)) + f" {place * 7919} {place * 104729}" for place in range(number)
    ]


def new(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["new", *arguments])
    return int(ended.value.code or 0)


def written(file: str = "mine.yaml") -> Any:
    return yaml.safe_load(Path(file).read_text())


def test_texts_with_classes_become_a_classifier_whose_manifest_passes_check_and_validate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = sentences(120)
    teams = ["billing", "delivery", "technical"]
    rows = {"id": range(120), "message": texts, "team": [teams[place % 3] for place in range(120)]}
    pl.DataFrame(rows).write_csv("tickets.csv")
    assert new("mine", "--data", "tickets.csv") == 0
    manifest = written()
    assert manifest["task"] == "text_classification"
    assert manifest["dataset"]["uri"] == "tickets.csv"
    assert manifest["dataset"]["columns"] == {"text": "message", "label": "team"}
    assert sorted(manifest["dataset"]["labels"]) == teams
    assert "next: gauntlet run mine.yaml" in capsys.readouterr().out
    assert load_manifest("mine.yaml").name == "mine"


@pytest.mark.parametrize(
    ("column", "task", "keys"),
    [
        (
            [round(place / 7, 2) for place in range(120)],
            "regression",
            {"columns": {"text": "text", "target": "y"}},
        ),
        (
            [["a", "a|b", "b|c", "c"][place % 4] for place in range(120)],
            MANY,
            {"label_separator": "|", "labels": ["a", "b", "c"]},
        ),
        (
            [[["a"], ["a", "b"], ["b"]][place % 3] for place in range(120)],
            MANY,
            {},
        ),
        ([place % 2 for place in range(120)], "text_classification", {"labels": ["0", "1"]}),
        ([["1.5", "2.5"][place % 2] for place in range(120)], None, {}),
    ],
    ids=["numbers", "separated labels", "lists of labels", "two whole numbers", "two broken numbers"],
)
def test_the_values_decide_the_task(column: list[Any], task: str | None, keys: dict[str, Any]) -> None:
    rows = zip(sentences(120), column, strict=True)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text, "y": y}) + "\n" for text, y in rows))
    code = new("mine", "--data", "rows.jsonl")
    if task is None:
        assert code == 2
        assert not Path("mine.yaml").exists()
        return
    manifest = written()
    assert manifest["task"] == task
    found = manifest["dataset"]
    assert {key: sorted(found[key]) if key == "labels" else found[key] for key in keys} == keys
    load_manifest("mine.yaml")


def test_a_table_without_a_header_is_read_by_position() -> None:
    rows = zip(sentences(120), ["yes", "no"] * 60, strict=True)
    Path("rows.tsv").write_text("".join(f"{text}\t{label}\t7\n" for text, label in rows))
    new("mine", "--data", "rows.tsv")
    assert written()["dataset"]["columns"] == {"text": 0, "label": 1}


def test_images_in_folders_become_a_classifier_of_their_usual_size() -> None:
    for place in range(24):
        image = Image.effect_noise((70, 90), 60)
        path = Path("photos", "train" if place % 3 else "test", ("cat", "dog")[place % 2], f"{place}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    assert new("mine", "--data", "photos") == 4  # too few of each
    manifest = written()
    assert (manifest["task"], manifest["dataset"]["shape"]) == ("image_classification", [64, 64])
    assert manifest["dataset"]["channels"] == 1


def test_conversations_become_a_language_model() -> None:
    rows = [{"instruction": text, "input": "", "output": text[::-1]} for text in sentences(20)]
    Path("rows.json").write_text(json.dumps(rows))
    new("mine", "--data", "rows.json")  # its model is fetched from a hub, which tests cannot reach
    assert written()["task"] == "causal_lm"


def test_bounds_that_data_miss_are_offered_as_comments_that_pass(capsys: pytest.CaptureFixture[str]) -> None:
    texts = sentences(120)
    texts[1::2] = texts[::2]
    labels = [["a", "a", "b", "b"][place % 4] for place in range(120)]
    pl.DataFrame({"text": texts, "label": labels}).write_csv("rows.csv")
    assert new("mine", "--data", "rows.csv") == 4
    assert "exact_duplicates: found 60 rows" in capsys.readouterr().err
    before, _, offered = Path("mine.yaml").read_text().partition("merging this:\n")
    bounds = yaml.safe_load("\n".join(line.removeprefix("# ") for line in offered.splitlines()))
    merged = yaml.safe_load(before)
    merged["dataset"] |= bounds["dataset"]
    Path("merged.yaml").write_text(yaml.safe_dump(merged))
    with pytest.raises(SystemExit) as ended:
        main(["validate", "merged.yaml"])
    assert not ended.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mine", "--data", "nowhere.csv"), "nowhere.csv: no such file or folder"),
        (("Mine!", "--data", "rows.csv"), "NAME: found 'Mine!', expected such as my_tickets"),
        (
            ("mine", "--data", "rows.csv", "--task", "ordinal_grading"),
            "expected one that can propose",
        ),
        (("mine", "--data", "rows.csv"), "found nothing that suits"),
        (("mine", "--data", "rows.csv", "--output", "there.yaml"), "there.yaml: found a file, expected none"),
        (("mine", "--data", "cut.parquet"), "cut.parquet: found no parquet file"),
        (("mine", "--data", "empty.csv"), "empty.csv: found no rows"),
    ],
)
def test_a_mistake_gets_one_message_and_no_file(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.csv").write_text("a,b\n1,2\n3,4\n")
    Path("there.yaml").write_text("kept")
    Path("cut.parquet").write_bytes(b"PAR1 and no more")
    Path("empty.csv").write_text("text,label\n")
    assert new(*arguments) in (2, 4)
    assert message in capsys.readouterr().err
    assert not Path("mine.yaml").exists()
    assert Path("there.yaml").read_text() == "kept"
