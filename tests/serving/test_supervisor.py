"""A server process that dies is replaced on the same port, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving.running import SECONDS, Running, running, start
from tests.text_bundles import certified


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(str(certified(tmp_path))) as found:
        yield found


def process_of(server: Running) -> psutil.Process:
    """The process that serves."""
    [found] = psutil.Process(server.process.pid).children()
    return found


def test_a_server_that_is_killed_is_replaced_and_clients_that_connect_meanwhile_are_answered(
    server: Running,
) -> None:
    for restarts in (1, 2):
        killed = process_of(server)
        killed.kill()
        psutil.wait_procs([killed], timeout=SECONDS)
        answer = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS)
        assert answer.json()["predictions"][0]["label"] == "good"
        metrics = httpx.get(server.url + "/metrics", timeout=SECONDS).text
        assert f"gauntlet_restarts_total {restarts}.0" in metrics
    code, lines, errors = server.end()
    assert code == 0
    assert [line["status"] for line in lines if line["path"] == "/predict"] == [200, 200]
    assert "the server process died by SIGKILL (Linux sends it when memory runs out)" in errors


def test_a_server_ends_with_its_supervisor(server: Running) -> None:
    child = process_of(server)
    server.process.kill()
    gone, _ = psutil.wait_procs([child], timeout=SECONDS)
    assert gone
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), SECONDS)


def test_a_signal_to_the_whole_process_group_lets_what_was_begun_be_answered(server: Running) -> None:
    """Ctrl-C reaches both processes, and so does a stop by systemd."""
    child = process_of(server)
    child.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0


def test_a_server_that_dies_before_it_is_ready_is_given_up_after_three_times(tmp_path: Path) -> None:
    bundle = certified(tmp_path)
    killing = "import os, sys\nif 'gauntlet.serving.server' in sys.orig_argv: os.kill(os.getpid(), 9)\n"
    (tmp_path / "sitecustomize.py").write_text(killing)
    process = start(
        (str(bundle),),
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.count("the server process died by SIGKILL") == 2
    assert "error: the server died 3 times before it was ready, at last by SIGKILL" in errors
