"""What the gateway sends to a server."""

from __future__ import annotations

import asyncio

import uvloop

from gauntlet.serving.gateway import Client, Gateway, Request


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
