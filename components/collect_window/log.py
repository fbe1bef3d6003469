"""Files of a request log, here or in a bucket, by version and hour; docs/serving.md has the layout."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from gauntlet.backends.storage import fetch, join, list_folders, list_tree, local_path
from gauntlet.components.detect_drift.rows import read_part

PLACE = re.compile(
    r"version=(?P<version>[^/]+)/date=(?P<date>\d{4}-\d\d-\d\d)/hour=(?P<hour>\d\d)/(?P<file>[^./][^/]*)"
)
SUFFIXES = (".parquet", ".jsonl.gz")
OK = 200
HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=5)
"""So long after its end the files of a window are whole: the server writes one after a minute."""


@dataclass(frozen=True)
class Part:
    """A file of the log: the version that answered, and the hour in which its requests came."""

    uri: str
    version: str
    hour: datetime

    @property
    def name(self) -> str:
        """The path below the model's folder."""
        return self.uri.partition("/model=")[2].partition("/")[2]


def last_window(scheduled: datetime, hours: int) -> tuple[datetime, datetime]:
    """The start and the end of the last whole window before a scheduled time, in UTC."""
    seconds = hours * 3600
    ends = int((scheduled - SETTLED).timestamp()) // seconds * seconds
    end = datetime.fromtimestamp(ends, UTC)
    return end - timedelta(hours=hours), end


def parts_of(log: str, model: str) -> list[Part]:
    """The files of a model, in the order of their hours; none if the log has no such model."""
    folder = f"model={quote(model, safe='')}"
    if folder not in list_folders(log):
        return []
    found = []
    for name in list_tree(join(log, folder)):
        place = PLACE.fullmatch(name)
        if place and place["file"].endswith(SUFFIXES):
            hour = datetime.fromisoformat(f"{place['date']}T{place['hour']}:00:00+00:00")
            found.append(Part(join(log, f"{folder}/{name}"), unquote(place["version"]), hour))
    return sorted(found, key=lambda part: (part.hour, part.uri))


def within(parts: Sequence[Part], version: str, start: datetime, end: datetime) -> list[Part]:
    """The files of a version whose hour lies in a window."""
    return [part for part in parts if part.version == version and start <= part.hour < end]


@contextmanager
def here(part: Part) -> Iterator[Path]:
    """The file on this machine; a copy that ends with the context if it is elsewhere."""
    path = local_path(part.uri)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / part.uri.rpartition("/")[2]
        fetch(part.uri, copy)
        yield copy


def times_of(parts: Sequence[Part]) -> dict[str, datetime]:
    """The time of each event."""
    found: dict[str, datetime] = {}
    for part in parts:
        with here(part) as file:
            table = read_part(file, ("event_id", "time"))
        found |= dict(zip(table["event_id"].to_pylist(), table["time"].to_pylist(), strict=True))
    return found


ANSWERED = pa.schema(
    {
        "event_id": pa.string(),
        "time": pa.timestamp("us", tz="UTC"),
        "bundle_sha256": pa.string(),
        "predicted": pa.string(),
        "input": pa.string(),
    }
)


def answered_events(parts: Sequence[Part], events: Collection[str]) -> pa.Table:
    """The answered rows of these events, each event once, in the order of time: the columns of `ANSWERED`.

    `input` is null where the log does not store it.
    """
    wanted, tables = pa.array(list(events), pa.string()), []
    for part in parts:
        with here(part) as file:
            table = read_part(file, (*ANSWERED.names, "status"))
        kept = table.filter(pc.and_(pc.is_in(table["event_id"], wanted), pc.equal(table["status"], OK)))
        columns = {
            field.name: kept[field.name] if field.name in kept.column_names else pa.nulls(len(kept))
            for field in ANSWERED
        }
        tables.append(pa.table(columns).cast(ANSWERED))
    if not tables:
        return ANSWERED.empty_table()
    table = pa.concat_tables(tables).sort_by([("time", "ascending"), ("event_id", "ascending")])
    firsts: dict[str, int] = {}
    for at, event in enumerate(table["event_id"].to_pylist()):
        firsts.setdefault(event, at)
    return table.take(pa.array(list(firsts.values()), pa.int64())).combine_chunks()
