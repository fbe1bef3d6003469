"""The data report: what it shows of rows that are alike, of classes and of times, and how large it gets."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gauntlet.components.validate_data.checks import Alike, CheckedTable, Examination, Finding
from gauntlet.components.validate_data.duplicates import Doubles, most_alike
from gauntlet.components.validate_data.report import compared, page
from gauntlet.components.validate_data.run import run
from gauntlet.contracts.data import CheckResult
from gauntlet.manifests.kinds import task_kind
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.data import LabelledTextStatistics, LengthStatistics
from tests.conftest import LABELS

TEXT = "the quick brown fox jumps over the lazy dog and then runs across the wide green field to the river"
MOST_BYTES = 2_000_000


def section(html: str, name: str) -> str:
    """The section of a page with this id; empty if there is none."""
    found = re.search(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    return found[0] if found else ""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of 90 rows of three months, with a near-duplicate, a leak in time and a label conflict."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        (f"{label} sentence number {number} of ninety", label) for number in range(30) for label in LABELS
    ]
    rows += [(TEXT, "calm"), (f"{TEXT} <b>", "calm"), ("the same words", "calm"), ("the same words", "glad")]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [
        f'"{text}",{label},{(start + timedelta(days=day)).isoformat()}'
        for day, (text, label) in enumerate(rows)
    ]
    file = folder / "moods.csv"
    file.write_text("\n".join(["text,label,made", *lines]) + "\n")
    warning = {"severity": "warn"}
    checks = dict.fromkeys(("conflicting_labels", "near_duplicates", "leakage", "exact_duplicates"), warning)
    dataset = TextDataset.model_validate(
        {
            "name": "moods",
            "version": "1",
            "uri": str(file),
            "labels": LABELS,
            "columns": {"text": "text", "label": "label", "time": "made"},
            "checks": checks | {"rows_per_class": {"min_rows": 1, "severity": "warn"}},
        }
    )
    run("text_classification", dataset, folder / "splits", folder / "checks", folder / "page")
    return (folder / "page").read_text()


def test_near_duplicates_stand_side_by_side_with_their_different_words_marked(report: str) -> None:
    near = section(report, "near_duplicates")
    assert "<mark>&lt;b&gt;</mark>" in near and near.count("river") == 2
    assert "moods.csv line 93 " in near and "moods.csv line 92 " in near
    assert "<td>0.94</td>" in near  # 17 words of 18, by hand


def test_a_text_with_several_labels_is_shown_with_each_of_them_and_its_place(report: str) -> None:
    conflicts = section(report, "conflicting_labels")
    assert re.findall(r"<strong>(\w+)</strong>", conflicts) == ["calm", "glad"]
    assert "the same words" in conflicts and "moods.csv line 95" in conflicts


def test_rows_with_dates_are_counted_over_time(report: str) -> None:
    over_time = section(report, "time")
    assert "2026-01-01" in over_time and re.search(
        r"<title>test, 2026-\d\d-\d\d to 2026-04-\d\d: ", over_time
    )


def test_classes_are_compared_in_a_chart(report: str) -> None:
    assert re.search(r"<title>glad, train: \d+ rows \(\d+\.\d%\)</title>", section(report, "data"))


def test_words_are_new_where_only_one_text_has_them() -> None:
    ours, theirs = compared("I like red cars", "I like blue cars a lot")
    assert [word.text for word in ours if word.is_new] == ["red"]
    assert [word.text for word in theirs if word.is_new] == ["blue", "a", "lot"]


def test_the_most_similar_pairs_are_shown_and_no_row_is_on_the_right_twice() -> None:
    doubles = Doubles(
        rows=np.array([1, 2, 3, 4]),
        others=np.array([0, 0, 0, 2]),
        similarities=np.array([0.8, 0.95, 0.9, 0.9]),
    )
    index = pd.Index([10, 11, 12, 13, 14])
    assert most_alike(index, doubles) == (Alike((12, 10), 0.95), Alike((14, 12), 0.9))


def test_each_class_has_examples_of_the_training_split(report: str) -> None:
    samples = section(report, "samples")
    titles = re.findall(r'<th scope="row">(\w+)</th>', samples)
    assert titles == list(LABELS)
    assert samples.count("<li>") == 9 and samples.count("glad sentence") == 3


def test_images_that_are_alike_are_shown_as_pictures(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (60, 28, 28), dtype=np.uint8)
    images[31] = images[30]
    images[31, 0, 0] ^= 1
    for number, image in enumerate(images):
        folder = tmp_path / "drawn" / ("disc" if number % 2 else "cross")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    warning = {"severity": "warn"}
    dataset = {
        "name": "drawn",
        "version": "1",
        "uri": str(tmp_path / "drawn"),
        "shape": (28, 28),
        "channels": 1,
        "checks": {
            "near_duplicates": warning,
            "leakage": warning,
            "rows_per_class": {"min_rows": 1, **warning},
        },
    }
    section_of_images = ImageDataset.model_validate(dataset)
    run(
        "image_classification", section_of_images, *(tmp_path / name for name in ("splits", "checks", "page"))
    )
    near = section((tmp_path / "page").read_text(), "near_duplicates")
    assert near.count("data:image/png;base64,") == 2
    assert "disc/31.png" in near and "cross/30.png" in near


def test_the_report_of_ten_million_rows_with_many_classes_and_long_texts_is_below_two_megabytes() -> None:
    labels = tuple(f"class {number} of a long list of classes" for number in range(5_000))
    counts = {"train": dict.fromkeys(labels, 1_600), "validation": {}, "test": dict.fromkeys(labels, 400)}
    lengths = LengthStatistics(
        count=8_000_000, edges=(0, 20), counts=(1, 7_999_999), mean=30.0, max=9_999_999
    )
    long = "word " * 2_000
    rows = pd.DataFrame({"time": np.linspace(0, 1e9, 10_000), "split": "train", "label": labels * 2})
    read = {"text": long, "place": "a-file.csv line 1,000,000", "time": "2026-01-01"}
    table = rows.assign(**read)
    alike = tuple(Alike((row, row + 1), 0.95) for row in range(8))
    nothing = pd.Index([], dtype="int64")
    result = CheckResult(check="rows_per_class", verdict="warn", examples=tuple(long for _ in range(15_000)))
    checked = CheckedTable(rows, 10_000_000, [result])
    checked.findings = {name: Finding(nothing, nothing, (), alike=alike) for name in ("near", "leakage")}
    checked.findings["conflicting_labels"] = Finding(
        nothing, nothing, (), alike=(Alike((1, 2, 3, 4, 5)),) * 8
    )
    statistics = LabelledTextStatistics(
        name="n",
        version="1",
        uri="gs://bucket/data",
        labels=labels,
        sha256="f" * 64,
        rows={"train": 8_000_000, "validation": 0, "test": 2_000_000},
        class_counts=counts,
        text_length={"train": lengths},
        words=10**9,
        top_words={},
    )
    examined = Examination(
        table=table,
        checked=checked,
        statistics=statistics,
        content=lambda _: {},
        fingerprints="f",
        resolution="",
    )
    html = page(task_kind("text_classification"), examined)
    assert section(html, "samples") and section(html, "near") and section(html, "time")
    assert len(html.encode()) < MOST_BYTES
