"""The receiver as a WSGI application, which gunicorn serves on Cloud Run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.trigger.receiver import Answer, Receiver

LARGEST_BODY = 1_000_000
"""Bytes; an event is a few hundred."""

Application = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


def create() -> Application:
    """The application with the settings of the environment; wrong settings end the process."""
    try:
        receiver = Receiver.of(os.environ)
    except UsageError as error:
        sys.exit(f"error: {error}")

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        answer = _answer(receiver, environ)
        body = answer.as_json()
        print(body.decode(), flush=True)
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return application


def _answer(receiver: Receiver, environ: dict[str, Any]) -> Answer:
    if environ["REQUEST_METHOD"] != "POST":
        return Answer(405, "refused", f"method: found {environ['REQUEST_METHOD']}, expected POST.")
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > LARGEST_BODY:
        return Answer(413, "refused", f"body: found {length} bytes, expected at most {LARGEST_BODY}.")
    headers = {
        key.removeprefix("HTTP_").replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") or key == "CONTENT_TYPE"
    }
    return receiver.answer(headers, environ["wsgi.input"].read(int(length)))
