"""A window from the log to the request: late labels, two versions, rows to label, shares of the classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.registry import BUNDLE_TAG, Registry
from gauntlet.backends.rollouts import open_monitoring
from gauntlet.components.collect_window import labels as table
from gauntlet.components.collect_window.run import LABELLED_FILE
from gauntlet.components.collect_window.run import run as collect
from gauntlet.components.detect_drift import judged
from gauntlet.components.request_training.run import record_answer
from gauntlet.components.request_training.run import run as request
from gauntlet.contracts.drift import DriftRecord
from gauntlet.contracts.monitoring import MonitoringRecord
from gauntlet.manifests.monitoring import Monitoring
from gauntlet.pipelines.trigger.receiver import read_delivery
from gauntlet.serving.request_log import _ParquetPart
from tests.components.detect_drift import test_monitor
from tests.components.detect_drift.test_monitor import rows
from tests.pipelines.test_promotion import write as write_bundle

SCHEDULED = datetime(2026, 12, 1, 0, 10, tzinfo=UTC)
"""Ten minutes after the window of 30 November has ended."""


class Place:
    """A registry with two versions of `emotion`, a log, labels, and reference rows of the champion."""

    def __init__(self, folder: Path, home: Path) -> None:
        home.mkdir()
        open_client(home / "gauntlet.db")
        self.folder, self.registry_uri = folder, f"sqlite:///{home / 'gauntlet.db'}"
        self.registry: Registry = open_registry(self.registry_uri)
        self.bundles = {}
        for number in ("1", "2"):
            version = self.registry.register("emotion", write_bundle(folder / number), {"run_id": number})
            self.registry.promote("emotion", version.version)
            self.bundles[number] = version.tags[BUNDLE_TAG][:12]
        found, labels = rows(2_000, seed=1, bundle_sha256=self.bundles["2"])
        self.write(found, "2", "reference")
        self.label(labels)
        self.monitoring = Monitoring(
            log=str(folder / "log"),
            labels=str(folder / "labels"),
            reference=str(folder / "reference"),
            min_class_rows=20,
        )

    def write(self, found: list[dict[str, Any]], version: str, log: str = "log") -> None:
        """Rows of a version, in the files of their hours."""
        hours: dict[str, list[dict[str, Any]]] = {}
        for row in found:
            hours.setdefault(f"{row['time']:date=%Y-%m-%d/hour=%H}", []).append(row)
        for hour, some in hours.items():
            part = _ParquetPart(["feature_characters"])
            part.add(some)
            place = self.folder / log / "model=emotion" / f"version={version}" / hour
            place.mkdir(parents=True, exist_ok=True)
            (place / f"part-{len(list(place.iterdir()))}.parquet").write_bytes(part.data())

    def ask(self, count: int, seed: int, version: str = "2", **more: Any) -> dict[str, str]:
        """Log rows of a version; returns their labels."""
        found, labels = rows(count, seed=seed, version=version, bundle_sha256=self.bundles[version], **more)
        self.write(found, version)
        return labels

    def label(self, labels: Mapping[str, str], source: str = "ada") -> None:
        given = {"event_id": list(labels), "label": list(labels.values())}
        made = pa.table({**given, "labelled_at": [SCHEDULED] * len(labels), "source": [source] * len(labels)})
        table.add_labels(made.cast(table.SCHEMA), str(self.folder / "labels"), {}, None)

    def judge(self, at: datetime = SCHEDULED, **keys: Any) -> tuple[DriftRecord, dict[str, Any] | None]:
        """The three steps, one after the other."""
        monitoring = self.monitoring.model_copy(update=keys)
        window, drift = self.folder / f"window-{at:%d}", self.folder / f"drift-{at:%d}"
        window.mkdir(exist_ok=True)
        collect("emotion", monitoring, self.registry_uri, at, window)
        record = judged.run(monitoring, self.registry_uri, 10.0, window, drift)
        event = request(
            "emotion",
            monitoring,
            self.registry_uri,
            1.0,
            window,
            drift / "drift.json",
            drift / "request.json",
        )
        return record, event

    @property
    def record(self) -> MonitoringRecord:
        found = open_monitoring("emotion", self.registry_uri).read()[0]
        assert found is not None
        return found


@pytest.fixture
def place(tmp_path: Path, own_home: Path) -> Place:
    return Place(tmp_path, own_home)


def test_harm_asks_for_one_training_by_an_event_that_the_receiver_reads(place: Place) -> None:
    place.label(place.ask(1_000, seed=2, harm=0.3))
    drift, event = place.judge()
    assert drift.outcome == "retrain"
    assert drift.harm is not None
    assert drift.harm.labelled == 1_000
    assert event is not None
    assert (event["type"], event["subject"]) == ("gauntlet.monitoring.decision.v1", "emotion@2")
    delivery = read_delivery({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
    assert (delivery.event.manifest, delivery.event.reason) == ("emotion", "drift")
    again = place.judge()[1]
    assert again is not None
    assert again["id"] == event["id"] == place.record.episode.id  # type: ignore[union-attr]
    assert len(place.record.windows) == 1

    record_answer(open_monitoring("emotion", place.registry_uri), "emotion", event["id"], "submitted", "job")
    assert place.judge()[1] is None


def test_labels_that_come_after_their_window_count_in_the_next_one(place: Place) -> None:
    late = place.ask(1_000, seed=2, harm=0.3)
    drift, event = place.judge()
    assert (drift.harm, event) == (None, None)
    place.ask(1_000, seed=3, time=SCHEDULED)
    place.label(late)
    drift, event = place.judge(SCHEDULED + timedelta(days=1))
    assert drift.outcome == "retrain"
    assert drift.harm is not None
    assert drift.harm.labelled == 1_000
    assert event is not None


def test_too_few_labels_ask_for_more_and_name_rows_of_two_kinds(place: Place) -> None:
    labels = place.ask(1_000, seed=2, harm=0.6)
    place.label(dict(list(labels.items())[:300]))
    place.label({"unsure": "joy"}, source="uncertain")
    drift, event = place.judge(label_rows=100)
    assert (drift.outcome, event) == ("label", None)
    drawn = parquet.read_table(place.folder / "drift-01" / "to_label.parquet").to_pylist()
    assert not {row["event_id"] for row in drawn} & set(list(labels)[:300])
    by_source = {
        source: [row["confidence"] for row in drawn if row["source"] == source]
        for source in ("uniform", "uncertain")
    }
    assert {source: len(found) for source, found in by_source.items()} == {"uniform": 50, "uncertain": 50}
    assert np.mean(by_source["uncertain"]) < np.mean(by_source["uniform"]) - 0.1


def test_labels_of_rows_that_the_model_is_unsure_of_prove_no_harm(place: Place) -> None:
    labels = place.ask(1_000, seed=2, harm=0.3)
    place.label(labels, source="uncertain")
    drift, _ = place.judge()
    assert (drift.harm, drift.outcome) == (None, "none")
    joined = parquet.read_table(place.folder / "window-01" / LABELLED_FILE)
    assert joined.num_rows == 1_000  # a training may learn from them


def test_on_probation_the_version_before_is_compared_on_the_same_rows(place: Place) -> None:
    later = SCHEDULED.replace(year=2090)
    labels = place.ask(1_000, seed=2, harm=0.3, time=later)
    place.label(labels)
    shadow = rows(1_000, seed=2, version="1", bundle_sha256=place.bundles["1"], time=later)[0]
    rng = np.random.default_rng(0)
    for row in shadow:  # the version before is wrong in 5 %
        row["predicted"] = labels[row["event_id"]] if rng.random() > 0.05 else "nothing"
    place.write(shadow, "1")
    drift, event = place.judge(later + timedelta(days=1), probation_hours=1e6)
    assert (drift.outcome, event) == ("roll back", None)
    assert drift.previous is not None
    assert (drift.previous.version, drift.previous.rows) == ("1", 1_000)
    assert place.judge(later + timedelta(days=1), probation_hours=48)[0].outcome == "retrain"


def test_a_retraining_waits_until_the_errors_have_cost_as_much_as_it_may(place: Place) -> None:
    place.label(place.ask(1_000, seed=2, harm=0.3))
    drift, event = place.judge(value_per_error_usd=1e-6)
    assert (drift.outcome, event) == ("watch", None)
    assert drift.cost is not None
    # A third of the rows is wrong, an eighth was promised; of ten requests one is logged.
    assert drift.cost.errors == pytest.approx((drift.harm.loss - drift.harm.promised) * 10_000, rel=0.1)  # type: ignore[union-attr, operator]
    assert place.judge(value_per_error_usd=1.0)[0].outcome == "retrain"


def test_other_shares_of_the_same_classes_are_reweighed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_monitor, "MIX", np.array([0.6, 0.2, 0.2]))
    place.label(place.ask(3_000, seed=2))
    drift, event = place.judge()
    assert (drift.outcome, event) == ("reweigh", None)
    assert drift.estimated is not None
    assert drift.estimated.class_shares is not None
    assert drift.estimated.class_shares["anger"] == pytest.approx(0.6, abs=0.05)


def test_a_window_that_nobody_asked_in_is_too_little(place: Place) -> None:
    drift, event = place.judge()
    assert (drift.outcome, drift.rows, event) == ("too little", 0, None)
    assert "has no row of version 2" in drift.reason


def test_an_episode_ends_with_a_window_that_keeps_the_promise(place: Place) -> None:
    place.label(place.ask(1_000, seed=2, harm=0.3))
    place.judge()
    place.label(place.ask(1_000, seed=3, time=SCHEDULED))
    drift, _ = place.judge(SCHEDULED + timedelta(days=1))
    assert (drift.keeps_promise, drift.outcome) == (True, "none")
    episode = place.record.episode
    assert episode is not None
    assert episode.ended
    assert place.record.restarted_at == "2026-12-01T00:00:00+00:00"
