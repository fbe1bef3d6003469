"""Opens the port, starts the process that serves on it, and starts another one if that process dies.

The listening socket stays open while the process is replaced: clients that connect meanwhile wait, and only
what the dead process had begun is lost. The two processes talk over a pair of sockets, one byte at a time:
the server says that it is ready; the supervisor says when to end. If the supervisor is gone, even by SIGKILL,
the server reads the end of the pair, answers what it has begun, and ends.

It also works as the first process of a container: it reaps whatever it inherits.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.settings import LOG_KEY, Settings

SERVER = "gauntlet.serving.server"
READY, DRAIN, END = b"r", b"d", b"e"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
BACKLOG = 2048
MOST_DEATHS = 3
"""How often the server may die in a row before it is ready."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a server is started again; the first of a row is started at once, later pauses double."""
STEADY_SECONDS = 60.0
"""A server that was ready for so long begins a new row."""


@dataclass(frozen=True)
class Source:
    """A bundle to serve.

    Attributes:
        name: What routes call the model; None takes the bundle's own name.
        version: None takes the beginning of the sha256 of `bundle.json`.
        sha256: What `bundle.json` must hash to, where a registry has recorded it.
    """

    folder: Path
    name: str | None = None
    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Job:
    """What the server process is told.

    Attributes:
        listening: The descriptor of the listening socket.
        control: That of the server's end of the pair.
        restarts: How many server processes there were before.
    """

    sources: Sequence[Source]
    settings: Settings
    listening: int
    control: int
    restarts: int = 0

    def to_json(self) -> str:
        """For an argument of the process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        sources = [Source(**{**one, "folder": Path(one["folder"])}) for one in content.pop("sources")]
        return cls(sources, Settings(**content.pop("settings")), **content)


def serve(sources: Sequence[Source], settings: Settings) -> int:
    """Serve bundles until SIGTERM or SIGINT; return the exit code.

    What was begun is answered within 8 s, and new requests get 503 meanwhile. A second signal ends at once.
    A server that ends by itself before it was ever ready has said why, and its exit code is returned.

    Raises:
        UsageError: The address cannot be used.
    """
    host, port = settings.address
    try:
        listening = socket.create_server((host, port), backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        raise UsageError(
            f"--port: cannot listen on {host}:{port}: {error.strerror or error}. Choose another with --port."
        ) from None
    with listening:
        return _Supervisor(sources, settings, listening).run()


class _Supervisor:
    """One listening socket and the process that serves on it."""

    def __init__(self, sources: Sequence[Source], settings: Settings, listening: socket.socket) -> None:
        self._sources, self._settings, self._listening = sources, settings, listening
        self._control: socket.socket | None = None
        self._is_ending = False
        self._restarts = 0
        self._key = os.environ.get(LOG_KEY) or secrets.token_hex(32)

    def run(self) -> int:
        """Serve until a signal; return the exit code."""
        before = {one: signal.signal(one, self._signalled) for one in SIGNALS}
        try:
            return self._run()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _run(self) -> int:
        deaths, in_row = 0, 0
        while not self._is_ending:
            started = monotonic()
            code, was_ready = self._serve_once()
            if self._is_ending:
                return code if code >= 0 else 128 - code
            if code > 0 and not was_ready:
                return code
            deaths = 0 if was_ready else deaths + 1
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            hint = " (Linux sends it when memory runs out)" if -code == signal.SIGKILL else ""
            if deaths == MOST_DEATHS:
                _say(f"error: the server died {deaths} times before it was ready, at last by {how}{hint}")
                return 1
            in_row = 0 if was_ready and monotonic() - started > STEADY_SECONDS else in_row + 1
            pause = 0.0 if in_row < 2 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (in_row - 2))
            self._restarts += 1
            _say(f"the server process died by {how}{hint}; another one is started in {pause:g} s")
            sleep(pause)
        return 0

    def _serve_once(self) -> tuple[int, bool]:
        """The exit code of a server process, negative for a signal, and whether it was ready."""
        control, of_server = socket.socketpair()
        with control:
            with of_server:
                handed = (self._listening.fileno(), of_server.fileno())
                job = Job(self._sources, self._settings, *handed, restarts=self._restarts)
                # The server imports what this process would import.
                environment = {
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "PYTHONSAFEPATH": "1",
                    LOG_KEY: self._key,
                }
                process = subprocess.Popen(
                    [sys.executable, "-m", SERVER, job.to_json()],
                    pass_fds=handed,
                    env=os.environ | environment,
                )
            self._control = control
            while True:
                pid, status = os.wait()
                if pid == process.pid:
                    break
            self._control = None
            process.returncode = os.waitstatus_to_exitcode(status)
            control.setblocking(False)
            try:
                was_ready = control.recv(1) == READY
            except OSError:
                was_ready = False
            return process.returncode, was_ready

    def _signalled(self, _number: int, _frame: object) -> None:
        if self._is_ending:
            self._tell(END)
            return
        self._is_ending = True
        if self._control is None:  # there is no server yet, or none between two of them
            raise SystemExit(0)
        self._tell(DRAIN)

    def _tell(self, word: bytes) -> None:
        if self._control is not None:
            try:
                self._control.send(word)
            except OSError:  # the server is gone; `_run` sees it
                return


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
