"""Clients that connect and do not behave: others are answered all the same."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.running import ROOT, SECONDS, Running, running
from tests.text_bundles import certified

ASK = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n"
    b'{"instances": ["good"]}'
)
CHUNKED = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MOST_PER_CONNECTION = 64 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = certified(tmp_path_factory.mktemp("connected"))
    with running(str(bundle), "--shape", "wide", "--max-body-mb", "0.05") as found:
        yield found


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), SECONDS)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes, which is a reset if it has not read all that was sent."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        if not found:
            raise
    return found


def require_answers(server: Running) -> None:
    answer = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS)
    assert answer.json()["predictions"][0]["label"] == "good"


def test_requests_that_are_sent_at_once_are_answered_in_order(server: Running) -> None:
    last = ASK.replace(b"host: x", b"host: x\r\nconnection: close").replace(b'"good"', b'"bad!"')
    with connect(server) as connection:
        connection.sendall(ASK * 50 + last)
        found = read_all(connection)
    assert found.count(b"HTTP/1.1 200 OK") == 51
    assert found.count(b'"label":"good"') == 50
    assert found.rindex(b'"label":"bad"') > found.rindex(b'"label":"good"')


def test_a_body_without_an_end_is_refused_once_it_is_too_long(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(CHUNKED)
        for _ in range(1000):  # 1 MB, of which the server keeps 50 KB: it reads the rest and drops it
            connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65_536):  # raises if the server resets the connection
            found += part
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b'"error":"the body: found over 52428 bytes, expected at most that"' in found
    require_answers(server)


def test_a_client_that_half_closes_or_resets_its_connection_leaves_nothing_behind(server: Running) -> None:
    for content in (ASK, ASK[:-5], ASK[:40], b"", CHUNKED):
        with connect(server) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)  # ends: the server closes its side too
    for content in (ASK, ASK[:-5]):
        with connect(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # RST
            connection.sendall(content)
    require_answers(server)
    while "http_server_active_requests 1.0" not in httpx.get(server.url + "/metrics", timeout=SECONDS).text:
        pass  # until only this one is left


def test_connections_over_the_limit_are_refused_with_the_reason(tmp_path: Path) -> None:
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -n 300\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    with (
        running(str(certified(tmp_path)), python=str(limited), PYTHONPATH=path) as server,
        ExitStack() as opened,
    ):
        for _ in range(300 - 256):
            opened.enter_context(connect(server))
        with connect(server) as refused:
            answer = read_all(refused)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"x-gauntlet-refused: connections" in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head
        opened.close()
        status = 0
        while status != 200:  # until the server has seen that they are closed
            with suppress(httpx.TransportError):
                status = httpx.get(server.url + "/readyz", timeout=SECONDS).status_code


@pytest.mark.acceptance
def test_ten_thousand_silent_connections_slow_nobody_and_are_closed(server: Running) -> None:
    """Slow-loris: each sends a part of a head, and its connection is closed after 20 s."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = 10_000
    if hard != resource.RLIM_INFINITY and hard < count + 256:
        pytest.skip(f"needs {count + 256} descriptors, and this process may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 256), hard))
    [process] = psutil.Process(server.process.pid).children()
    before = process.memory_info().rss
    with ExitStack() as opened:
        slow = [opened.enter_context(connect(server)) for _ in range(count)]
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nx-slow: ")
        for _ in range(20):
            require_answers(server)
        assert process.memory_info().rss - before < count * MOST_PER_CONNECTION
        for connection in slow:
            assert connection.recv(1) == b""
    require_answers(server)


@pytest.mark.acceptance
def test_a_body_that_does_not_arrive_is_refused_after_30_seconds(server: Running) -> None:
    with connect(server) as connection:
        connection.sendall(CHUNKED + b"5\r\nhello\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")
