"""The server, asked over HTTP as clients do; the bundles' scores can be computed by hand."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.aiplatform_v1 import PredictionServiceClient
from google.cloud.aiplatform_v1.services.prediction_service.transports.rest import (
    PredictionServiceRestTransport,
)
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.image_bundles import picture, write_shapes
from tests.serving.running import SECONDS, Running, running, start
from tests.text_bundles import certified

GOOD = pytest.approx({"bad": 0.1192, "good": 0.8808}, abs=1e-4)  # softmax of 0 and 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A text classifier and an image classifier."""
    folder = tmp_path_factory.mktemp("served")
    shapes = f"shapes={write_shapes(folder / 'shapes')}"
    options = ("--max-body-mb", "0.05", "--max-instances", "8", "--max-pixels", "1000")
    with running(str(certified(folder / "texts")), "--model", shapes, *options) as found:
        yield found


def ask(server: Running, content: Any, route: str = "/predict", **headers: str) -> httpx.Response:
    return httpx.post(server.url + route, json=content, headers=headers, timeout=SECONDS)


def test_predictions_come_in_the_order_of_the_instances_with_the_bundle_that_gave_them(
    server: Running,
) -> None:
    answer = ask(server, {"instances": ["good", {"text": "bad bad fine"}, "fine"]})
    assert answer.status_code == 200
    content = answer.json()
    assert [one["label"] for one in content["predictions"]] == ["good", "bad", "good"]
    assert content["predictions"][0]["probabilities"] == GOOD
    assert content["metadata"]["model"] == "moods"
    sha256 = content["metadata"]["bundle_sha256"]
    assert re.fullmatch(r"[0-9a-f]{12}", sha256)
    assert (answer.headers["x-gauntlet-bundle-sha256"], answer.headers["x-gauntlet-model"]) == (
        sha256,
        "moods",
    )


@pytest.mark.parametrize(
    ("instances", "status", "message"),
    [
        (["good", 3], 400, "instances[1]: text: found 3, expected a text"),
        (["good", " "], 400, "instances[1]: text: it is empty"),
        ([{"words": "good"}], 400, 'instances[0]: found the key "words", expected text'),
        ([], 400, "instances: found none"),
        (["good"] * 9, 413, "instances: found 9, expected at most 8"),
        ("good", 400, "Expected `array`, got `str` - at `$.instances`"),
    ],
)
def test_a_wrong_instance_fails_its_own_request_and_is_named(
    server: Running, instances: Any, status: int, message: str
) -> None:
    answer = ask(server, {"instances": instances})
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert answer.headers["x-gauntlet-refused"] == "request"


def test_a_parameter_that_the_model_does_not_have_is_refused_by_name(server: Running) -> None:
    answer = ask(server, {"instances": ["good"], "parameters": {"top_k": 3}})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        'parameters: found "top_k", expected none: this model has no parameters',
    )


def test_a_raw_text_is_a_request_of_one_instance(server: Running) -> None:
    headers = {"content-type": "text/plain; charset=utf-8"}
    answer = httpx.post(server.url + "/predict", content=b"good", headers=headers, timeout=SECONDS)
    assert [one["label"] for one in answer.json()["predictions"]] == ["good"]


def test_an_image_comes_as_base64_as_a_form_or_as_it_is(server: Running) -> None:
    url = server.url + "/v1/models/shapes:predict"
    first, second = (picture(diagonal=diagonal) for diagonal in (True, False))
    encoded = [base64.b64encode(one).decode() for one in (first, second)]
    instances = [{"b64": encoded[0]}, {"image": {"b64": encoded[1]}}, encoded[0]]
    answers = [
        httpx.post(url, json={"instances": instances}, timeout=SECONDS),
        httpx.post(url, files=[("image", first), ("image", second), ("image", first)], timeout=SECONDS),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert [one["label"] for one in answer.json()["predictions"]] == ["diagonal", "rest", "diagonal"]
    raw = httpx.post(url, content=second, headers={"content-type": "image/png"}, timeout=SECONDS)
    assert [one["label"] for one in raw.json()["predictions"]] == ["rest"]


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ("…", "found no base64"),
        (base64.b64encode(b"no image").decode(), "the image: found no image"),
        ("gs://bucket/image.png", "this server reads no bucket: --allow-gs"),
        ({"b64": 3}, "expected a file in base64"),
    ],
)
def test_what_is_no_image_is_named(server: Running, instance: Any, message: str) -> None:
    answer = ask(server, {"instances": [instance]}, "/v1/models/shapes:predict")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("instances[0]: ")
    assert message in answer.json()["error"]


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(server: Running) -> None:
    stream = BytesIO()
    Image.new("L", (40, 30)).save(stream, "PNG")
    instance = {"b64": base64.b64encode(stream.getvalue()).decode()}
    answer = ask(server, {"instances": [instance]}, "/v1/models/shapes:predict")
    assert answer.status_code == 400
    assert "found 40 × 30 pixels, expected at most 1,000" in answer.json()["error"]


def test_the_open_inference_protocol_describes_and_asks_a_model(server: Running) -> None:
    described = httpx.get(server.url + "/v2/models/moods", timeout=SECONDS).json()
    assert described["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]} in described["outputs"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["good", "bad"]}
    content = ask(server, {"id": "a1", "inputs": [tensor]}, "/v2/models/moods/infer").json()
    assert (content["id"], content["model_version"]) == ("a1", described["versions"][0])
    labels, probabilities = content["outputs"]
    assert labels == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["good", "bad"]}
    assert probabilities["shape"] == [2, 2]
    assert probabilities["data"] == pytest.approx([0.1192, 0.8808, 0.9526, 0.0474], abs=1e-4)
    asked = {"inputs": [tensor], "outputs": [{"name": "label"}]}
    assert [one["name"] for one in ask(server, asked, "/v2/models/moods/infer").json()["outputs"]] == [
        "label"
    ]
    ready = httpx.get(server.url + "/v2/models/moods/ready", timeout=SECONDS)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_tensors_of_the_open_inference_protocol_come_and_go_in_binary(server: Running) -> None:
    packed = b"".join(struct.pack("<I", len(word)) + word for word in (b"good", b"bad"))
    tensor = {
        "name": "text",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": len(packed)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = httpx.post(
        server.url + "/v2/models/moods/infer",
        content=head + packed,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=SECONDS,
    )
    size = int(answer.headers["inference-header-content-length"])
    labels, probabilities = json.loads(answer.content[:size])["outputs"]
    rest = answer.content[size:]
    assert rest[: labels["parameters"]["binary_data_size"]] == packed
    numbers = np.frombuffer(rest[len(packed) :], dtype="<f4")
    assert probabilities["parameters"]["binary_data_size"] == 16
    assert numbers.tolist() == pytest.approx([0.1192, 0.8808, 0.9526, 0.0474], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [3]}, "found the shape [3] and 2 elements"),
        ({"shape": [-2]}, "found the shape [-2]"),
        ({"datatype": "FP32"}, 'found the datatype "FP32", expected BYTES'),
        ({"name": "words"}, 'inputs: found ["words"], expected text'),
        ({"data": ["good", 1]}, "instances[1]: text: found 1"),
        ({"data": None, "parameters": {"binary_data_size": 5}}, "and 0 bytes are left"),
    ],
)
def test_a_tensor_that_the_model_does_not_take_is_named(
    server: Running, change: dict[str, Any], message: str
) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["good", "bad"], **change}
    answer = ask(server, {"inputs": [tensor]}, "/v2/models/moods/infer")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_what_cannot_be_answered_in_time_is_refused_with_when_to_ask_again(server: Running) -> None:
    answer = ask(server, {"instances": ["good"] * 8}, **{"X-Request-Timeout": "0.0000001"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-gauntlet-refused"] == "deadline"
    assert ask(server, {"instances": ["good"]}, **{"X-Request-Timeout": "soon"}).status_code == 400


def test_a_body_over_the_limit_is_refused_with_and_without_a_length(server: Running) -> None:
    large = b'{"instances": ["' + b"good " * 20_000 + b'"]}'
    for content in (large, iter([large])):
        answer = httpx.post(server.url + "/predict", content=content, timeout=SECONDS)
        assert answer.status_code == 413
        assert "expected at most" in answer.json()["error"]


def test_a_head_without_an_end_closes_the_connection(server: Running) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    endless = socket.create_connection((host, int(port)), SECONDS)
    with endless, pytest.raises(OSError):  # reset, or a pipe that nobody reads
        endless.sendall(b"GET / HTTP/1.1\r\n")
        while True:
            endless.sendall(b"x: " + b"y" * 10_000 + b"\r\n")


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/predict", 405),
        ("POST", "/v1/models/x:predict", 404),
        ("POST", "/", 405),
    ],
)
def test_a_route_that_is_none_and_a_wrong_method_are_said(
    server: Running, method: str, route: str, status: int
) -> None:
    answer = httpx.request(method, server.url + route, timeout=SECONDS)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_probes_metrics_and_the_page_answer(server: Running) -> None:
    for route in ("/livez", "/readyz", "/startupz", "/health", "/v2/health/live", "/v2/health/ready", "/v2"):
        assert httpx.get(server.url + route, timeout=SECONDS).status_code == 200
    ask(server, {"instances": ["good", "bad"]})
    families = text_string_to_metric_families(httpx.get(server.url + "/metrics", timeout=SECONDS).text)
    found = {family.name: family for family in families}
    buckets = {one.labels.get("le") for one in found["http_server_request_duration_seconds"].samples}
    assert {"0.0005", "0.001", "10.0"} <= buckets
    assert {one.labels["model"] for one in found["gauntlet_model_info"].samples} == {"moods", "shapes"}
    for name in ("queue_wait_seconds", "compute_seconds", "read_seconds", "batch_rows", "padding_share"):
        counts = [one for one in found[f"gauntlet_{name}"].samples if one.name.endswith("_count")]
        assert sum(one.value for one in counts) > 0
    page = httpx.get(server.url + "/", headers={"accept": "text/html,*/*;q=0.8"}, timeout=SECONDS)
    assert "curl --json" in page.text
    assert "--form image=@image.png" in page.text


def test_every_route_of_the_openapi_document_is_there(server: Running) -> None:
    document = httpx.get(server.url + "/openapi.json", timeout=SECONDS).json()
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            schema = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            content = None if schema is None else schema["example"]
            answer = httpx.request(method, server.url + path, json=content, timeout=SECONDS)
            assert (path, answer.status_code) == (path, 200)
            taken = one["responses"]["200"]["content"]
            assert answer.headers["content-type"].partition(";")[0] in taken
            for key in taken.get("application/json", {}).get("schema", {}).get("required", ()):
                assert key in answer.json()


def test_curl_asks_as_the_page_says(server: Running) -> None:
    document = httpx.get(server.url + "/openapi.json", timeout=SECONDS).json()
    command = document["paths"]["/v1/models/moods:predict"]["post"]["x-curl"]
    asked = command.replace("curl", "curl --silent", 1)
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert json.loads(done.stdout)["predictions"][0]["label"] in ("good", "bad")


def test_a_server_on_vertex_has_its_routes_and_bundle_from_the_environment_and_answers_googles_client(
    tmp_path: Path,
) -> None:
    environment = {
        "AIP_HTTP_PORT": "8080",
        "AIP_HEALTH_ROUTE": "/v1/projects/p/locations/r/endpoints/1",
        "AIP_PREDICT_ROUTE": "/v1/projects/p/locations/r/endpoints/1:predict",
        "AIP_STORAGE_URI": str(certified(tmp_path)),
        "AIP_MODE": "PREDICTION",
    }
    with running(**environment) as server:
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        port = f"{int(server.url.rpartition(':')[2]):04X}"
        assert f"00000000:{port}" in listening  # on all addresses
        transport = PredictionServiceRestTransport(
            host=server.url.removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
        )
        client = PredictionServiceClient(transport=transport)
        answer = client.predict(
            endpoint="projects/p/locations/r/endpoints/1", instances=[{"text": "good"}, {"text": "bad"}]
        )
        assert [one["label"] for one in answer.predictions] == ["good", "bad"]
        assert answer.metadata["model"] == "moods"
        assert httpx.get(server.url + environment["AIP_HEALTH_ROUTE"], timeout=SECONDS).status_code == 200


def test_a_signal_ends_the_server_with_0_and_the_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with running(str(certified(tmp_path))) as server:
        answer = ask(server, {"instances": ["good"]}, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        assert answer.headers["traceparent"].startswith(f"00-{trace}-")
        assert "00f067aa0ba902b7" not in answer.headers["traceparent"]
        ask(server, {"instances": [3]}, traceparent="00-" + "0" * 32 + "-00f067aa0ba902b7-01")
        httpx.get(server.url + "/readyz", timeout=SECONDS)
        code, lines, _ = server.end()
    assert code == 0
    first, second = lines  # probes that pass are not logged
    assert (first["status"], first["rows"], first["trace"], first["severity"]) == (200, 1, trace, "INFO")
    assert {"queue_ms", "compute_ms", "duration_ms", "bundle_sha256", "batch_rows"} <= first.keys()
    assert (second["status"], second["reason"], second["severity"]) == (400, "request", "WARNING")
    assert re.fullmatch(r"(?!0{32})[0-9a-f]{32}", second["trace"])


BODY = b'{"instances": ["good"]}'


@contextmanager
def begun(server: Running) -> Iterator[tuple[socket.socket, httpx.Client]]:
    """A request of which all but the end of the body was sent, after a signal; and another connection."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()
    with (
        socket.create_connection((host, int(port)), SECONDS) as one,
        httpx.Client(base_url=server.url, timeout=SECONDS) as other,
    ):
        one.sendall(head + BODY[:5])
        while "http_server_active_requests 2.0" not in other.get("/metrics").text:
            pass  # until the server has read the head
        server.process.send_signal(signal.SIGTERM)
        while (refused := other.get("/readyz")).status_code == 200:
            pass  # until the signal was handled
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        yield one, other


def test_a_request_that_was_begun_before_the_signal_is_answered_and_new_ones_are_not(tmp_path: Path) -> None:
    with running(str(certified(tmp_path))) as server:
        with begun(server) as (one, other):
            refused = other.post("/predict", content=BODY)
            assert (refused.status_code, refused.headers["x-gauntlet-refused"]) == (503, "draining")
            one.sendall(BODY[5:])
            answer = b""
            while part := one.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"label":"good"' in answer
        assert server.end()[0] == 0


def test_a_request_that_does_not_end_holds_the_server_for_8_seconds_at_most(tmp_path: Path) -> None:
    with running(str(certified(tmp_path))) as server, begun(server):
        _, errors = server.process.communicate(timeout=SECONDS)
        assert server.process.returncode == 0
        assert "1 requests were not answered in time" in errors


def test_a_second_signal_ends_the_server_at_once(tmp_path: Path) -> None:
    with running(str(certified(tmp_path))) as server, begun(server):
        server.process.send_signal(signal.SIGTERM)
        _, errors = server.process.communicate(timeout=SECONDS)
        assert server.process.returncode == 0
        assert "not answered in time" not in errors  # it did not wait for the first signal's end


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        ({"model_sha256": "0" * 64}, "it certifies another file than model.onnx"),
        ({"cpu_class": "another", "portable": False}, None),
    ],
)
def test_a_bundle_that_is_not_proved_here_is_not_served(
    tmp_path: Path, certificate: dict[str, Any], message: str | None
) -> None:
    if message is None:  # a class whose int8 products differ from those of this CPU
        from gauntlet.serving.cpu import SATURATING_CLASSES, cpu_class

        other = "avx512_vnni" if cpu_class() in SATURATING_CLASSES else "avx2"
        certificate, message = {**certificate, "cpu_class": other}, f"were proved on {other}"
    process = start((str(certified(tmp_path, **certificate)),))
    out, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert message in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_one_message(tmp_path: Path, server: Running) -> None:
    port = server.url.rpartition(":")[2]
    process = start((str(certified(tmp_path)),), port=port)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert errors.startswith(f"error: --port: cannot listen on 127.0.0.1:{port}")
