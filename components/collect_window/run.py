"""Collect the last whole window before a scheduled time: rows of the champion, and all labels of its rows.

Harm is judged by every labelled row since the version was first asked, not by those of one window: labels
come late, and the detector's rate of false alarms holds for the whole series.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import copyfile

import pyarrow as pa
from pyarrow import parquet

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import BUNDLE_TAG, PREVIOUS, ModelVersion, Registry, turns
from gauntlet.backends.rollouts import open_monitoring
from gauntlet.components.collect_window.labels import newest_labels
from gauntlet.components.collect_window.log import (
    Part,
    answered_events,
    here,
    last_window,
    parts_of,
    within,
)
from gauntlet.contracts.monitoring import CollectedWindow, MonitoringRecord
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.monitoring import Monitoring

WINDOW_FILE, ROWS_FOLDER = "window.json", "rows"
LABELLED_FILE, ALARM_FILE = "labelled.parquet", "alarm.parquet"


def run(
    name: str, monitoring: Monitoring, registry_uri: str, scheduled: datetime, folder: Path
) -> CollectedWindow:
    """Write the window to a folder, as `CollectedWindow` describes it.

    Raises:
        UsageError: The manifest names no log, or the model has no champion.
        DataError: A file of the log or of the labels is broken.
    """
    if monitoring.log is None:
        raise UsageError(
            f"{name}: monitoring.log: found none, expected the folder of the request log. Add it to the "
            "manifest."
        )
    registry = open_registry(registry_uri)
    champion = registry.champion(name)
    if champion is None:
        raise UsageError(f"{name}: no version is the champion, so nothing is monitored. Promote one.")
    start, end = last_window(scheduled, monitoring.window_hours)
    record = open_monitoring(name, registry_uri).read()[0] or MonitoringRecord(model=name)
    promoted = _promoted(champion)
    before = _version_before(registry, name, promoted, start, monitoring.probation_hours)
    labels = newest_labels(monitoring.labels) if monitoring.labels else newest_labels(str(folder / "none"))
    parts = [part for part in parts_of(monitoring.log, name) if part.hour < end]
    chosen = within(parts, champion.version, start, end)
    for part in chosen:
        _copy(part, folder / ROWS_FOLDER)
    labelled = _labelled(parts, champion.version, labels, before.version if before else "")
    parquet.write_table(labelled, folder / LABELLED_FILE)
    episode, alarm_version = record.episode, ""
    if episode is not None and not episode.ended and episode.version != champion.version:
        alarm_version = episode.version
        first, last = (datetime.fromisoformat(one) for one in (episode.start, episode.alarm))
        shown = [part for part in parts if first <= part.hour < last]
        parquet.write_table(_labelled(shown, alarm_version, labels, ""), folder / ALARM_FILE)
    found = CollectedWindow(
        model=name,
        version=champion.version,
        bundle_uri=champion.bundle_uri,
        bundle_sha256=champion.tags[BUNDLE_TAG],
        start=start.isoformat(),
        end=end.isoformat(),
        files=len(chosen),
        promoted_at=promoted or "",
        previous_version=before.version if before else "",
        previous_bundle_uri=before.bundle_uri if before else "",
        windows_changed=_changed_before(record, champion.version, start),
        harm_since=record.restarted_at,
        alarm_version=alarm_version,
    )
    found.write(folder / WINDOW_FILE)
    return found


def scheduled_time(text: str) -> datetime:
    """The time that a platform or a person gives: ISO 8601; empty, or 1970 of an unscheduled run, is now."""
    if not text or text.startswith("1970"):
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"scheduled: found {text!r}, expected a time such as 2026-12-01T08:00:00Z."
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _promoted(champion: ModelVersion) -> str | None:
    """When the champion was promoted; None if a rollback has made it champion, which has no probation."""
    last = max(turns([champion]), key=lambda turn: turn.at, default=None)
    return last.at if last is not None and last.kind == "promote" else None


def _version_before(
    registry: Registry, name: str, promoted: str | None, start: datetime, hours: float
) -> ModelVersion | None:
    if promoted is None or start >= datetime.fromisoformat(promoted) + timedelta(hours=hours):
        return None
    return registry.by_alias(name, PREVIOUS)


def _copy(part: Part, folder: Path) -> None:
    target = folder / part.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with here(part) as file:
        copyfile(file, target)


def _labelled(parts: Sequence[Part], version: str, labels: pa.Table, other: str) -> pa.Table:
    """The labelled rows of a version, with what another one predicted for the same events."""
    own = [part for part in parts if part.version == version]
    events = labels["event_id"].to_pylist()
    rows = answered_events(own, events) if events else answered_events([], [])
    places = {event: at for at, event in enumerate(events)}
    taken = labels.take(pa.array([places[event] for event in rows["event_id"].to_pylist()], pa.int64()))
    others: dict[str, str] = {}
    if other and rows.num_rows:
        asked = answered_events(
            [part for part in parts if part.version == other], rows["event_id"].to_pylist()
        )
        others = dict(zip(asked["event_id"].to_pylist(), asked["predicted"].to_pylist(), strict=True))
    told = pa.array([others.get(event) for event in rows["event_id"].to_pylist()], pa.string())
    columns = {name: rows[name] for name in ("event_id", "time", "predicted", "input")}
    return pa.table({**columns, "label": taken["label"], "source": taken["source"], "other": told})


def _changed_before(record: MonitoringRecord, version: str, start: datetime) -> int:
    """How many windows in a row, up to `start`, had a proven change."""
    count, expected = 0, start.isoformat()
    for window in reversed(record.windows):
        if window.end > expected:
            continue
        if window.version != version or window.end != expected or not window.families:
            break
        count, expected = count + 1, window.start
    return count
