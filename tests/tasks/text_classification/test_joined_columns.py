"""Several columns of a row as one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from gauntlet.manifests.errors import DataError
from gauntlet.tasks.text_classification.data import read_table
from gauntlet.tasks.text_classification.manifest import TextDataset

ROWS = [
    {"subject": "Late", "body": "Where is it?", "price": 3, "team": "delivery"},
    {"subject": None, "body": "Hello\nagain", "price": 4, "team": "billing"},
    {"subject": "Bill", "body": None, "price": None, "team": "billing"},
    {"subject": None, "body": " ", "price": None, "team": "billing"},
]


def section(uri: Path, columns: dict[str, Any], **keys: Any) -> TextDataset:
    content = {"name": "t", "version": "1", "uri": str(uri), "labels": ["billing", "delivery"]}
    return TextDataset.model_validate(content | {"columns": {"label": "team"} | columns} | keys)


def written(folder: Path, form: str) -> Path:
    path = folder / f"tickets.{form}"
    frame = pd.DataFrame(ROWS)
    if form == "parquet":
        frame.astype({"price": "Int64"}).to_parquet(path)
    elif form == "csv":
        frame.astype({"price": "Int64"}).to_csv(path, index=False)
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_are_joined_in_the_same_way_in_every_format(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form)
    plain = read_table(section(path, {"text": ["subject", "body"]}))
    assert [None if pd.isna(text) else text for text in plain["text"]] == [
        "Late\nWhere is it?", "Hello\nagain", "Bill", None,
    ]  # fmt: skip
    template = "{{{subject}}} {body} for {price}, {subject}"
    filled = read_table(section(path, {}, text_template=template))
    assert filled["text"].tolist()[:2] == ["{Late} Where is it? for 3, Late", "{} Hello\nagain for 4,"]
    assert filled["label"].tolist() == ["delivery", "billing", "billing", "billing"]
    assert filled["place"].iloc[0].startswith(path.name)


def test_a_column_that_the_file_lacks_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    with pytest.raises(DataError, match=r"no column topic: .*columns found: subject, body, price, team"):
        read_table(section(path, {"text": ["subject", "topic"]}))
    with pytest.raises(DataError, match="no column topic"):
        read_table(section(path, {}, text_template="{subject} {topic}"))


@pytest.mark.parametrize(
    ("columns", "template", "words"),
    [
        ({"text": ["subject", "body"]}, "{subject} {topic}", "name the same columns in both"),
        ({"text": "message"}, "{subject}", "name the same columns in both"),
        ({"text": ["subject", "team"]}, None, "columns.label team is part of the text too"),
        ({"text": ["subject", "body"], "label": None}, None, "columns.label must be set"),
        ({"text": ["subject", "subject"]}, None, "several names, each once"),
        ({"text": []}, None, "several names, each once"),
        ({"text": ["subject", 1]}, None, "several names, each once"),
        ({"text": -1}, None, "its position from 0"),
        ({}, "{subject", "names of columns in braces"),
        ({}, "no columns", "it names none"),
        ({}, "{subject:>3}", "a format, which nothing reads"),
        ({}, "{}", "it names none"),
    ],
)
def test_a_template_that_cannot_be_filled_is_one_fault(
    columns: dict[str, Any], template: str | None, words: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        section(Path("t.csv"), columns, text_template=template)
    (fault,) = raised.value.errors()
    assert words in fault["msg"]
