"""`gauntlet monitor` with the baseline of a bundle, and rows that are counted piece by piece."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import beta

from gauntlet.components.detect_drift.counts import KNOWN_IDS, Seen, count_rows
from gauntlet.components.detect_drift.reference import MadeOf, log_reference
from gauntlet.components.detect_drift.rows import PIECE_ROWS, Parts
from gauntlet.contracts.drift import ARRAYS_FILE, BASELINE_FILE, BaselineArrays, DriftRecord
from gauntlet.serving.bundle import BUNDLE_FILE, BundleInfo, file_sha256, write_bundle
from tests.components.detect_drift.test_monitor import LABELS, monitor, rows, write, write_labels

FILES = ("model.onnx", "tokenizer.json")


def bundle_of(folder: Path, found: list[dict[str, Any]], labels: Mapping[str, str]) -> Path:
    """A bundle whose baseline is of these rows; its graph is never opened."""
    source = folder / "source"
    source.mkdir(parents=True)
    made = log_reference(
        source, Parts.below(write(folder / "held out", found)), labels, MadeOf(labels=LABELS, split="test")
    )
    made.baseline.write(source / BASELINE_FILE)
    made.arrays.write(source / ARRAYS_FILE)
    for name in FILES:
        (source / name).write_text(name)
    info = BundleInfo(
        name="emotion",
        task="text_classification",
        labels=LABELS,
        inputs=(),
        outputs=(),
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
        max_length=64,
    )
    paths = {name: source / name for name in (*FILES, BASELINE_FILE, ARRAYS_FILE)}
    write_bundle(folder / "bundle", info, paths)
    return folder / "bundle"


def served(bundle: Path) -> str:
    return file_sha256(bundle / BUNDLE_FILE)[:12]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("bundle"), *rows(2_000, seed=1))


def outcome(tmp_path: Path, bundle: Path, found: list[dict[str, Any]], *more: object) -> DriftRecord:
    log, output = write(tmp_path / "log", found), tmp_path / "drift"
    assert monitor("--log", log, "--bundle", bundle, "--output", output, *more) == 0
    assert "<svg" in (output / "drift.html").read_text(encoding="utf-8")
    return DriftRecord.read(output / "drift.json")


def test_the_baseline_of_a_bundle_finds_what_reference_rows_find(tmp_path: Path, bundle: Path) -> None:
    clean = outcome(tmp_path / "clean", bundle, rows(800, seed=2, bundle_sha256=served(bundle))[0])
    assert (clean.outcome, clean.changed, clean.faults, clean.reference_rows) == ("none", (), (), 2_000)
    found = rows(800, seed=3, longer=1.2, bundle_sha256=served(bundle))[0]
    longer = outcome(tmp_path / "longer", bundle, found)
    assert (longer.outcome, longer.changed) == ("watch", ("features",))
    reference = tmp_path / "reference"
    write(reference, rows(2_000, seed=1, bundle_sha256=served(bundle))[0])
    output = tmp_path / "other"
    log = tmp_path / "longer" / "log"
    assert monitor("--log", log, "--reference", reference, "--output", output) == 0
    other = DriftRecord.read(output / "drift.json")
    assert other.families == longer.families
    assert longer.estimated is not None
    assert other.estimated is None  # no reference row has a label


def test_harm_is_measured_against_what_the_bundle_promises(tmp_path: Path, bundle: Path) -> None:
    found, labels = rows(1_500, seed=4, harm=0.25, bundle_sha256=served(bundle))
    file = write_labels(tmp_path / "labels.csv", labels)
    record = outcome(tmp_path, bundle, found, "--labels", file)
    truths = rows(2_000, seed=1)
    wrong = sum(row["predicted"] != truths[1][row["event_id"]] for row in truths[0])
    assert record.harm is not None
    assert record.harm.promised == pytest.approx(beta.ppf(0.99, wrong + 1, 2_000 - wrong) + 0.02)
    assert (record.outcome, record.harm.is_proven, record.harm.labelled) == ("retrain", True, 1_500)
    reference = write(tmp_path / "reference", rows(500, seed=5, bundle_sha256=served(bundle))[0])
    beside = outcome(tmp_path / "beside", bundle, found, "--labels", file, "--reference", reference)
    assert (beside.harm, beside.reference_rows) == (record.harm, 500)


def test_labels_are_not_needed_to_estimate_the_accuracy(tmp_path: Path, bundle: Path) -> None:
    found, labels = rows(1_500, seed=6, bundle_sha256=served(bundle))
    record = outcome(tmp_path, bundle, found)
    right = np.mean([row["predicted"] == labels[row["event_id"]] for row in found])
    assert record.harm is None
    assert record.estimated is not None
    assert record.estimated.accuracy == pytest.approx(right, abs=0.025)


def test_the_same_rows_give_the_same_baseline_and_no_row_can_be_read_from_it(tmp_path: Path) -> None:
    found, labels = rows(1_000, seed=7)
    first, second = (bundle_of(tmp_path / name, found, labels) for name in ("first", "second"))
    for name in (BUNDLE_FILE, BASELINE_FILE, ARRAYS_FILE):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert "event-" not in (first / BASELINE_FILE).read_text()
    arrays = BaselineArrays.read(first / ARRAYS_FILE)
    assert arrays.counts["feature_characters"].sum() == 1_000
    assert arrays.by_class["probabilities[1]"].sum(0).tolist() == arrays.counts["probabilities[1]"].tolist()
    assert arrays.confusion is not None
    assert arrays.confusion.sum() == 1_000
    expected = [sum(label == name for label in labels.values()) for name in LABELS]
    assert arrays.confusion.sum(1).tolist() == expected


def test_pieces_of_a_window_give_what_the_whole_gives(tmp_path: Path) -> None:
    found, labels = rows(500, seed=8)
    reference = log_reference(tmp_path, [table(rows(300, seed=9)[0])])
    edges = reference.arrays.edges
    again = found + found[:40]
    whole = count_rows(tmp_path, [table(again)], edges, 0.0, labels)
    cut = [table(list(reversed(again[at : at + 7]))) for at in range(0, len(again), 7)]
    pieces = count_rows(tmp_path, reversed(cut), edges, 0.0, labels)
    assert whole.repeated == pieces.repeated == 40
    assert whole.predicted == pieces.predicted
    assert {name: counts.tolist() for name, counts in whole.counts.items()} == {
        name: counts.tolist() for name, counts in pieces.counts.items()
    }
    assert whole.labelled is not None
    assert pieces.labelled is not None
    assert whole.labelled.events == pieces.labelled.events == [row["event_id"] for row in found]
    assert np.array_equal(whole.probabilities, pieces.probabilities)


def table(found: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(found)


def test_an_id_is_found_again_a_million_rows_later() -> None:
    seen, rng = Seen(), np.random.default_rng(0)
    first = rng.integers(0, 2**63, PIECE_ROWS, dtype=np.uint64)
    assert seen.are_new(first).all()
    for _ in range(KNOWN_IDS // PIECE_ROWS - 1):
        assert seen.are_new(rng.integers(0, 2**63, PIECE_ROWS, dtype=np.uint64)).all()
    assert not seen.are_new(first).any()
    assert seen.are_new(np.array([7, 7, 8], dtype=np.uint64)).sum() == 2


def test_strange_values_are_faults_and_not_drift(tmp_path: Path, bundle: Path) -> None:
    found, _ = rows(600, seed=10, bundle_sha256=served(bundle))
    for row in found:
        row |= {"feature_new": 1.0, "feature_characters": float("nan"), "energy": None}
    for row in found[:30]:
        row["probabilities"] = [float("inf"), 0.0, 0.0]  # as float16 gives above 65,504
    log = tmp_path / "log"
    log.mkdir()
    pa.parquet.write_table(table(found), log / "part.parquet")
    assert monitor("--log", log, "--bundle", bundle, "--output", tmp_path / "drift") == 0
    record = DriftRecord.read(tmp_path / "drift" / "drift.json")
    assert record.outcome == "investigate"
    assert record.faults == (
        "30 rows have a probability that is no number",
        "energy has no value in any row",
        "feature_characters has no value in any row",
        "feature_new is not in the reference",
    )


def test_a_window_without_its_baseline_is_one_message(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path / "home"))
    log = write(tmp_path / "log", rows(300, seed=11, bundle_sha256=served(bundle))[0])

    def refused(expected: str, code: int, *more: object) -> None:
        assert monitor("--log", log, "--output", tmp_path / "none", *more) == code
        said = " ".join(capsys.readouterr().err.split())
        assert expected in said
        assert "Traceback" not in said
        assert not (tmp_path / "none").exists()

    refused("no registered version has the bundle", 2)
    other = bundle_of(tmp_path / "other", *rows(300, seed=12))
    refused("expected those of the reference", 4, "--bundle", other)
    content = json.loads((bundle / BUNDLE_FILE).read_text())
    older = BundleInfo.from_json(content)
    write_bundle(tmp_path / "older", older, {name: bundle / name for name in FILES})
    refused("found no baseline in the bundle", 4, "--bundle", tmp_path / "older")
    for key, value, expected in (
        ("format", 2, "format: found 2, expected 1"),
        ("log_schema", 2, "log_schema: found 2, expected 1"),
        ("model_sha256", "0" * 64, "made by another graph"),
        ("columns", ["tokens", "feature_size"], "feature_size: found no counts"),
    ):
        changed = tmp_path / key
        changed.mkdir()
        baseline = json.loads((bundle / BASELINE_FILE).read_text()) | {key: value}
        (changed / BASELINE_FILE).write_text(json.dumps(baseline))
        files = {name: bundle / name for name in (*FILES, ARRAYS_FILE)}
        write_bundle(changed / "bundle", older, files | {BASELINE_FILE: changed / BASELINE_FILE})
        found = rows(300, seed=11, bundle_sha256=served(changed / "bundle"))[0]
        log = write(changed / "log", found)
        refused(expected, 4, "--bundle", changed / "bundle")
