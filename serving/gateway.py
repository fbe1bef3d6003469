"""The HTTP side of the gateway: one listening socket in front of the server processes of all revisions.

A request is read whole, assigned to a revision by weight and sent to its server over a Unix socket. The
answer is passed on as its bytes come, so streams pass through. All methods are for one event loop;
`revisions` starts the servers and sets the weights.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_to_bytes

import httptools
import msgspec

from gauntlet.serving import events

COUNTED_HEADER, LABELS_HEADER = b"x-gauntlet-counted", b"x-gauntlet-labels"
REVISION_HEADER, KEY_HEADER, ARM_HEADER = b"x-gauntlet-revision", b"x-gauntlet-key", b"x-gauntlet-arm"
EVENT_HEADER = events.EVENT_HEADER.encode()
BOUNDS_MS = (*(round(0.25 * 2 ** (step / 4), 3) for step in range(73)), math.inf)
"""Upper bounds of the histogram of latencies, 19 % apart, up to 65 s."""
NOT_PASSED_ON = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"trailer", b"upgrade",
     b"expect", b"content-length", REVISION_HEADER, COUNTED_HEADER, ARM_HEADER)
)  # fmt: skip
STARTED_PROBES = (b"/livez", b"/v2/health/live")
READY_PROBES = (b"/startupz", b"/readyz", b"/health", b"/v2/health/ready")
COMPLETIONS = (b"/v1/chat/completions", b"/v1/completions")
PAGES = (b"/", b"/openapi.json", b"/metrics", b"/v2")
MEGABYTE = 2**20
MOST_HEAD, MOST_BODY, MOST_HELD = 65_536, 64 * MEGABYTE, 512 * MEGABYTE
LINGER_SECONDS = 5.0
"""How long what follows a refused request is dropped: closing the connection before may lose the answer."""
READING_SECONDS = 30.0
"""How long a client may take to send a request."""
ANSWER_SECONDS = 90.0
"""How long a server may take to begin an answer."""
IDLE_SECONDS, CLIENT_IDLE_SECONDS = 30.0, 75.0
"""A connection to a server without a request is closed before the server closes it, after 75 s."""
MOST_SHADOWS = 8
MOST_COMPARED = MEGABYTE
MOST_KEYS = 1_000_000
MOST_WAITING = 16
"""Requests of one connection that may wait for the one before."""
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 408: "Request Timeout", 409: "Conflict",
    413: "Content Too Large", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout", 507: "Insufficient Storage",
}  # fmt: skip

SHADOW_ARM = b"shadow"

State = Literal["starting", "ready", "failed", "draining"]


class Counts:
    """What one revision answered; see `backends.deployment.ArmCounts`."""

    __slots__ = ("errors", "labels", "latency", "refused", "requests")

    def __init__(self, content: Mapping[str, Any] | None = None) -> None:
        content = content or {}
        self.requests: int = content.get("requests", 0)
        self.errors: int = content.get("errors", 0)
        self.refused: int = content.get("refused", 0)
        self.latency: list[int] = [content.get("latency_ms", {}).get(str(one), 0) for one in BOUNDS_MS]
        self.labels: Counter[str] = Counter(content.get("labels", {}))

    def add(self, status: int, seconds: float, labels: bytes) -> None:
        """Count an answer."""
        self.requests += 1
        if status in (429, 503, 504):
            self.refused += 1
        elif status >= 500:
            self.errors += 1
        elif status < 400:
            self.latency[bisect_left(BOUNDS_MS, seconds * 1000)] += 1
            for label, count in parse_qsl(labels.decode("latin-1")):
                self.labels[label] += int(count)

    def to_json(self) -> dict[str, Any]:
        """The fields of an `ArmCounts`."""
        latency = {str(bound): count for bound, count in zip(BOUNDS_MS, self.latency, strict=True)}
        return {
            "requests": self.requests,
            "errors": self.errors,
            "refused": self.refused,
            "latency_ms": latency,
            "labels": dict(self.labels),
        }


@dataclass
class Split:
    """Weights in percent by revision, what goes with them, and what was counted since they were set."""

    weights: Mapping[str, int]
    etag: str
    shadow: Mapping[str, Any] | None = None
    assignment: Mapping[str, str] | None = None
    arms: dict[str, Counts] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=lambda: {"compared": 0, "different": 0, "errors": 0})
    keys: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight:
                self.arms.setdefault(name, Counts())
        self.key_header = KEY_HEADER
        if self.assignment is not None:
            self.key_header = self.assignment["header"].lower().encode("latin-1")

    def pick(self, key: bytes | None) -> str | None:
        """The revision of a request, by its key or at random; None if none has any weight."""
        if self.assignment is not None and key is None and self.assignment["control"]:
            return self.assignment["control"]
        at = random.random() if key is None else self._place(key)
        at *= 100
        for name, weight in self.weights.items():
            at -= weight
            if at < 0:
                return name
        return None

    def _place(self, key: bytes) -> float:
        """Where a key lies in [0, 1). While a canary's share grows, keys only move to it."""
        salt = b"" if self.assignment is None else self.assignment["salt"].encode()
        return int.from_bytes(hashlib.blake2b(salt + b"\0" + key, digest_size=7).digest(), "big") / 2**56

    def unit(self, key: bytes) -> str:
        """A key as the assignments of an A/B test name it: nobody without the salt can try keys out."""
        assert self.assignment is not None
        salt = self.assignment["salt"].encode()
        return hashlib.blake2b(key, key=hashlib.blake2b(salt).digest(), digest_size=8).hexdigest()

    def is_new(self, key: bytes | None) -> bool:
        """Whether a request is counted: each key is counted once, as its requests are not independent."""
        if key is None:
            return True
        short = hashlib.blake2b(key, digest_size=8).digest()
        if short in self.keys or len(self.keys) >= MOST_KEYS:
            return False
        self.keys.add(short)
        return True


class Target:
    """A revision as requests see it: the Unix socket of its server, and connections to it that are free."""

    def __init__(self, revision: str, path: str) -> None:
        self.id, self.path, self.arm = revision, path, revision.encode()
        self.state: State = "starting"
        self.was_ready = False
        self.active = 0
        self.idle: list[_Upstream] = []
        self.drained = asyncio.Event()

    def close(self) -> None:
        """Close the free connections."""
        while self.idle:
            self.idle.pop().transport.close()


@dataclass
class Service:
    """A model: its revisions by id, and how its requests are split."""

    name: str
    split: Split
    targets: dict[str, Target] = field(default_factory=dict)

    def choose(self, picked: str | None) -> Target | None:
        """The revision of a request. If its server is down, another one with weight, if there is one."""
        target = None if picked is None else self.targets.get(picked)
        return target if target is not None and target.state == "ready" else self.other(target)

    def other(self, target: Target | None) -> Target | None:
        """A ready revision with weight, before the one whose server is being replaced."""
        weighted = [self.targets[name] for name, weight in self.split.weights.items()
                    if weight and name in self.targets]  # fmt: skip
        ready = [one for one in weighted if one.state == "ready" and one is not target]
        if ready:
            return max(ready, key=lambda one: self.split.weights[one.id])
        waiting = [one for one in weighted if one.state in ("starting", "ready") and one.was_ready]
        return waiting[0] if waiting else None


class Request:
    """A request that was read whole."""

    __slots__ = ("body", "headers", "keeps", "method", "path", "url")

    def __init__(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.method, self.url, self.headers = method, url, headers
        self.path = url.partition(b"?")[0]
        self.body = b""
        self.keeps = True

    def header(self, name: bytes) -> bytes | None:
        """The first header of a name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def encoded(self, arm: bytes) -> bytes:
        """The bytes for a server. `arm` is the request's arm in the server's request log."""
        lines = [self.method, b" ", self.url, b" HTTP/1.1\r\n", COUNTED_HEADER, b": 1\r\n"]
        lines += (ARM_HEADER, b": ", arm, b"\r\n")
        for name, value in self.headers:
            if name not in NOT_PASSED_ON:
                lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(self.body))
        lines.append(self.body)
        return b"".join(lines)


class Exchange:
    """A request and the answer of a server. `client` is None for a shadow, whose answer nobody gets."""

    __slots__ = (
        "begun", "client", "counts", "is_cut", "is_shadowed", "kept", "kept_bytes", "labels", "on_end",
        "request", "service", "split", "started", "status", "target", "tried", "upstream",
    )  # fmt: skip

    def __init__(
        self, client: Client | None, request: Request, service: Service, target: Target, counts: Counts | None
    ) -> None:
        self.client, self.request, self.service, self.target = client, request, service, target
        self.counts, self.split = counts, service.split
        self.kept: list[bytes] | None = None
        self.kept_bytes = 0
        self.is_shadowed = self.begun = self.tried = self.is_cut = False
        self.status, self.labels = 0, b""
        self.upstream: _Upstream | None = None
        self.on_end: Callable[[Exchange], None] | None = None
        self.started = monotonic()

    def send(self) -> None:
        """Send it to the revision's server."""
        target = self.target
        target.active += 1
        while target.idle:
            upstream = target.idle.pop()
            if not upstream.transport.is_closing():
                upstream.send(self)
                return
        connecting = asyncio.get_running_loop().create_task(self._connect(target))
        _tasks.add(connecting)
        connecting.add_done_callback(_tasks.discard)

    async def _connect(self, target: Target) -> None:
        try:
            _, upstream = await asyncio.get_running_loop().create_unix_connection(
                lambda: _Upstream(target), target.path
            )
        except OSError:
            self.broken()
            return
        if self.target is target and self.on_end is not None and self.status == 0:
            upstream.send(self)
        else:  # the client has left meanwhile
            target.idle.append(upstream)

    def left(self) -> None:
        """The client has closed its connection."""
        if self.counts is not None:
            self.counts.requests += 1
        self._release()
        self.on_end = None
        if self.upstream is not None:
            self.upstream.abandon()

    def broken(self) -> None:
        """The server closed the connection within its answer. A server is asked once more, if none began."""
        if self.on_end is None:
            return
        self._release()
        self.upstream = None
        if self.counts is not None:
            self.counts.add(502, 0.0, b"")
            self.counts = None
        if not self.begun and not self.tried and (other := self.service.other(self.target)) is not None:
            self.tried, self.target = True, other
            self.send()
            return
        self.status, self.is_cut = 502, True
        self._end()

    def refused(self) -> None:
        """The server is starting or ending: another one is asked; if there is none, the client is told."""
        if not self.tried and (other := self.service.other(self.target)) is not None:
            self._release()
            self.upstream = None
            self.tried, self.target, self.status = True, other, 0
            self.send()
        else:
            self.answered()

    def answered(self) -> None:
        """The answer is complete."""
        self._release()
        if self.counts is not None:
            self.counts.add(self.status, monotonic() - self.started, self.labels)
        self._end()

    def _end(self) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(self)

    def _release(self) -> None:
        target = self.target
        target.active -= 1
        if not target.active:
            target.drained.set()


_tasks: set[asyncio.Task[None]] = set()


class _Upstream(asyncio.Protocol):
    """A connection to a server, which stays open; one request at a time."""

    transport: asyncio.Transport

    def __init__(self, target: Target) -> None:
        self.target = target
        self.exchange: Exchange | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.since = 0.0
        self._is_complete = self._keeps = self._is_refusal = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, exchange: Exchange) -> None:
        """Begin an exchange."""
        self.exchange, exchange.upstream = exchange, self
        self._is_complete = self._is_refusal = False
        arm = SHADOW_ARM if exchange.client is None else self.target.arm
        self.transport.write(exchange.request.encoded(arm))

    def abandon(self) -> None:
        """Close the connection, so that the server drops the work."""
        self.exchange = None
        self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == LABELS_HEADER and self.exchange is not None:
            self.exchange.labels = value
        elif name == b"x-gauntlet-refused":
            self._is_refusal = value in (b"starting", b"draining")

    def on_headers_complete(self) -> None:
        if self.exchange is not None:
            self.exchange.status = self.parser.get_status_code()
            if self.exchange.request.method == b"HEAD":  # has the length of a body, and none
                self._is_complete, self._keeps = True, False

    def on_body(self, body: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.kept is not None:
            exchange.kept_bytes += len(body)
            exchange.kept.append(body)
            if exchange.kept_bytes > MOST_COMPARED:
                exchange.kept = None

    def on_message_complete(self) -> None:
        if not self._is_complete:
            self._is_complete, self._keeps = True, self.parser.should_keep_alive()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes that nobody asked for
            self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()
            return
        is_refusal = self._is_refusal and not exchange.tried and not exchange.begun
        if exchange.client is not None and not is_refusal:
            exchange.begun = True
            exchange.client.write(data)
        if not self._is_complete:
            return
        self.exchange = exchange.upstream = None
        if self._keeps and not self.transport.is_closing():
            self.since = monotonic()
            self.transport.resume_reading()
            self.target.idle.append(self)
        else:
            self.transport.close()
            if exchange.client is not None and not is_refusal:
                exchange.client.closes = exchange.client.closes or exchange.status == 503
        if is_refusal:
            exchange.refused()
        else:
            exchange.answered()

    def connection_lost(self, _exc: Exception | None) -> None:
        if self in self.target.idle:
            self.target.idle.remove(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.broken()


class Client(asyncio.Protocol):
    """A connection of a client. Its requests are answered one after the other."""

    transport: asyncio.Transport

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.parser = httptools.HttpRequestParser(self)
        self.current: Exchange | None = None
        self.is_busy = self.closes = self.drops = False
        self.waiting: deque[Request] = deque()
        self.since: float | None = monotonic()  # of what is being read, or nothing
        self.idle_since = monotonic()
        self._head = 0
        self._request: Request | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = self._held = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection is open."""
        self.transport = transport  # type: ignore[assignment]
        self.gateway.clients.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """The connection is closed."""
        self.gateway.clients.discard(self)
        self._let_go()
        self.waiting.clear()
        if self.current is not None:
            current, self.current = self.current, None
            current.left()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self.current is not None and self.current.upstream is not None:
            self.current.upstream.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.drops:
            return
        if self._request is None:
            self._head += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(400, "the gateway speaks HTTP/1.1 only")
        except httptools.HttpParserError as error:
            self._fail(400, f"the request is no HTTP/1.1: {error}")
        else:
            if self._request is None and self._head > MOST_HEAD:
                self._fail(431, f"the head of the request: found over {MOST_HEAD} bytes")

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        self._url, self._headers, self._body, self._size = b"", [], [], 0
        self.since = monotonic()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._request = Request(self.parser.get_method(), self._url, self._headers)
        if self._request.header(b"expect") is not None and not self.is_busy:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._size += len(body)
        self._held += len(body)
        self.gateway.held += len(body)
        if self._size > MOST_BODY:
            self._fail(413, f"the body: found over {MOST_BODY} bytes, expected at most that")
        elif self.gateway.held > MOST_HELD:
            self._fail(503, "the gateway holds too many bytes of requests")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        request, self._request = self._request, None
        self._head, self.since = 0, None
        if request is None or self.closes:
            return
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request.keeps = self.parser.should_keep_alive()
        if self.is_busy:
            self.waiting.append(request)
            if len(self.waiting) >= MOST_WAITING:
                self.transport.pause_reading()
        else:
            self._begin(request)

    def write(self, data: bytes) -> None:
        """Pass bytes of an answer on."""
        self.transport.write(data)

    def respond(self, status: int, content: Any, reason: str = "", content_type: str = "") -> None:
        """Answer the current request; `content` is bytes, or becomes JSON."""
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        head = (
            f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n"
            f"content-type: {content_type or 'application/json'}\r\ncontent-length: {len(body)}\r\n"
        )
        if reason:
            head += f"x-gauntlet-refused: {reason}\r\n"
        if status == 503:
            head += "retry-after: 1\r\n"
        if self.closes:
            head += "connection: close\r\n"
        self.transport.write(head.encode("latin-1") + b"\r\n" + body)
        self.done()

    def fault(self, status: int, message: str, reason: str = "") -> None:
        """Refuse the current request."""
        self.respond(status, {"error": message}, reason)

    def done(self) -> None:
        """The current request is answered."""
        self.current, self.is_busy, self.idle_since = None, False, monotonic()
        if not self.waiting:
            self._let_go()
        if self.drops:
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.close)
        elif self.closes:
            self.transport.close()
        elif self.waiting:
            if len(self.waiting) == MOST_WAITING:
                self.transport.resume_reading()
            self._begin(self.waiting.popleft())

    def late(self) -> None:
        """The request was not sent, or not answered, in time."""
        if self.current is not None:
            current, self.current = self.current, None
            if current.counts is not None:
                current.counts.add(504, 0.0, b"")
                current.counts = None
            current.left()
            self.closes = True
            self.fault(504, f"the server did not answer within {ANSWER_SECONDS:g} s", "late")
        else:
            self._fail(408, f"the request did not arrive within {READING_SECONDS:g} s")

    def _fail(self, status: int, message: str) -> None:
        """Refuse what cannot be read further, and close the connection."""
        if self.closes and not self.is_busy:
            return
        self.closes = self.drops = True
        if self.is_busy:  # an answer is on its way; the connection is closed after it
            return
        self.is_busy = True
        self.fault(status, message, "request")

    def _let_go(self) -> None:
        self.gateway.held -= self._held
        self._held = 0

    def _begin(self, request: Request) -> None:
        self.is_busy = True
        self.closes = not request.keeps or self.gateway.is_ending
        self.gateway.begin(self, request)


class Gateway:
    """All models, and what is asked of them."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.clients: set[Client] = set()
        self.held = 0
        self.shadows = 0
        self.is_ending = False
        self.noted: dict[str, list[str]] = {}
        """Lines of assignments by A/B test, until `revisions` writes them."""

    def begin(self, client: Client, request: Request) -> None:
        """Answer a request, or send it to a server."""
        if self._is_own(client, request):
            return
        service = self._service(request)
        if service is None:
            known = ", ".join(self.services) or "none: `gauntlet up MODEL` or a deployment adds one"
            client.fault(404, f"found no such model; served are {known}", "route")
            return
        revision = request.header(REVISION_HEADER)
        split, counts = service.split, None
        if revision is not None:
            target = service.targets.get(revision.decode("latin-1"))
            if target is None:
                client.fault(404, f"{service.name}: has no revision {revision.decode('latin-1')!r}", "route")
                return
            if not target.was_ready or target.state == "failed":
                client.fault(503, f"revision {target.id} is {target.state}", target.state)
                return
        else:
            key = request.header(split.key_header) or None
            picked = split.pick(key)
            target = service.choose(picked)
            is_counted = request.method == b"POST" and request.path not in PAGES
            if is_counted and split.assignment is not None:
                self._note(request, split, key, picked)
            if target is None:
                client.fault(503, f"{service.name}: no server is ready", "starting")
                return
            if is_counted and split.is_new(key):
                counts = split.arms.get(target.id)
        exchange = Exchange(client, request, service, target, counts)
        exchange.tried = revision is not None  # no other revision may answer it
        shadow = split.shadow
        if (
            shadow is not None
            and counts is not None
            and request.path not in COMPLETIONS
            and shadow["revision"] != target.id
            and random.random() < shadow["share"]
        ):
            exchange.kept, exchange.is_shadowed = [], True
        exchange.on_end = self._ended
        client.current = exchange
        exchange.send()

    def _note(self, request: Request, split: Split, key: bytes | None, picked: str | None) -> None:
        """Note the variant of a request before anything is known of its answer.

        A request without a key that the test leaves to the control is noted without a revision.
        """
        assert split.assignment is not None
        event = events.event_of((request.header(EVENT_HEADER) or b"").decode("latin-1"))
        request.headers = [one for one in request.headers if one[0] != EVENT_HEADER]
        request.headers.append((EVENT_HEADER, event.encode()))
        if key is None and split.assignment["control"]:
            picked = ""
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        unit = "" if key is None else split.unit(key)
        self.noted.setdefault(split.assignment["test"], []).append(f"{event},{time},{picked or ''},{unit}\n")

    def sweep(self) -> None:
        """Close what takes too long; once a second."""
        now = monotonic()
        for client in [*self.clients]:
            current = client.current
            is_late = current is not None and not current.begun and now - current.started > ANSWER_SECONDS
            is_slow = client.since is not None and not client.is_busy and now - client.since > READING_SECONDS
            if is_late or is_slow:
                client.late()
            elif (
                not client.is_busy and client.since is None and now - client.idle_since > CLIENT_IDLE_SECONDS
            ):
                client.transport.close()
        for service in self.services.values():
            for target in service.targets.values():
                while target.idle and now - target.idle[0].since > IDLE_SECONDS:
                    target.idle.pop(0).transport.close()

    def _is_own(self, client: Client, request: Request) -> bool:
        """Answer what the gateway itself is asked; False for all others."""
        path = request.path
        if path in STARTED_PROBES:
            client.respond(200, {"live": True})
        elif path in READY_PROBES:
            self._probe(client)
        elif path == b"/metrics" and request.header(REVISION_HEADER) is None:
            client.respond(200, self._metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
        elif path == b"/v1/models":
            models = [
                {"id": one, "object": "model", "created": 0, "owned_by": "gauntlet"} for one in self.services
            ]
            client.respond(200, {"object": "list", "data": models})
        else:
            return False
        return True

    def _service(self, request: Request) -> Service | None:
        name = _named(request.path)
        if name is None and len(self.services) > 1 and request.path in COMPLETIONS:
            try:
                name = msgspec.json.decode(request.body, type=_Model).model
            except msgspec.DecodeError:
                name = None
        if name is not None:
            return self.services.get(name)
        return next(iter(self.services.values()), None)

    def _probe(self, client: Client) -> None:
        models = {
            name: any(one.state == "ready" for one in service.targets.values())
            for name, service in self.services.items()
        }
        is_ready = bool(models) and all(models.values()) and not self.is_ending
        client.respond(200 if is_ready else 503, {"ready": is_ready, "models": models})

    def _metrics(self) -> bytes:
        rows: dict[str, list[str]] = {"requests": [], "errors": [], "refused": [], "weight": [], "active": []}
        for service in self.services.values():
            for name, target in service.targets.items():
                counts = service.split.arms.get(name, Counts())
                labels = f'{{model="{service.name}",revision="{name}"}}'
                found = (counts.requests, counts.errors, counts.refused, service.split.weights.get(name, 0))
                for key, value in zip(rows, (*found, target.active), strict=True):
                    rows[key].append(f"gauntlet_gateway_{key}{labels} {value}")
        lines = []
        for key, values in rows.items():
            lines += [f"# TYPE gauntlet_gateway_{key} gauge", *values]
        return ("\n".join(lines) + "\n").encode()

    def _ended(self, exchange: Exchange) -> None:
        client = exchange.client
        if client is not None and client.current is exchange:
            if not exchange.begun:
                client.fault(exchange.status, "the server ended or is starting: ask again", "server")
            elif exchange.is_cut:
                client.transport.abort()  # the client sees that the answer is not complete
            else:
                client.done()
        if exchange.is_shadowed and exchange.kept is not None and exchange.status == 200:
            self._shadow(exchange)

    def _shadow(self, exchange: Exchange) -> None:
        """Have the shadow answer what was answered, unless it has much to do."""
        split = exchange.split
        if split.shadow is None or self.shadows >= MOST_SHADOWS or self.is_ending:
            return
        target = exchange.service.targets.get(split.shadow["revision"])
        if target is None or target.state != "ready":
            return
        copy = Exchange(None, exchange.request, exchange.service, target, None)
        copy.tried = True  # its answer counts as it is
        copy.kept = []
        answer = b"".join(exchange.kept or ())

        def ended(copy: Exchange) -> None:
            self.shadows -= 1
            if copy.status >= 500 and copy.status not in (503, 504):
                split.pairs["errors"] += 1
            elif copy.status == 200 and copy.kept is not None:
                split.pairs["compared"] += 1
                split.pairs["different"] += answers_of(answer) != answers_of(b"".join(copy.kept))

        copy.on_end = ended
        self.shadows += 1
        copy.send()


class _Model(msgspec.Struct):
    model: str | None = None


def _named(path: bytes) -> str | None:
    """The model that a route names."""
    if path.startswith(b"/v1/models/"):
        name = path[11:].removesuffix(b":predict")
    elif path.startswith(b"/v2/models/"):
        name = path[11:].partition(b"/")[0]
    else:
        return None
    return unquote_to_bytes(name).decode("utf-8", "replace")


def answers_of(body: bytes) -> Any:
    """What is compared of an answer: the labels; for kinds without labels, all that is answered."""
    try:
        content = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    if not isinstance(content, dict):
        return content
    if "predictions" in content:
        return [one["label"] if isinstance(one, dict) and "label" in one else one
                for one in content["predictions"]]  # fmt: skip
    outputs = {one["name"]: one.get("data") for one in content.get("outputs", ())}
    return outputs.get("label", outputs) if outputs else content
