"""Record what a window showed, and publish the request for a training while its episode has started none.

With `monitoring.receiver` the request is posted there, and its answer recorded. Else it is only written, and
`gauntlet monitor` takes it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gauntlet.backends.deployment import ConflictError
from gauntlet.backends.rollouts import MonitoringRecords, open_monitoring
from gauntlet.components.collect_window.run import WINDOW_FILE
from gauntlet.components.request_training.episodes import EpisodeRules, answered, judged, to_publish
from gauntlet.contracts.document import write_json
from gauntlet.contracts.drift import DriftRecord
from gauntlet.contracts.monitoring import CollectedWindow, MonitoringRecord, Progress
from gauntlet.contracts.training_request import CLOUD_EVENT, TrainingRequest, decision_event
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.monitoring import Monitoring

TRIES = 5
SECONDS = 60
LONGEST_DETAIL = 500
PROGRESS: Mapping[str, Progress] = {"submitted": "started", "duplicate": "started"}
"""Of the receiver's outcomes; after any other the request is published again with the next window."""
Change = Callable[[MonitoringRecord], MonitoringRecord]


def run(
    name: str,
    monitoring: Monitoring,
    registry_uri: str,
    max_hours: float,
    window_folder: Path,
    drift_file: Path,
    request_file: Path,
) -> dict[str, Any] | None:
    """Write the request, an empty object if none is made; returns it.

    Raises:
        GauntletError: The record cannot be read or written, or the receiver cannot be reached.
    """
    window = CollectedWindow.read(window_folder / WINDOW_FILE)
    drift = DriftRecord.read(drift_file)
    now = datetime.now(UTC).replace(microsecond=0)
    rules = EpisodeRules(
        attempts=monitoring.attempts,
        cool_down=timedelta(hours=max(monitoring.cool_down_hours, max_hours)),
        may_ask=monitoring.retrain_on != "never",
    )
    records = open_monitoring(name, registry_uri)
    record = change(records, name, lambda before: judged(before, window, drift, rules, now))
    asked = to_publish(record, drift)
    event = None
    if asked is not None:
        request = TrainingRequest(manifest=name, reason="drift", detail=drift.reason[:LONGEST_DETAIL])
        event = decision_event(request, asked.event, name, window.version, datetime.fromisoformat(asked.at))
    write_json(request_file, event or {})
    print(said(record, drift), flush=True)
    if event is not None and monitoring.receiver is not None:
        outcome, message = post(monitoring.receiver, event)
        print(f"{monitoring.receiver}: {outcome}: {message}", flush=True)
        record_answer(records, name, str(event["id"]), outcome, message)
    return event


def change(records: MonitoringRecords, name: str, how: Change) -> MonitoringRecord:
    """Read the record, change it and write it, again if another process has written it in the meantime."""
    for attempt in range(TRIES):
        before, generation = records.read()
        after = how(before or MonitoringRecord(model=name))
        if after == before:
            return after
        try:
            records.write(after, generation)
            return after
        except ConflictError:
            if attempt == TRIES - 1:
                raise
    raise AssertionError


def record_answer(records: MonitoringRecords, name: str, event: str, outcome: str, message: str) -> None:
    """Record what the receiver, or `gauntlet monitor` in its place, answered to a request."""
    progress = "rejected" if outcome == "rejected" else PROGRESS.get(outcome, "skipped")
    now = datetime.now(UTC).replace(microsecond=0)
    change(records, name, lambda before: answered(before, event, progress, f"{outcome}: {message}", now))


def said(record: MonitoringRecord, drift: DriftRecord) -> str:
    """The outcome and the episode in a few lines."""
    lines = [f"{drift.outcome}: {drift.reason}. {drift.next_step}"]
    episode = record.episode
    if episode is not None:
        state = episode.ended or (f"for people: {episode.for_people}" if episode.for_people else "lasts")
        lines.append(f"episode {episode.id[:12]} since {episode.start[:16]} UTC: {state}")
    return "\n".join(lines)


def post(receiver: str, event: Mapping[str, Any]) -> tuple[str, str]:
    """Send a request to the receiver; returns the outcome and the message of its answer.

    Raises:
        GauntletError: It cannot be reached, or does not answer as a receiver does.
    """
    headers = {"Content-Type": CLOUD_EVENT, **_identity(receiver)}
    asked = urllib.request.Request(receiver, json.dumps(event).encode(), headers)
    try:
        try:
            with urllib.request.urlopen(asked, timeout=SECONDS) as stream:
                body = stream.read()
        except urllib.error.HTTPError as error:  # refused or failed, which it says in the same form
            body = error.read()
        answer = json.loads(body)
        return str(answer["outcome"]), f"{answer['message']} {answer.get('job', '')}".strip()
    except OSError as error:
        raise GauntletError(f"monitoring.receiver: {receiver}: cannot be reached ({error}).") from None
    except (ValueError, KeyError, TypeError) as error:
        raise GauntletError(
            f"monitoring.receiver: {receiver}: answers as no receiver does ({error})."
        ) from None


def _identity(receiver: str) -> dict[str, str]:
    """The token that Cloud Run admits this step's service account by; none for a plain HTTP address."""
    if not receiver.startswith("https://"):
        return {}
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request
    from google.oauth2.id_token import fetch_id_token

    try:
        return {"Authorization": f"Bearer {fetch_id_token(Request(), receiver)}"}
    except GoogleAuthError as error:
        raise GauntletError(f"monitoring.receiver: no token for {receiver} ({error}).") from None
