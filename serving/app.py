"""The ASGI application: routes, limits, headers, metrics and the access log, over one engine for each model.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Literal, cast
from urllib.parse import urlencode

import msgspec

from gauntlet.serving.engine import Engine, Expired, Refused, RowError, Work
from gauntlet.serving.events import EVENT_HEADER, event_of
from gauntlet.serving.faces import (
    CELLS_HEADER,
    HEADER_LENGTH,
    Asked,
    Fault,
    Instance,
    Limits,
    describe,
    parse,
    parse_inference,
)
from gauntlet.serving.interface import Answer, InputError, LoggedModel, Piece, Row, RowModel
from gauntlet.serving.openai import CHAT, TEXT, Completion, error_of, failure
from gauntlet.serving.openai import parse as parse_completion
from gauntlet.serving.openapi import document, page
from gauntlet.serving.request_log import Event, RequestLog
from gauntlet.serving.streaming import StreamEngine
from gauntlet.serving.telemetry import AccessLog, Metrics, trace_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Mapping[str, str]
State = Literal["starting", "ready", "draining"]

BODY_SECONDS = 30.0
"""How long a client may take to send a body."""
LINGER_SECONDS = 5.0
"""How long the rest of a refused body is dropped: closing the connection before may lose the answer."""
SHORT_BODY = 8192
"""Bytes up to which the texts of a body are read at once; a thread reads longer ones, and images."""
WAY_BACK_SECONDS = 0.004
"""Of the time for a request, what is kept for its answer to reach the client."""
UNWATCHED_SECONDS = 0.01
"""Watching whether a client leaves takes a task, which costs a short request as much as reading it."""
TIMEOUT_HEADER = "x-request-timeout"
ARM_HEADER = "x-gauntlet-arm"
REFUSED_HEADER = "x-gauntlet-refused"
COUNTED_HEADER, LABELS_HEADER = "x-gauntlet-counted", "x-gauntlet-labels"
"""The gateway sends the one, and counts the labels that the other names."""
CLIENT_LEFT = 499  # nginx's; nobody reads it but the log
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")  # others are one label of the metrics
PROBES = ("/livez", "/readyz", "/startupz", "/v2/health/live", "/v2/health/ready")


class Left(Exception):
    """The client has closed its connection."""


@dataclass(frozen=True)
class Served:
    """A model that is served, and what every answer says of it."""

    name: str
    version: str
    bundle_sha256: str
    task: str
    model: RowModel
    engine: Engine | StreamEngine

    @property
    def identity(self) -> dict[str, str]:
        """What answers."""
        return {"model": self.name, "version": self.version, "bundle_sha256": self.bundle_sha256}

    @property
    def described(self) -> dict[str, Any]:
        """What `serving.client` must know to ask it."""
        model = self.model
        return {
            "name": self.name,
            "version": self.version,
            "bundle_sha256": self.bundle_sha256,
            "task": self.task,
            "medium": model.medium,
            "columns": model.columns,
            "parameters": model.parameters,
        }


@dataclass
class Exchange:
    """A request, and what is known of its answer."""

    method: str
    path: str
    headers: Headers
    receive: Receive
    client: str
    route: str = "unknown"
    served: Served | None = None
    body_bytes: int = 0
    rows: int = 0
    tokens: int = 0
    work: Work | None = None
    reason: str | None = None
    traceback: str | None = None
    event: str = ""
    instances: Sequence[Instance] = ()

    @property
    def identity(self) -> dict[str, str]:
        """What answers, and the id of the request."""
        return {} if self.served is None else {**self.served.identity, "event": self.event}


@dataclass(frozen=True)
class Response:
    """An answer, whole or as events that are sent when they are there."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=lambda: {"content-type": "application/json"})
    events: AsyncIterator[bytes] | None = None

    @classmethod
    def of(cls, content: Any, status: int = 200, headers: Headers | None = None) -> Response:
        """A JSON answer."""
        return cls(
            status, msgspec.json.encode(content), {"content-type": "application/json", **(headers or {})}
        )


@dataclass
class Application:
    """All models of a server. See `serving.server.Settings` for the limits.

    Attributes:
        timeout: Seconds within which a request is answered that names no deadline of its own.
        queue_bytes: The most bytes of bodies that may be held at once.
        predict_route, health_route: Those that Vertex asks for.
        requests: Where requests are logged.
    """

    limits: Limits
    metrics: Metrics
    log: AccessLog
    timeout: float
    queue_bytes: int
    predict_route: str = "/predict"
    health_route: str = "/health"
    requests: RequestLog | None = None
    models: dict[str, Served] = field(default_factory=dict)
    state: State = "starting"
    active: int = 0
    held_bytes: int = 0

    def __post_init__(self) -> None:
        self._idle = asyncio.Event()
        self._streamed: set[asyncio.Queue[Piece | Exception]] = set()
        self._pages: dict[str, Callable[[Exchange], Response]] = {
            **dict.fromkeys((*PROBES, self.health_route), self._probe),
            "/": self._front,
            "/openapi.json": lambda one: Response.of(self._document(one)),
            "/metrics": self._metrics_page,
            "/v1/models": self._list,
            "/v2": self._server,
        }
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="reading")

    def ready(self, models: Sequence[Served]) -> None:
        """Begin to answer. The first model is that of the routes that name none."""
        self.models = {served.name: served for served in models}
        for served in models:
            self.metrics.info.labels(*served.identity.values()).set(1)
            self.metrics.waiting.labels(served.name).set_function(served.engine.waiting_tokens)
        if self.state == "starting":
            self.state = "ready"

    async def drained(self) -> None:
        """Begin no more work; return when all that was begun is answered."""
        self.state = "draining"
        if self.active:
            self._idle.clear()
            await self._idle.wait()

    def cut(self) -> None:
        """End the answers that are being streamed."""
        for news in self._streamed:
            news.put_nowait(Fault(503, "the server is ending", self.state))

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client") or ("",)
        one = Exchange(scope["method"], scope["path"], headers, receive, str(client[0]))
        one.event = event_of(headers.get(EVENT_HEADER))
        started, arrived = monotonic(), datetime.now(UTC)
        trace, traceparent = trace_of(headers.get("traceparent"))
        self.active += 1
        self.metrics.active.inc()
        try:
            response = await self._answered(one, started)
            await self._send(one, response, traceparent, send)
        finally:
            self.held_bytes -= one.body_bytes
            self.active -= 1
            self.metrics.active.dec()
            if not self.active:
                self._idle.set()
        self._record(one, response, started, arrived, trace)

    async def _send(self, one: Exchange, response: Response, traceparent: str, send: Send) -> None:
        more = {"traceparent": traceparent}
        if response.events is None:
            more["content-length"] = str(len(response.body))
        if one.served is not None:
            more |= {f"x-gauntlet-{key.replace('_', '-')}": said for key, said in one.identity.items()}
        if self.state == "draining":
            more["connection"] = "close"
        if response.status == CLIENT_LEFT:
            return
        sent = {**response.headers, **more}
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": encoded})
        if response.events is not None:
            try:
                async for event in response.events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Left:
                one.reason = "left"
        if response.status == 413:
            await send({"type": "http.response.body", "body": response.body, "more_body": True})
            await _drop_body(one)
            response = replace(response, body=b"")
        await send({"type": "http.response.body", "body": response.body})

    async def _answered(self, one: Exchange, started: float) -> Response:
        """The answer, whatever happens."""
        try:
            return await self._route(one, started)
        except Left:
            one.reason = "left"
            return Response(CLIENT_LEFT, b"")
        except Exception as error:
            return self._fault(one, self._as_fault(one, error))

    def _as_fault(self, one: Exchange, error: Exception) -> Fault:
        match error:
            case Fault():
                return error
            case Refused():
                headers = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
                return Fault(429, str(error), error.reason, headers)
            case Expired():
                return Fault(504, str(error), "expired")
            case RowError():
                return Fault(500, str(error), "model")
        # A fault of this program, whose traceback goes to the log and not to the client.
        one.traceback = "".join(traceback.format_exception(error))
        return Fault(500, "the server failed at this request", "internal")

    def _fault(self, one: Exchange, fault: Fault) -> Response:
        one.reason = fault.reason
        self.metrics.refused.labels(fault.reason).inc()
        headers = {REFUSED_HEADER: fault.reason, **fault.headers}
        if fault.status in (408, 413):  # the rest of the body is not read
            headers["connection"] = "close"
        content = error_of(str(fault), fault.reason) if has_objects(one.path) else {"error": str(fault)}
        return Response.of(content, fault.status, headers)

    async def _route(self, one: Exchange, started: float) -> Response:
        if one.path in {self.predict_route, "/predict"}:
            one.route = "/predict"
            return await self._predict(one, self._served(one, None), started, parse_vertex)
        if one.path in (CHAT, TEXT):
            one.route = one.path
            return await self._complete(one, started)
        if one.path in self._pages:
            one.route = one.path
            require_method(one, "GET")
            return self._pages[one.path](one)
        return await self._of_model(one, started)

    async def _of_model(self, one: Exchange, started: float) -> Response:
        """`/v1/models/M[:predict]`, `/v2/models/M[/versions/V][/ready|/infer]`, and Vertex's endpoint M."""
        match one.path.strip("/").split("/"):
            case ["v1", "projects", _, "locations", _, "endpoints", named]:
                one.route = "/v1/projects/{project}/locations/{location}/endpoints/{model}"
                name, _, verb = named.partition(":")
                if verb in ("predict", "rawPredict"):
                    return await self._predict(one, self._served(one, name), started, parse_vertex)
                if not verb:
                    require_method(one, "GET")
                    return self._endpoint(one, self._served(one, name))
            case ["v1", "models", named] if ":" not in named:
                one.route = "/v1/models/{model}"
                require_method(one, "GET")
                return Response.of(listed(self._served(one, named).name))
            case ["v1", "models", named] if named.endswith(":predict"):
                one.route = "/v1/models/{model}:predict"
                served = self._served(one, named.removesuffix(":predict"))
                return await self._predict(one, served, started, parse_vertex)
            case ["v2", "models", name, "versions", version, *rest]:
                served = self._served(one, name)
                if version != served.version:
                    raise Fault(404, f"{name}: the version served is {served.version}", "route")
                return await self._of_version(one, served, rest, started)
            case ["v2", "models", name, *rest]:
                return await self._of_version(one, self._served(one, name), rest, started)
        raise self._no_route(one)

    async def _of_version(
        self, one: Exchange, served: Served, rest: Sequence[str], started: float
    ) -> Response:
        if rest == ["infer"]:
            one.route = "/v2/models/{model}/infer"
            return await self._predict(one, served, started, parse_v2)
        one.route = "/v2/models/{model}"
        if rest not in ([], ["ready"]):
            raise self._no_route(one)
        require_method(one, "GET")
        if rest:
            return Response.of({"name": served.name, "ready": True})
        return Response.of(describe(served.model, served.name, served.version))

    def _no_route(self, one: Exchange) -> Fault:
        return Fault(404, f"{one.method} {one.path[:200]}: there is no such route; / lists them", "route")

    def _endpoint(self, one: Exchange, served: Served) -> Response:
        """A model as an endpoint of Vertex AI, which Google's client reads before it asks."""
        deployed = {"id": served.bundle_sha256, "displayName": served.name}
        name = one.path.removeprefix("/v1/")
        return Response.of({"name": name, "displayName": served.name, "deployedModels": [deployed]})

    def _metrics_page(self, _one: Exchange) -> Response:
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(200, self.metrics.page(), {"content-type": content_type})

    def _server(self, _one: Exchange) -> Response:
        return Response.of({"name": "gauntlet", "version": "1", "extensions": ["binary_tensor_data"]})

    def _list(self, _one: Exchange) -> Response:
        self._require_state()
        return Response.of({"object": "list", "data": [listed(name) for name in self.models]})

    def _document(self, one: Exchange) -> dict[str, Any]:
        self._require_state()
        url = f"http://{one.headers.get('host', 'HOST')}"
        return document(self.models, self.limits, url, self.predict_route, self.health_route)

    def _front(self, one: Exchange) -> Response:
        """A page for browsers; for programs whether the process answers, as KServe's client asks."""
        if "text/html" not in one.headers.get("accept", ""):
            models = [served.described for served in self.models.values()]
            return Response.of(
                {"status": "alive", "state": self.state, "openapi": "/openapi.json", "models": models}
            )
        return Response(200, page(self._document(one)), {"content-type": "text/html; charset=utf-8"})

    def _served(self, one: Exchange, name: str | None) -> Served:
        """The model of a request that is to be begun."""
        self._require_state()
        return self._named(one, name)

    def _named(self, one: Exchange, name: str | None) -> Served:
        found = next(iter(self.models.values())) if name is None else self.models.get(name)
        if found is None:
            raise Fault(
                404, f"found no model {name!r:.100}, expected one of {', '.join(self.models)}", "route"
            )
        one.served = found
        return found

    def _require_state(self) -> None:
        if self.state != "ready":
            headers = {"retry-after": "1"}
            raise Fault(503, f"the server is {self.state}", self.state, headers)

    def _probe(self, one: Exchange) -> Response:
        """Live: the loop answers. Started: the models were proved. Ready: and the server is not ending."""
        if one.path in ("/livez", "/v2/health/live"):
            return Response.of({"live": True})
        is_up = self.state != "starting" if one.path == "/startupz" else self.state == "ready"
        content = {"state": self.state, "ready": is_up, "live": True}
        models = {served.name: served.identity for served in self.models.values()}
        return Response.of({**content, "models": models}, 200 if is_up else 503)

    async def _complete(self, one: Exchange, started: float) -> Response:
        """A completion as OpenAI's clients ask for it."""
        require_method(one, "POST")
        self._require_state()
        deadline = started + self._seconds(one.headers)
        asked = parse_completion(one.path, await self._body(one))
        served = self._named(one, asked.model)
        engine = served.engine
        if not isinstance(engine, StreamEngine):
            raise Fault(400, f"model: {served.name} is no language model: ask it by {self.predict_route}")
        instance, parameters = asked.read(served.model, self.limits)
        [row] = self._rows(served.model, Asked([instance], parameters, lambda _: (b"", {})))
        one.rows, one.tokens, one.instances = 1, row.length, [instance]
        bundle = served.bundle_sha256
        if asked.is_streamed:
            news: asyncio.Queue[Piece | Exception] = asyncio.Queue()
            one.work = engine.submit([row], deadline, news.put_nowait)
            events = self._events(one, engine, one.work, asked, news, bundle)
            headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            return Response(200, b"", headers, events)
        pieces: list[Piece] = []
        one.work = engine.submit([row], deadline, pieces.append)
        [answer] = await self._computed(one, engine, one.work)
        return Response(200, asked.whole(row, answer, pieces, bundle))

    async def _events(
        self,
        one: Exchange,
        engine: StreamEngine,
        work: Work,
        asked: Completion,
        news: asyncio.Queue[Piece | Exception],
        bundle: str,
    ) -> AsyncIterator[bytes]:
        """The events of an answer as they come; the engine stops when the client has left."""
        left: asyncio.Future[Any] = asyncio.ensure_future(one.receive())
        left.add_done_callback(lambda _: news.put_nowait(Left()))

        def ended(done: asyncio.Future[list[Answer]]) -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, Exception):
                news.put_nowait(error)

        work.future.add_done_callback(ended)
        self._streamed.add(news)
        try:
            for event in asked.first(bundle):
                yield event
            while not isinstance(piece := await news.get(), Exception):
                for event in asked.events(piece, bundle):
                    yield event
                if piece.finish is not None:
                    return
            if isinstance(piece, Left):
                raise piece
            fault = self._as_fault(one, piece)
            one.reason = fault.reason
            yield failure(str(fault), fault.reason)
        finally:
            self._streamed.discard(news)
            left.cancel()
            if not work.future.done():
                engine.abandon(work)

    async def _predict(
        self,
        one: Exchange,
        served: Served,
        started: float,
        parse: Callable[[Application, Exchange, Served, bytes], Asked],
    ) -> Response:
        require_method(one, "POST")
        deadline = started + self._seconds(one.headers)
        body = await self._body(one)
        served.engine.admit(1, 1, deadline)  # before it is read, which takes time that others need
        begun = monotonic()

        def read() -> tuple[Asked, list[Row]]:
            asked = parse(self, one, served, body)
            return asked, self._rows(served.model, asked)

        if served.model.medium == "text" and len(body) <= SHORT_BODY:
            asked, rows = read()
        else:
            asked, rows = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        self.metrics.read_seconds.labels(served.name).observe(monotonic() - begun)
        one.rows, one.tokens = len(rows), sum(row.length for row in rows)
        one.instances = asked.instances
        one.work = served.engine.submit(rows, deadline)
        answers = await self._computed(one, served.engine, one.work)
        content, headers = asked.answer(answers)
        if COUNTED_HEADER in one.headers:
            headers = {**headers, LABELS_HEADER: encoded_labels(answers)}
        return Response(200, content, {"content-type": "application/json", **headers})

    async def _computed(self, one: Exchange, engine: Engine | StreamEngine, work: Work) -> list[Answer]:
        """The answers, unless the client leaves first; a client is watched once its request takes long."""
        watching: list[asyncio.Task[Message]] = []

        def left(_: asyncio.Task[Message]) -> None:
            if not work.future.done():
                engine.abandon(work)

        def watch() -> None:
            watching.append(asyncio.ensure_future(one.receive()))
            watching[0].add_done_callback(left)

        timer = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, watch)
        try:
            return await work.future
        except asyncio.CancelledError:
            if watching and watching[0].done() and not watching[0].cancelled():
                raise Left from None
            raise
        finally:
            timer.cancel()
            for task in watching:
                task.remove_done_callback(left)
                task.cancel()
            if not work.future.done():
                engine.abandon(work)

    def _rows(self, model: RowModel, asked: Asked) -> list[Row]:
        rows = []
        for index, instance in enumerate(asked.instances):
            parts = [instance[column] for column in model.columns]
            try:
                rows.append(model.read(parts, asked.parameters, self.limits.pixels))
            except InputError as error:
                raise Fault(400, f"instances[{index}]: {error}") from None
        return rows

    def _seconds(self, headers: Headers) -> float:
        """Within how many seconds of its headers a request is to be computed."""
        given = headers.get(TIMEOUT_HEADER)
        if given is None:
            return self.timeout - min(WAY_BACK_SECONDS, self.timeout / 10)
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise Fault(400, f"{TIMEOUT_HEADER}: found {given:.20}, expected seconds, such as 0.5")
        return seconds - min(WAY_BACK_SECONDS, seconds / 10)

    async def _body(self, one: Exchange) -> bytes:
        most = self.limits.body_bytes
        encoding = one.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Fault(
                415, f"content-encoding: found {encoding:.20}, expected a body that is not compressed"
            )
        said = one.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > most:
            raise Fault(413, f"the body: found {said} bytes, expected at most {most}", "size")
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await one.receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    part = message.get("body", b"")
                    parts.append(part)
                    one.body_bytes += len(part)
                    self.held_bytes += len(part)
                    if one.body_bytes > most:
                        raise Fault(413, f"the body: found over {most} bytes, expected at most that", "size")
                    if self.held_bytes > self.queue_bytes:
                        held = f"{self.held_bytes} bytes of requests are held, over {self.queue_bytes}"
                        raise Refused("bytes", held, 1)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Fault(408, f"the body: it did not arrive within {BODY_SECONDS:g} s", "slow") from None
        return b"".join(parts)

    def _record(
        self, one: Exchange, response: Response, started: float, arrived: datetime, trace: str
    ) -> None:
        if response.status < 400 and (one.route in PROBES or one.route == self.health_route):
            return
        seconds = monotonic() - started
        method = one.method if one.method in METHODS else "_OTHER"
        self.metrics.request_seconds.labels(method, one.route, str(response.status)).observe(seconds)
        if self.requests is not None and one.work is not None and one.served is not None:
            done = one.work.future
            is_good = done.done() and not done.cancelled() and done.exception() is None
            event = Event(
                request_id=one.event,
                trace_id=trace,
                time=arrived,
                model=cast(LoggedModel, one.served.model),
                identity=one.served.identity,
                arm=one.headers.get(ARM_HEADER),
                client=one.client,
                status=response.status,
                seconds=seconds,
                instances=one.instances,
                rows=one.work.rows,
                answers=done.result() if is_good else None,
            )
            self.requests.add(event)
        severity = "ERROR" if response.status >= 500 else "WARNING" if response.status >= 400 else "INFO"
        work = one.work
        computed = (
            {}
            if work is None
            else {
                "batch_rows": work.batch_rows,
                "queue_ms": round(work.queued * 1000, 3),
                "compute_ms": round(work.computed * 1000, 3),
            }
        )
        self.log.write(
            {
                "time": arrived.isoformat(),
                "severity": severity,
                "message": f"{one.method} {one.path[:200]} {response.status}",
                "method": one.method,
                "path": one.path[:200],
                "status": response.status,
                "duration_ms": round(seconds * 1000, 3),
                "client": one.client,
                "trace": trace,
                "body_bytes": one.body_bytes,
                **({} if one.reason is None else {"reason": one.reason}),
                **({} if one.traceback is None else {"traceback": one.traceback}),
                **one.identity,
                **({} if one.served is None else {"rows": one.rows, "tokens": one.tokens}),
                **computed,
            }
        )


def require_method(one: Exchange, method: Literal["GET", "POST"]) -> None:
    """Raise a `Fault` at another method; HEAD is as good as GET."""
    allowed = ("GET", "HEAD") if method == "GET" else ("POST",)
    if one.method not in allowed:
        raise Fault(405, f"{one.method}: expected {method}", "method", {"allow": ", ".join(allowed)})


def has_objects(path: str) -> bool:
    """Whether errors of this path are objects, as the clients of OpenAI and of Google read them, or texts."""
    return path.startswith("/v1/projects/") or (path.startswith("/v1/") and not path.endswith(":predict"))


def listed(name: str) -> dict[str, Any]:
    """A model as OpenAI's client lists it; KServe's reads `ready`."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "gauntlet", "name": name, "ready": True}


def encoded_labels(answers: Sequence[Answer]) -> str:
    """How many rows were answered with each label, as `LABEL=COUNT&…`; empty for a kind without labels."""
    labels = (answer.content.get("label") for answer in answers)
    return urlencode(Counter(label for label in labels if isinstance(label, str)))


async def _drop_body(one: Exchange) -> None:
    """Read the rest of a body, for a while, so that its client has sent it and reads the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await one.receive()).get("more_body", False):
                pass


def parse_vertex(app: Application, one: Exchange, served: Served, body: bytes) -> Asked:
    """A Vertex prediction."""
    content_type, has_cells = one.headers.get("content-type", ""), CELLS_HEADER in one.headers
    return parse(served.model, one.identity, app.limits, content_type, body, has_cells)


def parse_v2(app: Application, one: Exchange, served: Served, body: bytes) -> Asked:
    """An inference of the Open Inference Protocol."""
    length = one.headers.get(HEADER_LENGTH)
    return parse_inference(served.model, one.identity, app.limits, length, body)
