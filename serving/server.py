"""The server process: opens bundles, proves and warms them up, then answers requests until it is told to end.

`supervisor` starts it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, ClassVar, cast

import uvicorn
import uvloop
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.app import Application, Served
from gauntlet.serving.bundle import (
    BUNDLE_FILE,
    PORTABLE,
    BundleError,
    file_sha256,
    read_certificate,
    read_info,
    served_files,
)
from gauntlet.serving.cpu import cpu_class
from gauntlet.serving.engine import MOST_ROWS, CostModel, Engine
from gauntlet.serving.faces import Limits
from gauntlet.serving.interface import RowModel, StreamModel
from gauntlet.serving.request_log import RequestLog
from gauntlet.serving.settings import LOG_KEY, Batching, Settings
from gauntlet.serving.shapes import choose
from gauntlet.serving.storage import read_object
from gauntlet.serving.streaming import MOST_STREAMS, StreamEngine
from gauntlet.serving.supervisor import END, READY, SIGNALS, Job, Source
from gauntlet.serving.telemetry import AccessLog, Metrics
from gauntlet.serving.verification import prove, proved_model

ASKED = ("medium", "columns", "fields", "lengths", "sample", "read", "run", "parameters", "most_rows")
"""What a kind's model defines to be served, as `interface.RowModel` describes it."""
LOGGED = ("features", "logged")
"""What it defines besides if requests are logged: `interface.LoggedModel`."""
DRAIN_SECONDS = 7.0
"""For what was begun before a signal; uvicorn's own end takes up to 1 s more. Cloud Run kills after 10 s."""
KEEP_ALIVE_SECONDS = 75
HEAD_SECONDS, HEAD_BYTES = 20.0, 65_536
MOST_CONNECTIONS, OTHER_DESCRIPTORS = 16_384, 256
"""The most open connections, and how many descriptors are kept for everything else."""
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"x-gauntlet-refused: connections\r\nconnection: close\r\ncontent-length: 41\r\n\r\n"
    b'{"error":"too many connections are open"}'
)
WARM_RUNS = 2
MEGABYTE = 2**20
SHA256_SHOWN = 12


def limits_of(settings: Settings) -> Limits:
    """What a request may be."""
    most, root = int(settings.max_body_mb * MEGABYTE), settings.allow_gs
    return Limits(
        body_bytes=most,
        instances=settings.max_instances,
        pixels=settings.max_pixels,
        read_object=None if root is None else lambda uri: read_object(uri, root, most),
    )


def opened(source: Source, settings: Settings, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> Served:
    """A bundle's model, proved and warmed up on this machine.

    Raises:
        BundleError: A check of `verification.verify` fails, or the bundle's kind cannot be served.
    """
    proved = proved_model(source.folder, source.sha256)
    info = read_info(source.folder, source.sha256)
    asked = ASKED if settings.request_log is None else ASKED + LOGGED
    if missing := [name for name in asked if not hasattr(proved, name)]:
        raise BundleError(
            f"{source.folder}: a model of {info.task} cannot be served: its kind defines no "
            f"{', '.join(missing)} (docs/how-to/add_a_task_kind.md)"
        )
    model = cast(RowModel, proved)
    sha256 = file_sha256(source.folder / BUNDLE_FILE)
    name = source.name or info.name
    files = served_files(source.folder, info)
    certificate = read_certificate(source.folder / files.certificate)
    together = may_share(settings.batching, certificate)
    common: dict[str, Any] = {
        "together": together,
        "queue_tokens": settings.queue_tokens,
        "observe": lambda batch: metrics.of_batch(name, batch),
    }
    engine: Engine | StreamEngine
    if hasattr(model, "streams"):
        cost = CostModel({}, 1)
        warm_steps(model, cost, MOST_STREAMS if together else 1)
        engine = StreamEngine(cast(StreamModel, model), cost, loop, **common)
    else:
        latency = info.latency_ms
        if files is PORTABLE:
            latency = {size: one["median"] for size, one in certificate["latency_ms"].items()}
            print(f"{name}: this CPU, {cpu_class()}, takes {files.model}", file=sys.stderr, flush=True)
        cost = CostModel(latency, model.lengths[len(model.lengths) // 2])
        most = (model.most_rows or MOST_ROWS) if together else 1
        choice = choose(model, settings.shape, most, settings.batch_tokens)
        if choice.model is not model:
            tuple(prove(source.folder, info, files, choice.model))  # the session that serves is proved too
        for shape, figure in choice.rows_per_second.items():
            metrics.shape_rows.labels(name, shape).set(figure)
        metrics.shape.labels(name, choice.shape).set(1)
        print(f"{name}: {choice}", file=sys.stderr, flush=True)
        model = choice.model
        warm(model, cost, most, settings.batch_tokens)
        workers = choice.workers
        engine = Engine(model, cost, workers=workers, batch_tokens=settings.batch_tokens, **common)
    version = source.version or sha256[:SHA256_SHOWN]
    return Served(name, version, sha256[:SHA256_SHOWN], info.task, model, engine)


def may_share(batching: Batching, certificate: Mapping[str, Any]) -> bool:
    """Whether rows of several requests may share a batch.

    With `safe` they may if conversion found no more rows whose label changes with the rows of their batch
    than `conversion.max_neighbour_flips` allows; a certificate without the measurement allows nothing.
    """
    if batching != "safe":
        return batching == "on"
    measured = certificate.get("neighbours")
    try:
        bound = float(certificate.get("max_neighbour_flips", 0))
        return float(measured["label_changes"]) <= bound * float(measured["rows"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return False


def warm(model: RowModel, cost: CostModel, most_rows: int, batch_tokens: int) -> None:
    """Compute made-up rows of each length, alone and in the largest batch, and learn what they cost here."""
    for length in model.lengths:
        for rows in sorted({1, max(1, min(most_rows, batch_tokens // length))}):
            batch = [model.sample(length) for _ in range(rows)]
            for turn in range(WARM_RUNS):
                started = monotonic()
                model.run(batch)
                if turn:  # the first run also allocates
                    cost.observe(rows * length, monotonic() - started)


def warm_steps(model: RowModel, cost: CostModel, most: int) -> None:
    """Answer made-up questions, alone and as many at once as there may be, and learn what a step costs."""
    length = model.lengths[0]
    for rows in sorted({1, most}):
        for turn in range(WARM_RUNS):
            started = monotonic()
            model.run([model.sample(length) for _ in range(rows)])
            if turn:
                cost.observe(rows, (monotonic() - started) / length)


def main(job: Job) -> int:
    """Do what the supervisor asks for; return the exit code."""
    with socket.socket(fileno=job.listening) as listening, socket.socket(fileno=job.control) as control:
        try:
            unfinished = uvloop.run(_serve(job, listening, control))
        except (BundleError, UsageError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1
    if unfinished:  # a thread still computes what nobody waits for, and Python would wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def most_connections() -> int:
    """How many connections may be open, after the limit of descriptors was raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - OTHER_DESCRIPTORS)


class _Protocol(HttpToolsProtocol):
    """Closes a connection whose client takes long, or many bytes, to send the head of a request.

    Attributes:
        most: How many connections may be open; further ones are refused.
        refused: Counts those.
    """

    most: ClassVar[int] = MOST_CONNECTIONS
    refused: ClassVar[Counter]
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _is_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.refused.inc()
            transport.write(FULL)
            transport.close()
            return
        self._look_at_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come; mostly they are a whole head, which needs no timer."""
        self._head_bytes += len(data)
        super().data_received(data)
        self._look_at_head()

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        self._is_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._is_head = False
        self._look_at_head()
        super().connection_lost(exc)

    def _look_at_head(self) -> None:
        if not self._is_head:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._head_bytes > HEAD_BYTES:
            self.transport.close()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)


class _Server(uvicorn.Server):
    """A server whose signals are ours: uvicorn's would end the process by the signal itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class _End:
    """The end of a server: what was begun is answered first, for a while."""

    def __init__(self, app: Application, server: uvicorn.Server) -> None:
        self._app, self._server = app, server
        self._task: asyncio.Task[None] | None = None
        self.unfinished = False

    def begin(self) -> None:
        """Take no new requests, and end once those that were begun are answered."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())

    def told(self, control: socket.socket) -> None:
        """Read what the supervisor says; nothing if it is gone."""
        try:
            word = control.recv(1)
        except ConnectionResetError:  # it has not read that the server is ready
            word = b""
        if word == END:
            os._exit(0)
        if not word:
            asyncio.get_running_loop().remove_reader(control)
        self.begin()

    async def _drain(self) -> None:
        try:
            await asyncio.wait_for(self._app.drained(), DRAIN_SECONDS)
        except TimeoutError:
            self.unfinished = True
            self._app.cut()
            print(f"{self._app.active} requests were not answered in time", file=sys.stderr, flush=True)
        self._server.should_exit = True


async def _serve(job: Job, listening: socket.socket, control: socket.socket) -> bool:
    """Serve until a signal, or the supervisor says so or is gone; return whether something is unfinished."""
    loop, settings = asyncio.get_running_loop(), job.settings
    metrics = Metrics()
    metrics.restarts.inc(job.restarts)
    log = AccessLog(metrics)
    requests = None
    if settings.request_log is not None:
        key = os.environ[LOG_KEY]  # which the supervisor sets
        requests = RequestLog(settings.request_log, settings.sample_rate, settings.store, key, metrics)
    app = Application(
        limits_of(settings),
        metrics,
        log,
        settings.timeout,
        int(settings.queue_mb * MEGABYTE),
        os.environ.get("AIP_PREDICT_ROUTE", "/predict"),
        os.environ.get("AIP_HEALTH_ROUTE", "/health"),
        requests=requests,
    )
    _Protocol.most, _Protocol.refused = most_connections(), metrics.refused.labels("connections")
    server = _Server(
        uvicorn.Config(
            cast(Any, app),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
    end = _End(app, server)
    control.setblocking(False)
    loop.add_reader(control, end.told, control)
    for one in SIGNALS:  # the whole process group may get it, so a second one means nothing here
        loop.add_signal_handler(one, end.begin)
    loading: asyncio.Future[Any] = loop.run_in_executor(
        None, _opened_all, job.sources, settings, metrics, loop
    )
    # Cloud Run sends requests as soon as the port is open; after a restart clients wait and get no 503.
    if job.restarts or "K_SERVICE" in os.environ:
        await asyncio.wait({loading})
        loading.result()
    serving: asyncio.Future[Any] = asyncio.ensure_future(server.serve(sockets=[listening]))
    await asyncio.wait((loading, serving), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():  # a signal came first
        return True
    try:
        models = loading.result()
    except Exception:
        server.should_exit = True
        await serving
        raise
    app.ready(models)
    control.send(READY)
    at = listening.getsockname()
    where = at if isinstance(at, str) else f"http://{at[0]}:{at[1]}"
    for served in models:
        print(
            f"{served.name} version {served.version} (bundle {served.bundle_sha256}) is ready on {where}",
            file=sys.stderr,
            flush=True,
        )
    await serving
    for served in models:
        served.engine.close()
    log.close()
    if requests is not None:
        requests.close()
    return end.unfinished


def _opened_all(
    sources: Sequence[Source], settings: Settings, metrics: Metrics, loop: asyncio.AbstractEventLoop
) -> list[Served]:
    found: dict[str, Served] = {}
    try:
        for source in sources:
            served = opened(source, settings, metrics, loop)
            if served.name in found:
                served.engine.close()
                raise UsageError(
                    f"--model: two models are named {served.name!r}. Name them by --model NAME=PATH."
                )
            found[served.name] = served
    except Exception:
        for served in found.values():
            served.engine.close()
        raise
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main(Job.from_json(sys.argv[1])))
