"""The content of splits: what the steps after validate-data are cached by."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from gauntlet.components.fingerprint_data.run import run as fingerprint
from gauntlet.components.validate_data.content import keep, sha256_of
from gauntlet.components.validate_data.run import run
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests.conftest import FEW_ROWS, LABELS

ROWS = [(f"sentence {number} of {LABELS[number % 3]}", LABELS[number % 3]) for number in range(90)]


def validated(folder: Path, uri: Path, **keys: Any) -> tuple[str, str]:
    """The fingerprint of the files and the content of the splits."""
    given = {"name": "moods", "version": "1", "uri": str(uri), "labels": LABELS, "checks": FEW_ROWS}
    section = TextDataset.model_validate(given | keys)
    splits = folder / f"splits-{len(list(folder.iterdir()))}"
    run("text_classification", section, splits, folder / "checks", folder / "report")
    return fingerprint("text_classification", section, folder / "sources"), sha256_of(splits)


def csv(rows: list[tuple[str, str]]) -> bytes:
    return "".join(f"{text},{label}\n" for text, label in [("text", "label"), *rows]).encode()


def test_files_that_change_without_their_rows_give_splits_of_the_same_content(tmp_path: Path) -> None:
    plain, packed = tmp_path / "moods.csv", tmp_path / "2026-12-01.csv.gz"
    plain.write_bytes(csv(ROWS))
    packed.write_bytes(gzip.compress(csv(ROWS)))
    files, content = validated(tmp_path, plain)
    again, same = validated(tmp_path, packed, version="2", created="2026-12-01")
    assert again != files and same == content


def test_a_row_more_another_label_and_another_order_of_the_labels_are_other_contents(tmp_path: Path) -> None:
    contents = []
    for number, rows in enumerate([ROWS, [*ROWS, ("one more", "glad")], [(ROWS[0][0], "glad"), *ROWS[1:]]]):
        file = tmp_path / f"{number}.csv"
        file.write_bytes(csv(rows))
        contents.append(validated(tmp_path, file)[1])
    contents.append(validated(tmp_path, tmp_path / "0.csv", labels=LABELS[::-1])[1])
    assert len(set(contents)) == 4


def test_splits_are_kept_once_in_a_folder_that_is_named_by_their_content(tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "train.parquet").write_bytes(b"rows")
    (splits / "statistics.json").write_text(json.dumps({"name": "n", "version": "1", "uri": "u", "rows": {}}))
    uri = keep(splits, "abc", str(tmp_path / "kept"))
    kept = tmp_path / "kept" / "abc"
    assert uri == str(kept) and (kept / "train.parquet").read_bytes() == b"rows"
    (splits / "train.parquet").write_bytes(b"not copied, since the same name is the same content")
    assert keep(splits, "abc", str(tmp_path / "kept")) == uri
    assert (kept / "train.parquet").read_bytes() == b"rows"
    (kept / "statistics.json").unlink()  # as an interrupted copy leaves it
    keep(splits, "abc", str(tmp_path / "kept"))
    assert (kept / "train.parquet").read_bytes() != b"rows" and (kept / "statistics.json").is_file()
