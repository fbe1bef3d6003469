"""A server in a process of its own on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 120
READY = re.compile(r"is ready on (http://\S+)")


@dataclass
class Running:
    """A server that is ready."""

    process: subprocess.Popen[str]
    url: str

    def end(self) -> tuple[int, list[dict[str, Any]], str]:
        """Ask it to end; return its exit code, its access log, and what else it said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        out, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], errors


@contextmanager
def running(
    *arguments: str, module: str = "gauntlet.serving", python: str = sys.executable, **environment: str
) -> Iterator[Running]:
    """`python -m MODULE serve ARGUMENTS` on a free port, once it is ready."""
    process = start(arguments, module, environment, python=python)
    stop = threading.Timer(SECONDS, process.kill)  # a server that is never ready fails the test
    stop.start()
    try:
        assert process.stderr is not None
        said = ""
        while not (found := READY.search(said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield Running(process, found[1].replace("0.0.0.0", "127.0.0.1"))
    finally:
        stop.cancel()
        process.kill()
        process.communicate()


def start(
    arguments: tuple[str, ...],
    module: str = "gauntlet.serving",
    environment: Mapping[str, str] = MappingProxyType({}),
    port: str = "0",
    python: str = sys.executable,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, "-m", module, "serve", *arguments, "--port", port],
        cwd=ROOT if python == sys.executable else Path(python).parent,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
