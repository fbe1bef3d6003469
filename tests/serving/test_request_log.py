"""The request log: what it has of a request, what it does not, and where."""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import dataset

from gauntlet.serving.bundle import open_model
from gauntlet.serving.request_log import COLUMNS, MOST_ROWS, Event, RequestLog
from gauntlet.serving.telemetry import Metrics
from tests.fakes.bucket import Bucket
from tests.serving.running import SECONDS, running
from tests.text_bundles import certified

KEY = "a key"


def sampled(event_id: str, rate: float) -> bool:
    key = hashlib.blake2b(KEY.encode()).digest()
    found = hashlib.blake2b(event_id.encode(), key=key, digest_size=8).hexdigest()
    return int(found, 16) / 16**16 < rate


def test_the_rows_in_the_sample_are_logged_by_hour_without_their_texts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--request-log", str(log), "--sample-rate", "0.5")
    with running(str(certified(tmp_path)), *options, GAUNTLET_REQUEST_LOG_KEY=KEY) as server:
        for number in range(20):
            headers = {"X-Gauntlet-Event": f"e{number}", "X-Gauntlet-Arm": "canary"}
            asked = {"instances": ["good", "bad bad fine bad fine"]}
            answer = httpx.post(server.url + "/predict", json=asked, headers=headers, timeout=SECONDS)
            assert answer.headers["x-gauntlet-event"] == answer.json()["metadata"]["event"] == f"e{number}"
        own = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS)
        code, lines, _ = server.end()
    assert code == 0
    assert [line["event"] for line in lines][:2] == ["e0", "e1"]
    assert own.headers["x-gauntlet-event"][14] == "7"  # the version of the UUID
    [path] = log.rglob("*.parquet")
    partition = [part.partition("=")[0] for part in path.relative_to(log).parts[:-1]]
    assert partition == ["model", "version", "date", "hour"]
    table = dataset.dataset(path).to_table()
    assert table.column_names[: len(COLUMNS)] == list(COLUMNS)
    rows = {row["event_id"]: row for row in table.to_pylist()}
    expected = {f"e{number}-{at}" for number in range(20) for at in (0, 1)}
    assert rows.keys() & expected == {one for one in expected if sampled(one, 0.5)}
    good = next(row for name, row in rows.items() if name in expected and name.endswith("-0"))
    assert (good["predicted"], good["model"], good["arm"], good["status"]) == ("good", "moods", "canary", 200)
    assert good["probabilities"] == pytest.approx([0.1192, 0.8808], abs=1e-4)  # softmax of 0 and 2
    assert good["confidence"] == pytest.approx(0.8808, abs=1e-4)
    assert good["entropy"] == pytest.approx(0.3653, abs=1e-4)
    assert good["energy"] == pytest.approx(-2.1269, abs=1e-4)  # -log(1 + e²)
    long = next(row for name, row in rows.items() if name in expected and name.endswith("-1"))
    features = [long[f"feature_{name}"] for name in ("characters", "tokens", "cut")]
    assert features == [21, 4, 1]  # a model of 4 tokens
    assert long["input"] is None
    assert "127.0.0.1" not in str(rows)
    assert len({row["client"] for row in rows.values()}) == 1


def test_without_pyarrow_rows_are_lines_of_json_and_a_bucket_gets_them_in_one_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
    monkeypatch.setitem(cast(Any, __import__("sys").modules), "pyarrow", None)
    log = RequestLog("gs://bucket/log/", 1.0, "full", KEY, Metrics())
    log.add(event(tmp_path, "good"))
    log.close(SECONDS)
    [(name, data)] = bucket.objects.items()
    assert name.startswith("gs://bucket/log/model=a%20b/version=1/date=2026-12-01/hour=09/part-")
    assert name.endswith(".jsonl.gz")
    [line] = gzip.decompress(data).splitlines()
    row = json.loads(line)
    assert row.keys() >= COLUMNS.keys()
    assert (row["input"], row["predicted"], row["time"]) == ("good", "good", "2026-12-01T09:30:00Z")


def test_with_store_nothing_a_row_says_nothing_of_what_was_asked_or_answered(tmp_path: Path) -> None:
    log = RequestLog(str(tmp_path / "log"), 1.0, "nothing", KEY, Metrics())
    log.add(event(tmp_path, "good"))
    log.close(SECONDS)
    [row] = dataset.dataset(tmp_path / "log").to_table().to_pylist()
    filled = {name for name, value in row.items() if value is not None}
    assert filled == {*list(COLUMNS)[: list(COLUMNS).index("predicted")]}


def test_rows_that_do_not_fit_and_rows_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    log = RequestLog(str(tmp_path / "log"), 1.0, "features", KEY, metrics)
    log.add(event(tmp_path, "good", rows=MOST_ROWS + 1))
    (tmp_path / "log/model=a%20b").write_text("a file where a folder should be")
    log.add(event(tmp_path, "bad"))
    log.close(SECONDS)
    families = text_string_to_metric_families(metrics.page().decode())
    counts = {one.name: one.value for family in families for one in family.samples}
    assert counts["gauntlet_dropped_events_total"] == MOST_ROWS + 2
    assert counts["gauntlet_logged_events_total"] == 0


def event(tmp_path: Path, text: str, rows: int = 1) -> Event:
    folder = tmp_path / text
    model = cast(Any, open_model(certified(folder)))
    row = model.read([text])
    [answer] = model.run([row])
    return Event(
        request_id="r",
        trace_id="0" * 32,
        time=datetime(2026, 12, 1, 9, 30, tzinfo=UTC),
        model=model,
        identity={"model": "a b", "version": "1", "bundle_sha256": "0" * 12},
        arm="control",
        client="10.0.0.1",
        status=200,
        seconds=0.0015,
        instances=[{"text": text}] * rows,
        rows=[row] * rows,
        answers=[answer] * rows,
    )
