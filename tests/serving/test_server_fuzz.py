"""Bodies that nobody should send: the server answers each with a 4xx, or with 200, and stays alive."""

from __future__ import annotations

import json
import random
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.image_bundles import picture, write_shapes
from tests.serving.running import SECONDS, Running, running
from tests.text_bundles import certified

BODIES, ALL_BODIES = 500, 20_000
MOST_GROWTH = 32 * 2**20
"""Bytes that the server may grow by in the second half of all bodies."""
CHAT, TEXT, V2 = "/v1/chat/completions", "/v1/completions", "/v2/models/"
ROUTES = (
    "/predict",
    "/v1/models/moods:predict",
    "/v1/models/shapes:predict",
    V2 + "moods/infer",
    V2 + "shapes/infer",
    CHAT,
    TEXT,
)
FITTING = (CHAT, TEXT, "/predict", "/v1/models/shapes:predict", V2 + "moods/infer", V2 + "shapes/infer")
"""The route that each of `SEEDS` is for."""
TYPES = (
    "application/json",
    "text/plain",
    "image/png",
    "multipart/form-data; boundary=b",
    "",
    "x/y; =",
    "\xe9",
)
ENCODED = b64encode(picture(diagonal=True)).decode()
SEEDS: tuple[Any, ...] = (
    {"model": "moods", "messages": [{"role": "user", "content": "good"}], "stream": True, "n": 1},
    {"model": "moods", "prompt": "good", "max_tokens": 3, "stream_options": {"include_usage": True}},
    {"instances": ["good", {"text": "bad"}], "parameters": {}},
    {"instances": [{"b64": ENCODED}, {"image": {"b64": ENCODED}}, ENCODED]},
    {"id": "1", "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}]},
    {
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}
        ],
        "outputs": [{"name": "label", "parameters": {"binary_data": True}}],
    },
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 1.5, 1e400, "", " ", "good", "\ud800", "\x00", "é" * 500, "gs://b/o"),
    *(
        [],
        {},
        [[]],
        {"b64": None},
        {"b64": "="},
        [["good"], "bad"],
        {"text": {"text": "good"}},
        "[PAD] " * 300,
    ),
)


def mutated(value: Any, random_: random.Random) -> Any:
    """The value with some part replaced, dropped or repeated."""
    if random_.random() < 0.06:
        return random_.choice(VALUES)
    if isinstance(value, dict):
        items = [(key, mutated(one, random_)) for key, one in value.items() if random_.random() < 0.95]
        if random_.random() < 0.1:
            items.append((random_.choice(("text", "image", "x", "instances", "")), random_.choice(VALUES)))
        return dict(items)
    if isinstance(value, list):
        found = [mutated(one, random_) for one in value if random_.random() < 0.95]
        return found * random_.choice((1, 1, 1, 2, 40))
    return value


def body_of(seed: Any, random_: random.Random) -> bytes:
    """`seed`, JSON like it, broken JSON, a form or bytes."""
    turn = random_.random()
    if turn < 0.1:
        return random_.randbytes(random_.randrange(200))
    if turn < 0.15:
        deep = random_.choice((b"[", b'{"instances":[', b'{"instances":'))
        return deep * random_.choice((3, 5000))
    if turn < 0.25:
        name = random_.choice((b"image", b"text", b"", b'"; x="'))
        part = b'content-disposition: form-data; name="' + name + b'"; filename="a"\r\n\r\n'
        content = b"--b\r\n" + part + picture(diagonal=True) + b"\r\n--b--\r\n"
        return content[: random_.randrange(len(content) + 1)]
    content = json.dumps(seed if turn > 0.85 else mutated(seed, random_)).encode()
    if turn < 0.45:  # a byte is changed, or the end is missing
        at = random_.randrange(len(content) + 1)
        return content[:at] + random_.randbytes(random_.randrange(2)) + content[at + 1 :]
    return content


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("fuzzed")
    options = ("--model", f"shapes={write_shapes(folder / 'shapes')}", "--max-instances", "30")
    with running(str(certified(folder / "texts")), *options) as found:
        yield found


@pytest.mark.parametrize("bodies", [BODIES, pytest.param(ALL_BODIES, marks=pytest.mark.acceptance)])
def test_no_body_makes_the_server_fail_or_grow(server: Running, bodies: int) -> None:
    random_ = random.Random(20)
    [process] = psutil.Process(server.process.pid).children()
    half = 0
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        for number in range(bodies):
            if number == bodies // 2:
                half = process.memory_info().rss
            seed = random_.randrange(len(SEEDS))
            is_fit = random_.random() < 0.5  # the route and the type are those that the body is for
            route = FITTING[seed] if is_fit else random_.choice(ROUTES)
            content_type = TYPES[0] if is_fit else random_.choice(TYPES)
            headers = {"content-type": content_type.encode("latin-1")}
            if random_.random() < 0.1:
                headers["inference-header-content-length"] = random_.choice((b"5", b"-1", b"x", b"999999999"))
            body = body_of(SEEDS[seed], random_)
            answer = client.post(route, content=body, headers=headers)
            assert answer.status_code < 500, (number, route, headers, body, answer.text)
            assert answer.status_code == 200 or answer.json()["error"]
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        good = client.post("/predict", json={"instances": ["good"]})
    assert good.json()["predictions"][0]["label"] == "good"
    assert {200, 400, 415} <= statuses.keys()
    assert statuses[200] > bodies // 20
    assert process.memory_info().rss < half + MOST_GROWTH
    assert process.is_running()
