"""`gauntlet monitor` on request logs that are drawn here: clean, shifted, harmful, faulty and broken ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from gauntlet.contracts.drift import DriftRecord
from gauntlet.pipelines.cli import main
from gauntlet.serving.request_log import COLUMNS, _JsonPart, _ParquetPart

LABELS = ("anger", "joy", "love")
MIX = np.array([0.3, 0.5, 0.2])


def rows(
    count: int, seed: int, longer: float = 1.0, harm: float = 0.0, **fixed: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of a request log and the label of each.

    Probabilities are calibrated and 10 % of the predictions are wrong; `harm` is the share of further errors.
    """
    rng = np.random.default_rng(seed)
    given, best = rng.choice(3, count, p=MIX), 0.6 + 0.4 * rng.beta(3, 1, count)
    is_wrong = (rng.random(count) > best) | (rng.random(count) < harm)
    truths = np.where(is_wrong, (given + rng.integers(1, 3, count)) % 3, given)
    found, labels = [], {}
    for at in range(count):
        probabilities = np.full(3, (1 - best[at]) / 2)
        probabilities[given[at]] = best[at]
        event = f"event-{seed}-{at:06d}-0"
        found.append(
            dict.fromkeys(COLUMNS)
            | {
                "event_id": event,
                "request_id": event[:-2],
                "time": datetime(2026, 11, 30, tzinfo=UTC) + timedelta(seconds=at),
                "model": "emotion",
                "version": "1",
                "bundle_sha256": "0123456789ab",
                "schema_version": 1,
                "sample_rate": 0.1,
                "client": f"client-{at % 40}",
                "status": 200,
                "latency_ms": 3.0,
                "tokens": int(rng.poisson(20 * longer)) + 2,
                "predicted": LABELS[given[at]],
                "confidence": float(probabilities.max()),
                "entropy": float(-(probabilities * np.log(probabilities)).sum()),
                "energy": float(-rng.gamma(9, 0.5)),
                "probabilities": probabilities.tolist(),
                "feature_characters": float(rng.poisson(90 * longer)),
            }
            | fixed
        )
        labels[event] = LABELS[truths[at]]
    return found, labels


def write(folder: Path, found: list[dict[str, Any]], part: type[_JsonPart] = _ParquetPart) -> Path:
    made = part(["feature_characters"])
    made.add(found)
    hour = folder / "model=emotion" / "version=1" / "date=2026-11-30" / "hour=00"
    hour.mkdir(parents=True)
    (hour / f"part-host-1-1{made.suffix}").write_bytes(made.data())
    return folder


def write_labels(file: Path, labels: Mapping[str, str]) -> Path:
    csv.write_csv(pa.table({"event_id": list(labels), "label": list(labels.values())}), file)
    return file


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    found, labels = rows(2_000, seed=1)
    return write(tmp_path_factory.mktemp("reference") / "log", found), labels


def monitor(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["monitor", *map(str, arguments)])
    return int(ended.value.code or 0)


def outcome(tmp_path: Path, reference: Path, found: list[dict[str, Any]], *more: object) -> DriftRecord:
    log, output = write(tmp_path / "log", found), tmp_path / "drift"
    assert monitor("--log", log, "--reference", reference, "--output", output, *more) == 0
    assert "<svg" in (output / "drift.html").read_text(encoding="utf-8")
    return DriftRecord.read(output / "drift.json")


def test_a_clean_window_needs_nothing_and_gives_the_same_bytes_twice(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    record = outcome(tmp_path, reference[0], rows(800, seed=2)[0])
    assert (record.outcome, record.changed, record.faults) == ("none", (), ())
    first = [(tmp_path / "drift" / name).read_bytes() for name in ("drift.json", "drift.html")]
    assert (
        monitor("--log", tmp_path / "log", "--reference", reference[0], "--output", tmp_path / "drift") == 0
    )
    assert first == [(tmp_path / "drift" / name).read_bytes() for name in ("drift.json", "drift.html")]


def test_longer_texts_are_watched_and_not_retrained_on(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    record = outcome(tmp_path, reference[0], rows(800, seed=3, longer=1.2)[0])
    assert (record.outcome, record.changed) == ("watch", ("features", "joint"))
    said = capsys.readouterr().out
    assert "features, joint changed" in said
    assert "--labels" in said


def test_proven_harm_asks_for_labels_until_a_retraining_has_enough(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    found, labels = rows(1_500, seed=4, harm=0.25)
    few = dict(list(labels.items())[:300])
    file = write_labels(tmp_path / "few.csv", reference[1] | few)
    record = outcome(tmp_path, reference[0], found, "--labels", file)
    assert record.harm is not None
    assert (record.outcome, record.harm.is_proven, record.harm.labelled) == ("label", True, 300)
    assert "200 more labelled rows" in record.next_step
    write_labels(file, reference[1] | labels)
    more = ("--reference", reference[0], "--labels", file, "--output", tmp_path / "drift")
    assert monitor("--log", tmp_path / "log", *more) == 0
    assert DriftRecord.read(tmp_path / "drift" / "drift.json").outcome == "retrain"


def test_a_model_that_keeps_its_promise_is_not_harmful_and_its_accuracy_is_estimated(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    found, labels = rows(1_500, seed=5)
    file = write_labels(tmp_path / "labels.csv", reference[1] | labels)
    record = outcome(tmp_path, reference[0], found, "--labels", file)
    assert record.harm is not None
    assert record.estimated is not None
    assert not record.harm.is_proven
    assert record.estimated.accuracy == pytest.approx(0.9, abs=0.02)
    shares = {name: [*labels.values()].count(name) / 1_500 for name in LABELS}
    assert record.estimated.class_shares == pytest.approx(shares, abs=0.05)


def test_estimates_are_withheld_outside_the_support(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    found, _ = rows(600, seed=6)
    for row in found[:60]:
        row["energy"] = 3.0
    file = write_labels(tmp_path / "labels.csv", reference[1])
    record = outcome(tmp_path, reference[0], found, "--labels", file)
    assert record.estimated is not None
    assert record.estimated.accuracy is None
    assert "outside the support" in str(record.estimated.withheld)


def test_a_fault_of_the_log_comes_before_any_drift(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    found, _ = rows(800, seed=7, longer=1.5)
    for row in found[:400]:
        row["client"] = "client-0"
    for row in found[400:]:
        row |= {"sample_rate": 0.5, "feature_characters": None}
    record = outcome(tmp_path, reference[0], found + found[:100])
    assert record.outcome == "investigate"
    assert [fault.split(" ", 1)[1] for fault in record.faults] == [
        "rows have the event_id of an earlier row",
        "sample rate changed within the window: 0.1, 0.5",
        "of the rows come from one client",
        "has no value in 50% of the rows",
    ]


def test_one_row_is_too_little(tmp_path: Path, reference: tuple[Path, dict[str, str]]) -> None:
    assert outcome(tmp_path, reference[0], rows(1, seed=8)[0]).outcome == "too little"


def test_lines_of_json_give_what_parquet_gives(
    tmp_path: Path, reference: tuple[Path, dict[str, str]]
) -> None:
    found, _ = rows(300, seed=9)
    record = outcome(tmp_path, reference[0], found)
    log = write(tmp_path / "json", found, _JsonPart)
    assert monitor("--log", log, "--reference", reference[0], "--output", tmp_path / "other") == 0
    other = DriftRecord.read(tmp_path / "other" / "drift.json")
    assert other.families == pytest.approx(record.families)


def test_bad_input_is_one_message_that_says_what_to_do(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(log: Path, expected: str, code: int = 4) -> None:
        output = tmp_path / "none"
        assert monitor("--log", log, "--reference", reference[0], "--output", output) == code
        said = " ".join(capsys.readouterr().err.split())
        assert expected in said
        assert "Traceback" not in said
        assert not output.exists()

    refused(tmp_path / "absent", "no such folder", 2)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found no file that ends in .parquet")
    refused(write(tmp_path / "no rows", []), "found no row")
    first, second = rows(50, seed=10)[0], rows(50, seed=11, bundle_sha256="ba9876543210")[0]
    refused(write(tmp_path / "two", first + second), "found rows of 2 bundles")
    refused(write(tmp_path / "other", second), "expected those of the reference")
    cut = write(tmp_path / "cut", first)
    [part] = cut.rglob("*.parquet")
    part.write_bytes(part.read_bytes()[:-200])
    refused(cut, "cannot be read")
    parquet.write_table(pa.table({"event_id": ["a"]}), part)
    refused(cut, "found no column time, model")


def test_two_labels_of_an_event_need_a_time(
    tmp_path: Path, reference: tuple[Path, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    event = next(iter(reference[1]))
    file = tmp_path / "labels.csv"
    events, labels = [*reference[1], event], [*reference[1].values(), "surprise"]
    csv.write_csv(pa.table({"event_id": events, "label": labels}), file)
    log = ("--log", reference[0], "--reference", reference[0], "--output", tmp_path / "drift")
    assert monitor(*log, "--labels", file) == 4
    assert "labelled_at" in capsys.readouterr().err
    times = list(range(len(events)))
    csv.write_csv(pa.table({"event_id": events, "label": labels, "labelled_at": times}), file)
    assert monitor(*log, "--labels", file) == 0
    harm = DriftRecord.read(tmp_path / "drift" / "drift.json").harm
    assert harm is not None
    assert harm.by_class["surprise"] == 1
