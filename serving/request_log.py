"""The request log: a row for each instance that was asked for, sampled, in files by model and hour.

`COLUMNS` says what a row has; docs/how-to/serve.md describes where files lie. A thread of its own makes the
rows and writes them, so that no request waits: what does not fit into its queue is dropped and counted. A
file is written under another name and put in place when it is whole; to a bucket it is one upload.

Files are Parquet where pyarrow is installed, else lines of JSON compressed by gzip: pyarrow takes 156 MB, as
much as all else that `gauntlet-serving` needs. Both have the same columns.
"""

from __future__ import annotations

import gzip
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from http.client import HTTPException
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import msgspec

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.interface import Answer, LoggedModel, Part, Row
from gauntlet.serving.settings import Store
from gauntlet.serving.storage import GS, write_object
from gauntlet.serving.telemetry import Metrics

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
COLUMNS: Mapping[str, str] = {
    "event_id": "string",  # the id of the request, and the instance's place in it: ID-0, ID-1, …
    "request_id": "string",  # X-Gauntlet-Event of the request, else of the answer
    "trace_id": "string",
    "time": "timestamp",  # UTC, microseconds, when the headers had come
    "model": "string",
    "version": "string",
    "bundle_sha256": "string",  # its first 12 digits, as in the answer
    "arm": "string",  # X-Gauntlet-Arm of the request
    "schema_version": "int32",
    "sample_rate": "float64",
    "client": "string",  # keyed hash of its address
    "status": "int32",
    "latency_ms": "float64",  # of the whole request
    "tokens": "int32",
    # From here on null, if --store is nothing.
    "predicted": "string",
    "value": "float64",  # the predicted number
    "confidence": "float32",
    "entropy": "float32",  # in nats
    "energy": "float32",  # -log Σ exp(logits)
    "probabilities": "list<float32>",  # in the order of the bundle's labels
    # And `FEATURE` columns, float64, as the kind's serving module names them.
    # Null unless --store is full.
    "input": "string",  # a text, or a JSON object of several; of images nothing
    "output": "string",  # the answer of a language model
}
FEATURE = "feature_"
MOST_ROWS, MOST_BYTES = 20_000, 64 * 2**20
"""Rows that may wait to be written, and their bytes; more are counted and dropped."""
GATHER_SECONDS = 0.25
PART_SECONDS, PART_ROWS, CHUNK_ROWS = 60.0, 10_000, 256
"""How long rows wait for a file to be whole, and how many it has; so many are encoded at once."""
TRIES = 3
CLOSING_SECONDS = 3.0
"""How long the last file may take when a server ends."""


def keyed_hash(key: str, text: str, size: int = 16) -> bytes:
    """BLAKE2b of a text with a key of any length: without the key nobody can try texts out."""
    return blake2b(text.encode(), key=blake2b(key.encode()).digest(), digest_size=size).digest()


def is_sampled(key: str, event_id: str, rate: float) -> bool:
    """Whether a row is kept. Who has the key knows which events were, without asking the log."""
    return int.from_bytes(keyed_hash(key, event_id, 8), "big") < rate * 2**64


def described(model: LoggedModel, parts: Sequence[Part], row: Row, answer: Answer | None) -> dict[str, Any]:
    """The columns of a row that say what it is and what was answered; None is no answer.

    A bundle's drift baseline is made of them too. `SCHEMA_VERSION` changes when one is computed otherwise.
    """
    features = {FEATURE + name: float(value) for name, value in model.features(parts, row).items()}
    return {"tokens": row.length, **features, **({} if answer is None else model.logged(answer))}


def arrow_schema(columns: Iterable[str]) -> pyarrow.Schema:
    """The Arrow types of `COLUMNS`, and of those of `columns` that are features."""
    import pyarrow

    types = {
        "string": pyarrow.string(),
        "timestamp": pyarrow.timestamp("us", tz="UTC"),
        "int32": pyarrow.int32(),
        "float32": pyarrow.float32(),
        "float64": pyarrow.float64(),
        "list<float32>": pyarrow.list_(pyarrow.float32()),
    }
    features = dict.fromkeys((name for name in columns if name.startswith(FEATURE)), "float64")
    return pyarrow.schema([(name, types[kind]) for name, kind in {**COLUMNS, **features}.items()])


@dataclass(frozen=True)
class Event:
    """A request that was computed or failed.

    Attributes:
        instances: Each row's parts by column.
        answers: Of each row; None if the request failed.
    """

    request_id: str
    trace_id: str
    time: datetime
    model: LoggedModel
    identity: Mapping[str, str]
    arm: str | None
    client: str
    status: int
    seconds: float
    instances: Sequence[Mapping[str, Part]]
    rows: Sequence[Row]
    answers: Sequence[Answer] | None


class RequestLog:
    """Samples requests and writes their rows below a folder, or a folder of a bucket."""

    def __init__(self, place: str, rate: float, store: Store, key: str, metrics: Metrics) -> None:
        """Write below `place`; `key` is that of `is_sampled` and of clients' hashes.

        Raises:
            UsageError: The folder cannot be made.
        """
        self._place, self._rate, self._store, self._metrics = place.rstrip("/"), rate, store, metrics
        self._key = key
        if not place.startswith(GS):
            try:
                Path(place).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"--request-log: {place}: {error.strerror}. Name another folder.") from None
        self._part: type[_JsonPart | _ParquetPart] = _ParquetPart if find_spec("pyarrow") else _JsonPart
        self._name = f"part-{socket.gethostname()}-{os.getpid()}"
        self._number = int(time.time())  # no other process of this host and number has written it
        self._waiting: deque[tuple[Event, list[int], int]] = deque()
        self._added, self._taken = [0, 0], [0, 0]  # rows and bytes; each is changed by one thread
        self._open: dict[tuple[str, str, str], _JsonPart | _ParquetPart] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Keep the rows of a request that are in the sample, or count them as dropped if too many wait."""
        kept = [
            at
            for at in range(len(event.rows))
            if is_sampled(self._key, f"{event.request_id}-{at}", self._rate)
        ]
        if not kept:
            return
        size = sum(_size(event.instances[at], event.rows[at]) for at in kept)
        after = self._added[0] + len(kept), self._added[1] + size
        if after[0] - self._taken[0] > MOST_ROWS or after[1] - self._taken[1] > MOST_BYTES:
            self._metrics.dropped_events.inc(len(kept))
            return
        self._added[:] = after
        self._waiting.append((event, kept, size))

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Write what waits, for a while."""
        self._closing.set()
        self._thread.join(timeout)

    def _write(self) -> None:
        if self._part is _ParquetPart:
            import_module("pyarrow.parquet")  # now: a server that ends waits a second for the last rows only
        is_closing = False
        while not is_closing:
            is_closing = self._closing.wait(GATHER_SECONDS)
            while self._waiting:
                event, kept, size = self._waiting.popleft()
                try:
                    self._take(event, kept)
                except Exception as error:  # a fault of the kind's module must not end the log
                    self._lose(len(kept), f"{event.request_id}: {type(error).__name__}: {error}")
                self._taken[:] = self._taken[0] + len(kept), self._taken[1] + size
            for place, part in list(self._open.items()):
                if is_closing or part.is_due:
                    del self._open[place]
                    self._finish(place, part)

    def _take(self, event: Event, kept: Sequence[int]) -> None:
        hour = f"date={event.time:%Y-%m-%d}/hour={event.time:%H}"
        place = event.identity["model"], event.identity["version"], hour
        rows = [self._row(event, at) for at in kept]
        if place not in self._open:
            self._open[place] = self._part([name for name in rows[0] if name.startswith(FEATURE)])
        self._open[place].add(rows)
        if self._open[place].rows >= PART_ROWS:
            self._finish(place, self._open.pop(place))

    def _row(self, event: Event, at: int) -> dict[str, Any]:
        """The columns of one instance."""
        row, answer = event.rows[at], None if event.answers is None else event.answers[at]
        found: dict[str, Any] = dict.fromkeys(COLUMNS)
        found |= {
            "event_id": f"{event.request_id}-{at}",
            "request_id": event.request_id,
            "trace_id": event.trace_id,
            "time": event.time,
            **event.identity,
            "arm": event.arm,
            "schema_version": SCHEMA_VERSION,
            "sample_rate": self._rate,
            "client": keyed_hash(self._key, event.client).hex(),
            "status": event.status,
            "latency_ms": round(event.seconds * 1000, 3),
            "tokens": row.length,
        }
        if self._store != "nothing":
            parts = [event.instances[at][column] for column in event.model.columns]
            found |= described(event.model, parts, row, answer)
        if self._store != "full":
            found["output"] = None
        elif event.model.medium == "text":
            texts = event.instances[at]
            one = next(iter(texts.values())) if len(texts) == 1 else msgspec.json.encode(texts).decode()
            found["input"] = str(one)
        return found

    def _finish(self, place: tuple[str, str, str], part: _JsonPart | _ParquetPart) -> None:
        """Put a whole file in place; try again for a while if that fails."""
        model, version, hour = place
        self._number += 1
        folder = f"{self._place}/model={quote(model, safe='')}/version={quote(version, safe='')}/{hour}"
        data, uri = part.data(), f"{folder}/{self._name}-{self._number}{part.suffix}"
        for attempt in range(TRIES):
            try:
                _put(uri, data)
            except (OSError, HTTPException, ValueError) as error:
                cause = error
                if attempt + 1 < TRIES:
                    self._closing.wait(attempt + 1)
            else:
                self._metrics.logged_events.inc(part.rows)
                return
        self._lose(part.rows, f"{uri}: {cause}")

    def _lose(self, rows: int, why: str) -> None:
        self._metrics.dropped_events.inc(rows)
        print(f"{rows} rows of the request log are lost: {why}", file=sys.stderr, flush=True)


def _size(instance: Mapping[str, Part], row: Row) -> int:
    parts = sum(len(part) for part in instance.values() if isinstance(part, str | bytes))
    return parts + sum(array.nbytes for array in row.inputs.values())


def _put(uri: str, data: bytes) -> None:
    if uri.startswith(GS):
        write_object(uri, data)
        return
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


@dataclass
class _JsonPart:
    """Rows as lines of JSON, compressed by gzip."""

    features: Sequence[str]
    begun: float = field(default_factory=time.monotonic)
    rows: int = 0
    suffix = ".jsonl.gz"

    def __post_init__(self) -> None:
        self._waiting: list[Mapping[str, Any]] = []
        self._chunks: list[Any] = []

    @property
    def is_due(self) -> bool:
        """Whether it has waited long enough to be written."""
        return time.monotonic() - self.begun > PART_SECONDS

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows."""
        self._waiting += rows
        self.rows += len(rows)
        if len(self._waiting) >= CHUNK_ROWS:
            self._encode()

    def _encode(self) -> None:
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in self._waiting)
        self._chunks.append(gzip.compress(lines, 6))  # files of gzip may follow each other
        self._waiting = []

    def data(self) -> bytes:
        """The file."""
        self._encode()
        return b"".join(self._chunks)


class _ParquetPart(_JsonPart):
    """Rows as Parquet."""

    suffix = ".parquet"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schema = arrow_schema(self.features)

    def _encode(self) -> None:
        import pyarrow

        self._chunks.append(pyarrow.RecordBatch.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []

    def data(self) -> bytes:
        """The file."""
        import pyarrow
        from pyarrow import parquet

        self._encode()
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_batches(self._chunks), sink, compression="zstd")
        return cast(bytes, sink.getvalue().to_pybytes())
