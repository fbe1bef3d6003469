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
        at: When it was asked for first; ISO 8601, UTC.
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
    """The file of a model. `windows` are the newest, oldest first; `episode` is the last one."""

    written_by: ClassVar[str] = "request-training"

    format: int = FORMAT
    model: str
    windows: tuple[JudgedWindow, ...] = ()
    episode: Episode | None = None
