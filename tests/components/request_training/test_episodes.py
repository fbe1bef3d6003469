"""One episode asks for one training at a time, waits longer after each rejection, and ends with the harm."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from gauntlet.components.request_training.episodes import EpisodeRules, answered, judged, to_publish
from gauntlet.contracts.drift import DriftRecord, Harm, Paired
from gauntlet.contracts.monitoring import CollectedWindow, MonitoringRecord

DAY = timedelta(days=1)
FIRST = datetime(2026, 12, 1, tzinfo=UTC)
RULES = EpisodeRules(attempts=2, cool_down=timedelta(hours=36))
HARM = Harm(labelled=600, by_class={}, errors=150, promised=0.12, run_length=1e6, largest=5e6, is_proven=True)


def window(day: int, version: str = "1") -> CollectedWindow:
    return CollectedWindow(
        model="emotion",
        version=version,
        bundle_uri="",
        bundle_sha256="",
        start=(FIRST + day * DAY).isoformat(),
        end=(FIRST + (day + 1) * DAY).isoformat(),
        files=1,
    )


def drift(outcome: Any, **more: Any) -> DriftRecord:
    harm = HARM if outcome in ("retrain", "label", "roll back", "watch") else None
    found: dict[str, Any] = {"harm": harm, "changed": (), **more}
    return DriftRecord(
        model="emotion",
        bundle="",
        start="",
        end="",
        rows=1_000,
        reference_rows=1,
        alpha=0.001,
        tolerance=0.05,
        outcome=outcome,
        reason="",
        next_step="",
        families={},
        **found,
    )


def after(
    record: MonitoringRecord, day: int, found: DriftRecord, version: str = "1"
) -> tuple[MonitoringRecord, str | None]:
    """The record after the window of a day, looked at when it has ended, and the event that is published."""
    now = FIRST + (day + 1) * DAY
    record = judged(record, window(day, version), found, RULES, now)
    asked = to_publish(record, found)
    return record, asked.event if asked else None


NEW = MonitoringRecord(model="emotion")
EPISODE = hashlib.sha256(b"emotion\n1\nharm\n2026-12-01T00:00:00+00:00").hexdigest()


def test_an_episode_is_published_until_a_run_has_started_and_then_no_more() -> None:
    record, event = after(NEW, 0, drift("retrain"))
    assert event == EPISODE
    record = answered(record, event, "skipped", "cool-down", FIRST + DAY)
    again, event = after(record, 0, drift("retrain"))  # the same window again
    assert (again, event) == (record, EPISODE)
    record, event = after(record, 1, drift("retrain"))
    assert event == EPISODE
    record = answered(record, event, "started", "submitted", FIRST + 2 * DAY)
    record, event = after(record, 2, drift("retrain"))
    assert event is None
    assert [one.end[:10] for one in record.windows] == ["2026-12-02", "2026-12-03", "2026-12-04"]


def test_rejected_trainings_wait_twice_as_long_and_end_with_people() -> None:
    record, event = after(NEW, 0, drift("retrain"))
    assert event is not None
    record = answered(record, event, "started", "", FIRST + DAY)
    record, event = after(record, 1, drift("retrain"))  # 24 h after the start of the run
    assert event is None
    record, event = after(record, 2, drift("retrain"))  # 48 h, more than the cool-down of 36 h
    assert event == f"{EPISODE}-1"
    record = answered(record, event, "started", "", FIRST + 3 * DAY)
    record, event = after(record, 4, drift("retrain"))  # 48 h, less than twice the cool-down
    assert event is None
    record, event = after(record, 6, drift("retrain"))
    assert event is None
    assert record.episode is not None
    assert record.episode.for_people.startswith("2 trainings")


def test_harm_without_rows_to_train_on_begins_the_episode_and_asks_for_nothing() -> None:
    record, event = after(NEW, 0, drift("label"))
    assert (record.episode is not None, event) == (True, None)
    record, event = after(record, 1, drift("retrain"))
    assert event == EPISODE


def test_a_fault_of_the_log_begins_no_episode_and_asks_for_no_training_in_one() -> None:
    record, event = after(NEW, 0, drift("investigate", harm=HARM))
    assert (record.episode, event) == (None, None)
    record, _ = after(record, 1, drift("retrain"))
    record, event = after(record, 2, drift("investigate", harm=HARM))
    assert event is None
    assert record.episode is not None
    assert not record.episode.ended


def test_an_episode_ends_when_the_harm_does_and_the_next_one_is_another() -> None:
    record, _ = after(NEW, 0, drift("retrain"))
    record, event = after(record, 1, drift("none", keeps_promise=True))
    assert record.episode is not None
    assert record.episode.ended
    assert record.restarted_at == "2026-12-02T00:00:00+00:00"
    record, event = after(record, 2, drift("retrain"))
    assert event == hashlib.sha256(b"emotion\n1\nharm\n2026-12-03T00:00:00+00:00").hexdigest()


def test_a_promoted_version_must_be_better_on_the_alarms_window() -> None:
    record, event = after(NEW, 0, drift("retrain"))
    assert event is not None
    record = answered(record, event, "started", "", FIRST + DAY)
    paired = Paired(version="1", rows=500, errors=20, other_errors=130, p_value=1.0)
    cured, _ = after(record, 1, drift("none", rescored=paired, rescored_keeps_promise=True), "2")
    assert cured.episode is not None
    assert "version 2 is wrong in 20 of the 500" in cured.episode.ended

    worse = paired.model_copy(update={"errors": 125})
    found = drift("retrain", rescored=worse, rescored_keeps_promise=False)
    stopped, event = after(record, 1, found, "2")
    assert event is None
    assert stopped.episode is not None
    assert "the training did not help" in stopped.episode.for_people
    stopped, event = after(stopped, 2, found, "2")
    assert event is None


def test_an_older_window_that_is_looked_at_again_changes_no_episode() -> None:
    record, _ = after(NEW, 0, drift("none"))
    record, _ = after(record, 1, drift("retrain"))
    again, _ = after(record, 0, drift("retrain"))
    assert again.episode == record.episode
    assert [one.outcome for one in again.windows] == ["retrain", "retrain"]
