"""`gauntlet validate` on bad data, small ones here and large ones by `make acceptance`: one message."""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gauntlet import manifests
from gauntlet.pipelines.cli import main

LABELS = ("no", "yes")
ODD_LABELS = ("NA", "null", "None", "nan", "True", "1.0")
SAMPLE = Path(manifests.__file__).with_name("emotion_sample.yaml")

Write = Callable[[Path, int], Mapping[str, Any]]
"""Writes bad data of a size into a folder, and returns keys of `dataset`."""


def rows(count: int, labels: tuple[str, ...] = LABELS) -> list[tuple[str, str]]:
    return [
        (f"sentence {at} about topic {at * 13 % 97} and {at * 7 % 89}", labels[at % len(labels)])
        for at in range(count)
    ]


def as_csv(path: Path, found: list[tuple[str, str]], more: bytes = b"", header: str = "text,label") -> Path:
    lines = [header, *(f"{text},{label}" for text, label in found)]
    path.write_bytes("\n".join(lines).encode() + b"\n" + more)
    return path


def as_parquet(path: Path, texts: list[Any], labels: list[Any]) -> Path:
    pq.write_table(pa.table({"text": texts, "label": labels}), path, row_group_size=1 + len(texts) // 10)
    return path


def long_field(folder: Path, size: int) -> Mapping[str, Any]:
    more = b'"' + b"word " * (size // 5) + b'",no\n'
    return {"uri": str(as_csv(folder / "a.csv", rows(200), more))}


def many_labels(folder: Path, size: int) -> Mapping[str, Any]:
    found = [(text, f"label{at}") for at, (text, _) in enumerate(rows(size))]
    return {"uri": str(as_csv(folder / "a.csv", found))}


def cut_parquet(folder: Path, size: int) -> Mapping[str, Any]:
    found = rows(size)
    path = as_parquet(folder / "a.parquet", [text for text, _ in found], [label for _, label in found])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return {"uri": str(path)}


def other_type(folder: Path, size: int) -> Mapping[str, Any]:
    texts = [text for text, _ in rows(size)]
    as_parquet(folder / "a.parquet", texts, [at % 2 for at in range(size)])
    as_parquet(folder / "b.parquet", texts, [LABELS[at % 2] for at in range(size)])
    return {"uri": str(folder / "*.parquet")}


def nothing_matches(folder: Path, size: int) -> Mapping[str, Any]:
    as_csv(folder / "a.csv", rows(size))
    return {"uri": str(folder), "files": {"train": "*.parquet"}}


def open_quote(folder: Path, size: int) -> Mapping[str, Any]:
    """A quote in line 5 that may close in line 6, in a file that is not valid CSV because of line 11."""
    found = rows(size)
    found[3:5] = ('"' + found[3][0], "no"), (found[4][0] + '"', "yes")
    found[9] = ('"It" is a text', "yes")
    return {"uri": str(as_csv(folder / "a.csv", found))}


def two_encodings(folder: Path, size: int) -> Mapping[str, Any]:
    more = "Grüße an alle,no\n".encode("latin-1") + "Grüße an viele,no\n".encode()
    return {"uri": str(as_csv(folder / "a.csv", rows(size), more))}


def nul_bytes(folder: Path, size: int) -> Mapping[str, Any]:
    return {"uri": str(as_csv(folder / "a.csv", rows(size), b"a text \0 with it,no\n"))}


def two_columns_of_a_name(folder: Path, size: int) -> Mapping[str, Any]:
    found = [(text, f"{label},{label}") for text, label in rows(size)]
    return {"uri": str(as_csv(folder / "a.csv", found, header="text,label,label"))}


def numbers_as_texts(folder: Path, size: int) -> Mapping[str, Any]:
    labels = [LABELS[at % 2] for at in range(size)]
    return {"uri": str(as_parquet(folder / "a.parquet", list(range(size)), labels))}


CASES: Mapping[Write, tuple[int, int, int, str]] = {
    long_field: (100_000, 10**8, 4, r"text_length: found 1 row .*expected at most 0 % of the rows"),
    many_labels: (2_000, 10**6, 4, r"unknown_labels: found [\d,]+ rows \(100 %\)"),
    cut_parquet: (2_000, 10**6, 4, r"a.parquet: not a whole parquet file: .*Fetch it again"),
    other_type: (200, 10**6, 4, r"b.parquet: dataset.columns.label: found text, and numbers in a.parquet"),
    nothing_matches: (200, 200, 2, r"\*.parquet\n  expected a file or folder that exists"),
    open_quote: (200, 10**6, 4, r"a.csv line 5: this quote may close in line 6, or be part of the text"),
    two_encodings: (200, 10**6, 4, r"encoding: found 1 row "),
    nul_bytes: (200, 10**6, 4, r"encoding: found 1 row "),
    two_columns_of_a_name: (200, 10**6, 4, r"a.csv: found several columns label, expected one of a name"),
    numbers_as_texts: (200, 10**6, 4, r"a.parquet row 0: found “0” \(int\) in the text column"),
}
"""By what writes the data: the size here and the full size, the exit code, and what the message says."""


def validated(folder: Path, dataset: Mapping[str, Any]) -> int:
    """The exit code of `gauntlet validate` on a manifest with this dataset."""
    content = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    content["dataset"] = {"name": "bad", "version": "1", "labels": list(LABELS), **dataset}
    manifest = folder / "bad.yaml"
    manifest.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(manifest), "--output", str(folder / "out")])
    return int(ended.value.code or 0)


def refuses(write: Write, size: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, code, said = CASES[write]
    found = validated(folder, write(folder, size))
    errors = capsys.readouterr().err
    assert found == code, errors
    assert re.search(said, errors), errors
    assert "Traceback" not in errors
    assert len(errors) < 2_000
    assert not (folder / "out/splits").exists()


@pytest.mark.parametrize("write", CASES)
def test_bad_data_are_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    refuses(write, CASES[write][0], tmp_path, capsys)


@pytest.mark.acceptance
@pytest.mark.parametrize("write", CASES)
def test_bad_data_are_refused_in_one_message_at_full_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write
) -> None:
    refuses(write, CASES[write][1], tmp_path, capsys)


@pytest.mark.acceptance
@pytest.mark.parametrize("suffix", [".csv.gz", ".zip"])
def test_a_file_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    path, block = tmp_path / f"a{suffix}", b"0" * 2**20
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.csv", "w") as file:
            for _ in range(2_000):
                file.write(block)
    else:
        with gzip.open(path, "wb", 1) as packed:
            for _ in range(2_000):
                packed.write(block)
    assert validated(tmp_path, {"uri": str(path)}) == 4
    assert "expected at most 1.0 GiB. If you trust the file" in capsys.readouterr().err


def test_labels_that_other_programs_take_for_no_value_or_another_type_are_what_they_are(
    tmp_path: Path,
) -> None:
    path = as_csv(tmp_path / "a.csv", rows(600, ODD_LABELS))
    assert validated(tmp_path, {"uri": str(path), "labels": list(ODD_LABELS)}) == 0
