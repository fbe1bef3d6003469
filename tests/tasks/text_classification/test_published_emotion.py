"""The shipped emotion manifest passes its own data check on the data set as it was published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gauntlet.components.validate_data.run import run
from gauntlet.manifests.loading import load_manifest

MANIFEST = Path(__file__).parents[3] / "manifests" / "emotion.yaml"
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
ROWS = {"train": 16_000, "validation": 2_000, "test": 2_000}
CONFLICTING = 102
"""Rows of the published files whose text also has another label: counted in all three files."""


def _write_published_sizes(folder: Path) -> None:
    """Three files of the published sizes; the first 51 texts of train are in it twice, under two labels."""
    folder.mkdir()
    for split, rows in ROWS.items():
        lines = [f"{split} sentence {row} of {row * 7919};{LABELS[row % len(LABELS)]}" for row in range(rows)]
        if split == "train":
            for row in range(CONFLICTING // 2):
                text = lines[row].partition(";")[0]
                lines[-1 - row] = f"{text};{LABELS[(row + 1) % len(LABELS)]}"
        (folder / f"{split}.txt").write_text("text;label\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _checks(data: Path, tmp_path: Path) -> dict[str, dict[str, object]]:
    manifest = load_manifest(MANIFEST, [f"dataset.uri={data}"])
    checks = tmp_path / "checks"
    run(manifest.task, manifest.dataset, tmp_path / "splits", checks, tmp_path / "report.html")
    return {check["check"]: check for check in json.loads(checks.read_text())["checks"]}


def test_conflicting_rows_of_all_three_published_files_are_dropped_and_do_not_fail(tmp_path: Path) -> None:
    _write_published_sizes(tmp_path / "emotion")
    conflicts = _checks(tmp_path / "emotion", tmp_path)["conflicting_labels"]
    assert conflicts["rows_affected"] == CONFLICTING
    assert conflicts["verdict"] == "drop"
    assert conflicts["rows_dropped"] == CONFLICTING


@pytest.mark.acceptance
def test_the_published_files_pass(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data = request.config.getoption("--data")
    if data is None:
        pytest.skip("needs the published files: make acceptance DATA=folder with emotion/")
    assert all(check["verdict"] != "fail" for check in _checks(Path(data) / "emotion", tmp_path).values())
