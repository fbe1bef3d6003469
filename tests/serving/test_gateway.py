"""What the gateway sends to a server, and how it passes a stream on."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from gauntlet.serving.gateway import Client, Counts, Gateway, Request, Service, Split, Target
from gauntlet.serving.revisions import _say

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{}"
SECONDS = 120


class Streaming:
    """A server that sends an event at once, and another one and the end once `goes_on` is set.

    `left` is set when a connection is closed meanwhile. With `dies` it closes the connection after the first.
    """

    def __init__(self) -> None:
        self.goes_on, self.left, self.dies = asyncio.Event(), asyncio.Event(), False

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(HEAD + b"d\r\ndata: first\n\n\r\n")
            if self.dies:
                break
            end, go = asyncio.create_task(reader.read(1)), asyncio.create_task(self.goes_on.wait())
            await asyncio.wait({end, go}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                self.left.set()
                break
            end.cancel()
            await asyncio.wait({end})
            writer.write(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
        writer.close()


Stream = tuple[Streaming, Counts, asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def streaming(folder: Path) -> AsyncIterator[Stream]:
    """A server that streams, what a gateway in front of it counts, and a connection to the gateway."""
    server, path = Streaming(), str(folder / "1.sock")
    behind = await asyncio.start_unix_server(server.answer, path)
    gateway, target, split = Gateway(), Target("one", path), Split({"one": 100}, "1")
    target.state, target.was_ready = "ready", True
    gateway.services["parrot"] = Service("parrot", split, {"one": target})
    front = await asyncio.get_running_loop().create_server(lambda: Client(gateway), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname()[:2])
    try:
        async with asyncio.timeout(SECONDS):
            yield server, split.arms["one"], reader, writer
    finally:
        writer.close()
        front.close()
        behind.close()


def stream(folder: Path, ask: Callable[[Stream], Awaitable[None]]) -> None:
    async def run() -> None:
        async with streaming(folder) as found:
            await ask(found)

    uvloop.run(run())


def test_the_events_of_a_stream_are_passed_on_as_they_come(tmp_path: Path) -> None:
    async def ask(found: Stream) -> None:
        server, counts, reader, writer = found
        for number in (1, 2):  # the connection stays open
            server.goes_on.clear()
            writer.write(ASKED)
            assert (await reader.readuntil(b"data: first\n\n")).lstrip().startswith(b"HTTP/1.1 200 OK\r\n")
            assert counts.requests == number - 1  # it is not answered yet
            server.goes_on.set()
            await reader.readuntil(b"data: second\n\n\r\n0\r\n\r\n")
            assert (counts.requests, counts.errors) == (number, 0)

    stream(tmp_path, ask)


def test_a_server_is_told_that_the_client_of_a_stream_has_left(tmp_path: Path) -> None:
    async def ask(found: Stream) -> None:
        server, counts, reader, writer = found
        writer.write(ASKED)
        await reader.readuntil(b"data: first\n\n")
        writer.transport.abort()
        await server.left.wait()
        assert (counts.requests, counts.errors) == (1, 0)

    stream(tmp_path, ask)


def test_the_client_of_a_stream_sees_that_its_server_has_died(tmp_path: Path) -> None:
    async def ask(found: Stream) -> None:
        server, counts, reader, writer = found
        server.dies = True
        writer.write(ASKED)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"0\r\n\r\n")
        assert (counts.requests, counts.errors) == (1, 1)

    stream(tmp_path, ask)


def test_a_log_on_a_full_disk_does_not_end_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    _say("a revision has failed")


def test_a_server_is_told_the_arm_by_the_gateway_and_not_by_the_client() -> None:
    headers = [(b"x-gauntlet-arm", b"forged"), (b"x-gauntlet-revision", b"other"), (b"accept", b"*/*")]
    request = Request(b"POST", b"/predict", headers)
    request.body = b"{}"
    head, _, body = request.encoded(b"33b067288080").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /predict HTTP/1.1"
    assert sorted(lines[1:]) == [
        b"accept: */*",
        b"content-length: 2",
        b"x-gauntlet-arm: 33b067288080",
        b"x-gauntlet-counted: 1",
    ]
    assert body == b"{}"


def test_a_body_that_is_too_long_is_refused_with_a_readable_answer() -> None:
    """The client has sent its request whole before it reads: a reset would lose the answer."""

    async def ask() -> bytes:
        loop, app = asyncio.get_running_loop(), Gateway()
        server = await loop.create_server(lambda: Client(app), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(80):
            writer.write(b"100000\r\n" + bytes(2**20) + b"\r\n")
            await writer.drain()
        writer.write_eof()
        found = await reader.read()
        server.close()
        assert app.held == 0
        return found

    answer = uvloop.run(ask())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"error":"the body: found over 67108864 bytes, expected at most that"}')
