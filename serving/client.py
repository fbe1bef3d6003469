"""Asks a running server for what a bundle's model would answer here. `gauntlet predict --url` does."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.faces import CELLS_HEADER
from gauntlet.serving.interface import Answer, InputError, Request
from gauntlet.serving.scoring import grouped

SECONDS = 600.0
MOST_ROWS, MOST_BYTES = 32, 4_000_000  # of one request: shared endpoints and servers bound both
INSTANCE = re.compile(r"instances\[(\d+)\]: (?:the image: )?(.*)", re.DOTALL)


def served_models(url: str) -> dict[str, Mapping[str, Any]]:
    """What the server at `url` says of each of its models, by name.

    Raises:
        UsageError: No server of bundles answers there.
        GauntletError: It is starting or ending.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url: {url}: expected an address such as http://127.0.0.1:8080.")
    content = _asked(url, HttpRequest(url, headers={"accept": "application/json"}))
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list):
        raise UsageError(f"--url: {url}: found another server, expected one that `gauntlet serve` started.")
    if not models:
        raise GauntletError(f"{url}: the server is {content.get('state')}. Ask again later.")
    return {one["name"]: one for one in models}


def ask(url: str, model: Mapping[str, Any], request: Request) -> tuple[list[Answer], str]:
    """The answers of a model that `served_models` describes, and its version.

    Raises:
        InputError: The model cannot take a row.
        UsageError: The server refuses the request.
        GauntletError: The server cannot answer now.
    """
    columns, is_text = model["columns"], model["medium"] == "text"
    given = [dict(zip(columns, parts, strict=True)) for parts in grouped(request.rows, columns)]
    instances = [{key: part if is_text else _file(part) for key, part in row.items()} for row in given]
    parameters = {"max_new_tokens": request.max_new_tokens}
    asked = {key: value for key, value in parameters.items() if key in model["parameters"]}
    found: list[Answer] = []
    version = str(model["version"])
    for some in _requests(instances):
        body = json.dumps({"instances": some, "parameters": asked}).encode()
        headers = {"content-type": "application/json", CELLS_HEADER: "1", "x-request-timeout": f"{SECONDS:g}"}
        route = f"{url}/v1/models/{model['name']}:predict"
        try:
            content = _asked(url, HttpRequest(route, body, headers))
        except InputError as error:
            at, message = INSTANCE.fullmatch(str(error)).groups()  # type: ignore[union-attr]
            row = len(found) + int(at)
            where = f"text {row + 1}" if is_text else " and ".join(given[row].values())
            raise InputError(f"{where}: {message.rstrip('.')}.") from None
        version = content["metadata"]["version"]
        for prediction, cells, note in zip(
            content["predictions"], content["cells"], content["notes"], strict=True
        ):
            row_given = given[len(found)]
            found.append(Answer({**row_given, **cells}, {**row_given, **prediction}, note))
    return found, version


def _file(path: str) -> dict[str, str]:
    try:
        return {"b64": b64encode(Path(path).read_bytes()).decode()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an image.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from None


def _requests(instances: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    some: list[Mapping[str, Any]] = []
    size = 0
    for one in instances:
        length = len(json.dumps(one))
        if some and (len(some) == MOST_ROWS or size + length > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(one)
        size += length
    yield some


def _asked(url: str, request: HttpRequest) -> Any:
    """The JSON of an answer."""
    try:
        with urlopen(request, timeout=SECONDS) as stream:
            return json.load(stream)
    except HTTPError as error:
        try:
            message = str(json.load(error)["error"])
        except (ValueError, KeyError, TypeError, OSError):
            message = f"HTTP {error.code} {error.reason}"
        if INSTANCE.fullmatch(message) and error.code == 400:
            raise InputError(message) from None
        kind = UsageError if error.code in range(400, 500) and error.code not in (408, 429) else GauntletError
        raise kind(f"{url}: {message}") from None
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)
        raise UsageError(f"--url: {url}: cannot be reached: {cause}. Is `gauntlet serve` running?") from None
    except ValueError as error:
        raise UsageError(f"--url: {url}: found no JSON, expected a server of bundles: {error}") from None
