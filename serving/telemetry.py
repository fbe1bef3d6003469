"""What a server tells of itself: Prometheus metrics, an access log of one JSON object a line, W3C traces.

https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ names the metrics of HTTP. Its boundaries begin
at 5 ms, where a small model has answered already; these begin at 0.5 ms.
"""

from __future__ import annotations

import queue
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gauntlet.serving.engine import Batch

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
ROWS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
MOST_LINES = 10_000
"""Lines of the log that may wait to be written; more are counted and dropped."""
GATHER_SECONDS = 0.02
"""How long lines are gathered: to wake the thread that writes for each one would slow the next request."""
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class Metrics:
    """The metrics of one server. Labels have few values: which bundle answers is in `gauntlet_model_info`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        of_model: dict[str, Any] = {"labelnames": ("model",), **own}
        route = ("http_request_method", "http_route", "http_response_status_code")
        self.request_seconds = Histogram(
            "http_server_request_duration_seconds", "From headers to answer.", route, buckets=SECONDS, **own
        )
        self.active = Gauge("http_server_active_requests", "Requests that are not answered yet.", **own)
        self.info = Gauge(
            "gauntlet_model_info", "The bundle that answers.", ("model", "version", "bundle_sha256"), **own
        )
        self.read_seconds = Histogram(
            "gauntlet_read_seconds", "Parsing, tokenizing, decoding images.", buckets=SECONDS, **of_model
        )
        self.wait_seconds = Histogram(
            "gauntlet_queue_wait_seconds", "How long rows wait.", buckets=SECONDS, **of_model
        )
        self.compute_seconds = Histogram(
            "gauntlet_compute_seconds", "How long batches take.", buckets=SECONDS, **of_model
        )
        self.batch_rows = Histogram("gauntlet_batch_rows", "Rows of a batch.", buckets=ROWS, **of_model)
        self.batch_tokens = Histogram(
            "gauntlet_batch_tokens", "Tokens of a batch, with padding.", buckets=TOKENS, **of_model
        )
        self.padding = Histogram(
            "gauntlet_padding_share", "Padding among a batch's tokens.", buckets=SHARES, **of_model
        )
        shape: dict[str, Any] = {"labelnames": ("model", "shape"), **own}
        self.shape = Gauge("gauntlet_shape_info", "How a model uses the CPUs: wide or per-core.", **shape)
        self.shape_rows = Gauge(
            "gauntlet_shape_rows_per_second", "What each shape computed when the server started.", **shape
        )
        self.waiting = Gauge("gauntlet_queue_tokens", "Tokens that wait.", **of_model)
        self.refused = Counter("gauntlet_refused_requests", "Requests refused.", ("reason",), **own)
        self.logged_events = Counter("gauntlet_logged_events", "Rows of the request log written.", **own)
        self.dropped_events = Counter("gauntlet_dropped_events", "Rows of the request log dropped.", **own)
        self.restarts = Counter("gauntlet_restarts", "Server processes that died and were replaced.", **own)
        self.dropped = Counter("gauntlet_dropped_log_lines", "Lines of the access log dropped.", **own)

    def of_batch(self, model: str, batch: Batch) -> None:
        """Count a batch that was computed."""
        self.compute_seconds.labels(model).observe(batch.seconds)
        self.batch_rows.labels(model).observe(batch.rows)
        self.batch_tokens.labels(model).observe(batch.padded_tokens)
        self.padding.labels(model).observe(1 - batch.tokens / batch.padded_tokens)
        for seconds in batch.waited:
            self.wait_seconds.labels(model).observe(seconds)

    def page(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self.registry)


class AccessLog:
    """Writes lines in a thread of its own, so that a slow reader of the log slows no request."""

    def __init__(self, metrics: Metrics, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdout.buffer
        self._metrics = metrics
        self._lines: queue.Queue[Mapping[str, Any] | None] = queue.Queue(MOST_LINES)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def write(self, line: Mapping[str, Any]) -> None:
        """Log a line, or count it as dropped if too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._metrics.dropped.inc()

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for a while."""
        self._closing.set()
        try:
            self._lines.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._closing.wait(GATHER_SECONDS)
            lines = [line]
            with suppress(queue.Empty):
                while (line := self._lines.get_nowait()) is not None:
                    lines.append(line)
            try:
                self._stream.write(b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
                self._stream.flush()
            except OSError:  # nobody reads the log anymore
                self._metrics.dropped.inc(len(lines))
            if line is None:
                return


def trace_of(traceparent: str | None) -> tuple[str, str]:
    """The trace of a request, new if `traceparent` is missing or invalid, and the header to pass on."""
    found = TRACEPARENT.fullmatch(traceparent or "")
    trace, flags = (found[1], found[3]) if found else (secrets.token_hex(16), "00")
    return trace, f"00-{trace}-{secrets.token_hex(8)}-{flags}"
