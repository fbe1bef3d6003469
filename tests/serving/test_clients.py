"""Clients of others ask the server unchanged: recorded requests; by `make acceptance` the clients too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from google.api_core.exceptions import BadRequest, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from requests.adapters import HTTPAdapter

from tests.adding_bundles import write_adding
from tests.environments import Environment
from tests.serving.running import SECONDS, Running, running
from tests.text_bundles import certified


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A text classifier, and a language model that adds."""
    folder = tmp_path_factory.mktemp("served")
    adding = f"adding={write_adding(folder / 'adding')}"
    with running(str(certified(folder / "texts")), "--model", adding) as found:
        yield found


TEXTS = b"\x04\x00\x00\x00good\x03\x00\x00\x00bad"
INFER = "/v2/models/moods/infer"
OPENAI = {"authorization": "Bearer none", "accept": "application/json", "content-type": "application/json"}
KSERVE = {"accept": "*/*", "content-type": "application/octet-stream"}
MESSAGES = '"messages":[{"role":"user","content":"one two"}]'


def binary(head: str, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    return {**headers, "inference-header-content-length": str(len(head))}, head.encode() + TEXTS


ONE_INPUT = '"inputs":[{"name":"text","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":15}}]'


# As these versions send them: openai 3.57.0, kserve 0.21.0, tritonclient 2.73.0.
RECORDED: list[tuple[str, dict[str, str], bytes | None, str]] = [
    ("/v1/models", OPENAI, None, '"id":"adding"'),
    ("/v1/models/adding", OPENAI, None, '"object":"model"'),
    (
        "/v1/chat/completions",
        OPENAI,
        f'{{"model":"adding",{MESSAGES},"max_tokens":4}}'.encode(),
        '"message":{"role":"assistant","content":"three six two four"}',
    ),
    (
        "/v1/chat/completions",
        OPENAI,
        f'{{"model":"adding","stream":true,{MESSAGES},"max_completion_tokens":4,'
        '"stream_options":{"include_usage":true}}'.encode(),
        '"usage":{"prompt_tokens":2,"completion_tokens":4,"total_tokens":6}}\n\ndata: [DONE]\n\n',
    ),
    (
        "/v1/chat/completions",
        OPENAI,
        b'{"model":"adding","messages":[{"role":"user","content":[{"type":"text","text":"one two"}]}],'
        b'"max_tokens":4}',
        "three six two four",
    ),
    ("/v1/completions", OPENAI, b'{"model":"adding","prompt":["five"],"max_tokens":4}', '"text":"five"'),
    ("/", {"accept": "*/*"}, None, '"status":"alive"'),
    ("/v1/models/moods", {"accept": "*/*"}, None, '"ready":true'),
    (
        "/v1/models/moods:predict",
        {"accept": "*/*", "content-type": "application/json"},
        b'{"instances":["good",{"text":"bad"}]}',
        '"predictions":[{"label":"good"',
    ),
    ("/v2/health/ready", {"accept": "*/*"}, None, '"ready":true'),
    (
        INFER,
        KSERVE | {"content-type": "application/json"},
        b'{"id":"7","model_name":"moods","inputs":[{"name":"text","shape":[2],"datatype":"BYTES",'
        b'"data":["good","bad"]}]}',
        '"data":["good","bad"]',
    ),
    (
        INFER,
        *binary(
            f'{{"id":"7","model_name":"moods",{ONE_INPUT},"parameters":{{"binary_data_output":true}}}}',
            KSERVE,
        ),
        TEXTS.decode(),
    ),
    (
        INFER,
        *binary(
            f'{{"id":"3",{ONE_INPUT},"outputs":[{{"name":"label","parameters":{{"binary_data":true}}}},'
            '{"name":"probabilities","parameters":{"binary_data":false}}]}',
            {},
        ),
        TEXTS.decode(),
    ),
]


@pytest.mark.parametrize(("path", "headers", "body", "expected"), RECORDED)
def test_a_request_that_a_client_of_others_was_seen_to_send_is_answered(
    server: Running, path: str, headers: dict[str, str], body: bytes | None, expected: str
) -> None:
    method = "GET" if body is None else "POST"
    answer = httpx.request(method, server.url + path, headers=headers, content=body, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    assert expected in answer.content.decode("latin-1")


def test_what_a_client_asks_for_and_the_server_cannot_do_is_refused_by_name(server: Running) -> None:
    by_class = '"outputs":[{"name":"label","parameters":{"classification":1}}]'
    headers, body = binary(f"{{{ONE_INPUT},{by_class}}}", {})
    refused = httpx.post(server.url + INFER, headers=headers, content=body, timeout=SECONDS)
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        'outputs.label: found "classification", which this server cannot do',
    )
    headers = {"content-encoding": "gzip"}
    compressed = httpx.post(server.url + INFER, headers=headers, content=b"\x1f\x8b", timeout=SECONDS)
    assert compressed.status_code == 415
    assert compressed.json()["error"].startswith("content-encoding: found gzip")


@pytest.mark.parametrize("route", ["/v1/embeddings", "/v1/models/other"])
def test_a_fault_below_v1_has_its_message_where_openais_client_reads_it(server: Running, route: str) -> None:
    answer = httpx.get(server.url + route, timeout=SECONDS)
    assert answer.status_code == 404
    assert "found no model" in answer.json()["error"]["message"] or route in answer.json()["error"]["message"]


class Redirected(HTTPAdapter):
    """Sends what is meant for Google's host, which the client has in its code, to the server."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        _, version, path = str(request.url).partition("/v1/")
        request.url = self._url + version + path
        return super().send(request, *arguments, **options)


def test_googles_sdk_asks_a_model_as_an_endpoint_of_its_name(server: Running) -> None:
    aiplatform.init(
        project="demo",
        location="europe-west4",
        api_endpoint=server.url,
        api_transport="rest",
        credentials=AnonymousCredentials(),
    )

    def endpoint(name: str) -> aiplatform.Endpoint:
        return aiplatform.Endpoint(f"projects/demo/locations/europe-west4/endpoints/{name}")

    moods = endpoint("moods")
    assert [one.display_name for one in moods.list_models()] == ["moods"]
    found = moods.predict([{"text": "good"}, "bad"])
    assert [one["label"] for one in found.predictions] == ["good", "bad"]
    answer = endpoint("adding").predict(["one two"], parameters={"max_new_tokens": 4})
    assert answer.predictions == [{"answer": "three six two four"}]
    with pytest.raises(BadRequest, match=r"instances\[1\]: text: found 3"):
        moods.predict(["good", 3])
    with pytest.raises(NotFound, match="found no model 'other'"):
        endpoint("other").predict(["good"])
    session = requests.Session()
    session.mount("https://", Redirected(server.url))
    moods.authorized_session = session
    raw = moods.raw_predict(b"bad", {"content-type": "text/plain"})
    assert raw.json()["predictions"][0]["label"] == "bad"


PROGRAMS = {
    ("openai",): """
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
assert [one.id for one in client.models.list()] == ["moods", "adding"]
assert client.models.retrieve("adding").id == "adding"
asked = {"model": "adding", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}
whole = client.chat.completions.create(**asked)
assert whole.choices[0].message.content == "three six two four", whole
assert (whole.choices[0].finish_reason, whole.usage.total_tokens) == ("length", 6)
chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
assert "".join(one.choices[0].delta.content or "" for one in chunks[:-1]) == "three six two four"
assert chunks[-1].usage.completion_tokens == 4
assert client.completions.create(model="adding", prompt="five", max_tokens=4).choices[0].text == "five"
text = client.completions.create(model="adding", prompt="five", max_tokens=4, stream=True)
assert "".join(one.choices[0].text for one in text) == "five"
for wrong, kind in (({"n": 2}, openai.BadRequestError), ({"model": "other"}, openai.NotFoundError)):
    try:
        client.chat.completions.create(**(asked | wrong))
    except kind as error:
        assert next(iter(wrong)) in str(error), error
    else:
        raise AssertionError(wrong)
""",
    ("kserve", "pandas<3"): """
import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url):
    first = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    assert await first.is_server_live(url)
    assert await first.is_model_ready(url, "moods")
    found = await first.infer(url, {"instances": ["good", {"text": "bad"}]}, model_name="moods")
    assert [one["label"] for one in found["predictions"]] == ["good", "bad"]
    second = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await second.is_server_live(url)
    assert await second.is_server_ready(url)
    assert await second.is_model_ready(url, "moods")
    assert not await second.is_model_ready(url, "other")
    for is_binary in (False, True):
        texts = InferInput("text", [2], "BYTES")
        texts.set_data_from_numpy(np.array(["good", "bad"], dtype=object), binary_data=is_binary)
        parameters = {"binary_data_output": is_binary}
        asked = InferRequest("moods", [texts], request_id="7", parameters=parameters)
        answer = await second.infer(url, asked, model_name="moods")
        label, probabilities = answer.outputs
        assert (answer.id, label.as_numpy().tolist()) == ("7", ["good", "bad"])
        assert abs(probabilities.as_numpy()[0, 1] - 0.8808) < 1e-4
    try:
        await first.infer(url, {"instances": [3]}, model_name="moods")
    except Exception as error:
        assert "instances[0]: text: found 3" in str(error), error
    else:
        raise AssertionError


asyncio.run(main(sys.argv[1]))
""",
    ("tritonclient[http]",): """
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1].removeprefix("http://"))
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("moods")
assert not client.is_model_ready("other")
assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
assert [one["name"] for one in client.get_model_metadata("moods")["outputs"]] == ["label", "probabilities"]
for is_binary in (True, False):
    texts = triton.InferInput("text", [2], "BYTES")
    texts.set_data_from_numpy(np.array(["good", "bad"], dtype=object), binary_data=is_binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("probabilities", "label")]
    for outputs in (None, wanted):
        found = client.infer("moods", [texts], outputs=outputs, request_id="3")
        assert [str(one, "utf-8") if isinstance(one, bytes) else one for one in found.as_numpy("label")] == [
            "good", "bad",
        ]
        assert abs(found.as_numpy("probabilities")[0, 1] - 0.8808) < 1e-4
question = triton.InferInput("question", [1], "BYTES")
question.set_data_from_numpy(np.array(["one two"], dtype=object))
answer = client.infer("adding", [question], parameters={"max_new_tokens": 4})
assert answer.as_numpy("answer").tolist() == [b"three six two four"]
try:
    client.infer("other", [texts])
except InferenceServerException as error:
    assert "found no model 'other'" in str(error)
else:
    raise AssertionError
""",
}


@pytest.mark.acceptance
@pytest.mark.parametrize("packages", PROGRAMS, ids=lambda packages: packages[0].partition("[")[0])
def test_the_client_itself_from_the_package_index_works_unchanged(
    server: Running, packages: tuple[str, ...], tmp_path: Path
) -> None:
    environment = Environment(tmp_path)
    environment.download(*packages)
    done = environment.run("-c", PROGRAMS[packages], server.url)
    assert done.returncode == 0, done.stderr


# No schema says whether a text and its answer fit into the model; too many instances are 413.
CHECKS = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 404, 405, 406, 413, 415]
"""
VALIDATE = """
import json
import sys
from urllib.request import urlopen

from openapi_spec_validator import OpenAPIV31SpecValidator

OpenAPIV31SpecValidator(json.load(urlopen(sys.argv[1]))).validate()
"""


@pytest.mark.acceptance
def test_the_openapi_document_is_valid_and_the_server_does_what_it_says(
    server: Running, tmp_path: Path
) -> None:
    environment = Environment(tmp_path)
    environment.download("schemathesis", "openapi-spec-validator")
    url = server.url + "/openapi.json"
    valid = environment.run("-c", VALIDATE, url)
    assert valid.returncode == 0, valid.stderr
    (environment.work / "schemathesis.toml").write_text(CHECKS)
    options = ("--max-examples", "50", "--seed", "1")
    of_texts = (
        "--include-path-regex",
        "moods:predict|^/predict$",
        "--exclude-checks",
        "negative_data_rejection",
    )
    ours = ("--config-file", "schemathesis.toml")
    for first, last in ((ours, ()), ((), of_texts)):
        done = environment.run(*first, "run", url, *options, *last, program="schemathesis")
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout
