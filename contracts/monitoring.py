"""What the monitoring of a model remembers: the windows that were judged, and the episode that lasts."""

from __future__ import annotations

from typing import ClassVar, Literal

from gauntlet.contracts.document import Document
from gauntlet.contracts.drift import Outcome

FORMAT = 1

Progress = Literal["asked", "started", "skipped", "rejected"]


class JudgedWindow(Document):
    """One window of one version; ISO 8601, UTC. `families` are those whose change was proven."""

    version: str
    start: str
    end: str
    rows: int
    outcome: Outcome
    families: tuple[str, ...] = ()


class Attempt(Document):
    """One request for a training.

    Attributes:
        event: The id of the request: publishing it again makes no second run.
        at: When it was asked for first, and from `started` on when it was started; ISO 8601, UTC.
        said: What the receiver answered last.
    """

    event: str
    at: str
    progress: Progress = "asked"
    said: str = ""


class Episode(Document):
    """From the first window that showed harm to the first that does not, or to another version.

    Attributes:
        id: sha256 of the model, the version, the rule and the start; the same on every machine.
        start: The start of the first window with harm.
        alarm: The end of that window.
        ended: Why it is over; empty while it lasts.
        for_people: Why no training is asked for any more.
    """

    id: str
    version: str
    rule: str
    start: str
    alarm: str
    attempts: tuple[Attempt, ...] = ()
    for_people: str = ""
    ended: str = ""


class MonitoringRecord(Document):
    """The file of a model.

    Attributes:
        windows: The newest, oldest first.
        episode: The last one.
        restarted_at: From when on rows count for harm: since then the model has kept its promise again.
    """

    written_by: ClassVar[str] = "request-training"

    format: int = FORMAT
    model: str
    windows: tuple[JudgedWindow, ...] = ()
    episode: Episode | None = None
    restarted_at: str = ""


class CollectedWindow(Document):
    """What collect-window has put together, as `window.json`; times are ISO 8601, UTC.

    `rows/` beside it has the files of the log, and `labelled.parquet` the labelled rows of the version since
    it was first asked, in the order of time: `event_id`, `time`, `predicted`, `input`, `label`, `source`, and
    `other`, what the version before predicted. `alarm.parquet` has those of the episode that lasts.

    Attributes:
        bundle_uri: Of the version, the champion.
        bundle_sha256: Of its `bundle.json`, 64 digits.
        files: How many files of the log the window has.
        previous_version, previous_bundle_uri: The version before, while this one is on probation; else empty.
        windows_changed: How many windows in a row before this one had a proven change.
        harm_since: From when on labelled rows count for harm; empty: from the version's first row.
        alarm_version: The version that the episode that lasts is about, if it is not this one; else empty.
    """

    written_by: ClassVar[str] = "collect-window"

    model: str
    version: str
    bundle_uri: str
    bundle_sha256: str
    start: str
    end: str
    files: int
    promoted_at: str = ""
    previous_version: str = ""
    previous_bundle_uri: str = ""
    windows_changed: int = 0
    harm_since: str = ""
    alarm_version: str = ""
    format: int = FORMAT
