"""A real MLflow server on loopback, as a cluster would have one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import requests

from gauntlet.backends.local.mlflow_database import open_client

SECONDS_TO_START = 300.0


class LoopbackMlflow:
    """`mlflow server` with its database and its artifacts in a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.artifacts = folder / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        database = folder / "mlflow.db"
        open_client(database)  # migrates in a third of the time that the server would take
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"mlflow+http://127.0.0.1:{self._port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{database}"),
            *("--artifacts-destination", str(self.artifacts)),
        ]

    def __enter__(self) -> LoopbackMlflow:
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ
                | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            log_text = (self._folder / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and its worker."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, 15)
            self._process.wait(timeout=120)

    def _answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self._port}/health", timeout=5).ok
        except requests.RequestException:
            return False
