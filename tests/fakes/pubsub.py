"""Pub/Sub by the Cloud SDK's own emulator, where that and Java are installed."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import requests

EMULATOR = "platform/pubsub-emulator/bin/cloud-pubsub-emulator"


def emulator() -> Path | None:
    """The program, if it can be run here."""
    gcloud = shutil.which("gcloud")
    found = Path(gcloud).resolve().parent.parent / EMULATOR if gcloud else None
    return found if found and found.is_file() and shutil.which("java") else None


class PubSub:
    """The project `demo` with one topic, which pushes messages to an address until it answers with 2xx."""

    def __init__(self, program: Path, push_to: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._project = f"http://127.0.0.1:{port}/v1/projects/demo"
        self._process = subprocess.Popen(
            [str(program), "--host=127.0.0.1", f"--port={port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output = self._process.stdout
        assert output is not None
        assert any("Server started" in line for line in output)
        threading.Thread(target=output.read, daemon=True).start()
        self._ask("PUT", "topics/events", {})
        subscription = {"topic": "projects/demo/topics/events", "pushConfig": {"pushEndpoint": push_to}}
        self._ask("PUT", "subscriptions/receiver", subscription)

    def publish(self, content: bytes) -> None:
        message = {"data": base64.b64encode(content).decode()}
        self._ask("POST", "topics/events:publish", {"messages": [message]})

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _ask(self, method: str, path: str, body: object) -> None:
        requests.request(method, f"{self._project}/{path}", json=body, timeout=60).raise_for_status()
