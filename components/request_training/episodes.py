"""Episodes of harm: when one begins and ends, and when it asks for a training. Pure functions of the record.

An episode lasts from the first window with harm until the model keeps its promise again, or until a version
that was trained for it does. It asks for a training once. If that was rejected it asks again after the
cool-down, which doubles each time, and after the last attempt it is for people.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from gauntlet.contracts.drift import DriftRecord
from gauntlet.contracts.monitoring import (
    Attempt,
    CollectedWindow,
    Episode,
    JudgedWindow,
    MonitoringRecord,
    Progress,
)

WINDOWS_KEPT = 200


@dataclass(frozen=True)
class EpisodeRules:
    """What an episode may ask for.

    Attributes:
        attempts: The most trainings.
        cool_down: Between the start of one and the next; it doubles with each that was rejected.
        may_ask: Whether a training is asked for at all.
    """

    attempts: int
    cool_down: timedelta
    may_ask: bool = True


def judged(
    record: MonitoringRecord, window: CollectedWindow, drift: DriftRecord, rules: EpisodeRules, now: datetime
) -> MonitoringRecord:
    """The record after a window. The same window again, as with late rows, replaces what it said before."""
    seen = JudgedWindow(
        version=window.version,
        start=window.start,
        end=window.end,
        rows=drift.rows,
        outcome=drift.outcome,
        families=drift.changed,
    )
    windows = [one for one in record.windows if (one.version, one.end) != (seen.version, seen.end)]
    windows = sorted([*windows, seen], key=lambda one: one.end)[-WINDOWS_KEPT:]
    is_newest = windows[-1] == seen
    record = record.model_copy(update={"windows": tuple(windows)})
    if not is_newest:  # an older one was looked at again: the episode is that of the newest
        return record
    if drift.keeps_promise:
        record = record.model_copy(update={"restarted_at": window.start})
    episode = _after(record.episode, window, drift)
    if episode is None or episode.ended:
        episode = _begun(window, drift) if _is_harmful(drift) and drift.outcome != "investigate" else episode
    if episode is not None and not episode.ended and drift.outcome == "retrain":
        episode = _asked(episode, rules, now)
    return record.model_copy(update={"episode": episode})


def to_publish(record: MonitoringRecord, drift: DriftRecord) -> Attempt | None:
    """The attempt that has not started a run yet: it is published with each window while harm lasts."""
    episode = record.episode
    if episode is None or episode.ended or episode.for_people or drift.outcome != "retrain":
        return None
    last = episode.attempts[-1] if episode.attempts else None
    return last if last is not None and last.progress in ("asked", "skipped") else None


def answered(
    record: MonitoringRecord, event: str, progress: Progress, said: str, now: datetime
) -> MonitoringRecord:
    """The record after the receiver's answer to the attempt `event`."""
    episode = record.episode
    if episode is None:
        return record
    attempts = tuple(
        one
        if one.event != event
        else one.model_copy(
            update={
                "progress": progress,
                "said": said,
                "at": now.isoformat() if progress == "started" and one.progress != "started" else one.at,
            }
        )
        for one in episode.attempts
    )
    return record.model_copy(update={"episode": episode.model_copy(update={"attempts": attempts})})


def episode_id(model: str, version: str, rule: str, start: str) -> str:
    """The same on every machine: sha256 of what began it."""
    return hashlib.sha256("\n".join((model, version, rule, start)).encode()).hexdigest()


def _is_harmful(drift: DriftRecord) -> bool:
    proven = drift.harm is not None and drift.harm.is_proven
    return proven or drift.outcome == "retrain"


def _begun(window: CollectedWindow, drift: DriftRecord) -> Episode:
    rule = "harm" if drift.harm is not None and drift.harm.is_proven else "estimate"
    named = episode_id(window.model, window.version, rule, window.start)
    return Episode(id=named, version=window.version, rule=rule, start=window.start, alarm=window.end)


def _after(episode: Episode | None, window: CollectedWindow, drift: DriftRecord) -> Episode | None:
    """The episode of before in the light of a window."""
    if episode is None or episode.ended:
        return episode
    if episode.version == window.version:
        has_ended = not _is_harmful(drift) and drift.outcome not in ("investigate", "too little")
        return (
            episode.model_copy(update={"ended": f"{window.end}: no harm any more"}) if has_ended else episode
        )
    if episode.for_people:
        has_ended = bool(drift.keeps_promise) and not _is_harmful(drift)
        return (
            episode.model_copy(update={"ended": f"{window.end}: no harm any more"}) if has_ended else episode
        )
    rescored = drift.rescored
    if rescored is None:
        why = "the alarm's rows cannot be scored again: the log does not store them (--store full)"
        return episode.model_copy(
            update={"ended": f"{window.end}: version {window.version} is the champion; {why}"}
        )
    said = (
        f"version {window.version} is wrong in {rescored.errors:,} of the {rescored.rows:,} labelled rows of "
        f"the alarm's window, version {episode.version} was in {rescored.other_errors:,}"
    )
    if drift.rescored_keeps_promise:
        return episode.model_copy(update={"ended": f"{window.end}: {said}"})
    return episode.model_copy(
        update={"for_people": f"{said}: the training did not help, and no other is asked for"}
    )


def _asked(episode: Episode, rules: EpisodeRules, now: datetime) -> Episode:
    """With a new attempt, if there is none yet or the last one was rejected long enough ago."""
    if episode.for_people or not rules.may_ask:
        return episode
    attempts = episode.attempts
    if attempts:
        last, wait = attempts[-1], rules.cool_down * 2 ** (len(attempts) - 1)
        is_over = last.progress in ("started", "rejected") and now >= datetime.fromisoformat(last.at) + wait
        if not is_over:
            return episode
        attempts = (*attempts[:-1], last.model_copy(update={"progress": "rejected"}))
        if len(attempts) >= rules.attempts:
            why = f"{len(attempts)} trainings did not give a version that the gates let through"
            return episode.model_copy(update={"attempts": attempts, "for_people": why})
    event = episode.id if not attempts else f"{episode.id}-{len(attempts)}"
    return episode.model_copy(update={"attempts": (*attempts, Attempt(event=event, at=now.isoformat()))})
