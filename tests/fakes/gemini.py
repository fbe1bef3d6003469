"""Vertex AI's REST interface for Gemini: tuning jobs, tokens and answers, behind TLS and a proxy.

Bodies are parsed strictly as the API's own messages. Nothing here was compared with the real service.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme
from google.cloud import aiplatform_v1beta1 as vertex
from google.protobuf import json_format

from tests.fakes.bucket import Bucket
from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.google_rest import send

LOCATION = "europe-west4"
PARENT = f"projects/demo/locations/{LOCATION}"
TOKENS_PER_WORD = 2
NOT_CONNECTED = 0
"""Instead of a status: the connection is closed without an answer."""

Answer = tuple[int, dict[str, Any]]
Say = Callable[[str, str], str]


def refusal(status: int, message: str) -> Answer:
    """An error in the form of Google's APIs."""
    words = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
    return status, {"error": {"code": status, "message": message, "status": words.get(status, "UNKNOWN")}}


class FakeGemini(ThreadingHTTPServer):
    """The service in one location, with a bucket that it reads rows from.

    Attributes:
        models: What can be tuned.
        jobs: By name, as they were asked for, with what the service adds.
        states: What a job is, from one look at it to the next; the last one stays.
        error: Why jobs fail.
        refusals: Statuses and messages that the next requests of a kind (`tune`, `list`, `get`, `answer`)
            get, in turn.
        lost: How many of the next jobs are made without an answer's reaching the client.
        cancelled: The jobs that were asked to end. Each is being cancelled until it is looked at once more.
        deleted: The endpoints that are gone.
        say: What is answered, by the model's or the endpoint's name and the last thing that the user says.
        asked: The bodies of all requests for answers.
    """

    daemon_threads = True

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("*.googleapis.com").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        hosts = (f"{LOCATION}-aiplatform.googleapis.com", "oauth2.googleapis.com")
        self.proxy = ConnectProxy(dict.fromkeys(hosts, self.server_port))
        self.bucket = Bucket()
        self.models = {"gemini-2.5-flash", "gemini-2.5-pro"}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.states = ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
        self.error = ""
        self.refusals: dict[str, list[tuple[int, str]]] = {}
        self.lost = 0
        self.cancelled: list[str] = []
        self.deleted: set[str] = set()
        self.say: Say = lambda *_: ""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is no fault of the service's."""

    def close(self) -> None:
        self.proxy.close()
        self.shutdown()
        self.server_close()

    def rows(self, uri: str) -> list[dict[str, Any]]:
        """The lines of a file in the bucket."""
        return [json.loads(line) for line in self.bucket.objects[uri].decode().splitlines()]

    def refused(self, kind: str) -> Answer | None:
        """The refusal that is due, if one is."""
        if not self.refusals.get(kind):
            return None
        return refusal(*self.refusals[kind].pop(0))

    def tune(self, body: dict[str, Any]) -> Answer:
        json_format.ParseDict(body, vertex.TuningJob.pb()())
        if body.get("baseModel") not in self.models:
            return refusal(404, f"Base model {body.get('baseModel')} is not supported for tuning.")
        number = len(self.jobs) + 1
        name = f"{PARENT}/tuningJobs/{number}"
        self.jobs[name] = body | {"name": name, "state": self.states[0], "looks": 0}
        if fault := self._fault_of(body["supervisedTuningSpec"]):
            self.jobs[name] |= {"broken": fault}
        if self.lost:
            self.lost -= 1
            return NOT_CONNECTED, {}
        return self._shown(name)

    def look(self, name: str) -> Answer:
        if name not in self.jobs:
            return refusal(404, f"{name} not found")
        job = self.jobs[name]
        job["looks"] += 1
        if job["state"] == "JOB_STATE_CANCELLING":
            job["state"] = "JOB_STATE_CANCELLED"
        elif job["state"] != "JOB_STATE_CANCELLED":
            job["state"] = self.states[min(job["looks"], len(self.states) - 1)]
            if "broken" in job and job["state"] == "JOB_STATE_SUCCEEDED":
                job["state"], self.error = "JOB_STATE_FAILED", job["broken"]
        return self._shown(name)

    def listed(self, wanted: str) -> Answer:
        label = re.fullmatch(r'labels\.([\w-]+)="([\w-]*)"', wanted)
        assert label is not None, wanted
        found = [name for name, job in self.jobs.items() if job["labels"].get(label[1]) == label[2]]
        return 200, {"tuningJobs": [self._shown(name)[1] for name in found]}

    def cancel(self, name: str) -> Answer:
        self.cancelled.append(name)
        self.jobs[name]["state"] = "JOB_STATE_CANCELLING"
        return 200, {}

    def count(self, body: dict[str, Any]) -> Answer:
        json_format.ParseDict(body, vertex.CountTokensRequest.pb()())
        words = [part["text"].split() for content in body["contents"] for part in content["parts"]]
        return 200, {"totalTokens": TOKENS_PER_WORD * sum(map(len, words))}

    def generate(self, model: str, body: dict[str, Any]) -> Answer:
        json_format.ParseDict(body, vertex.GenerateContentRequest.pb()())
        if "/endpoints/" not in model and model.rpartition("/")[2] not in self.models:
            return refusal(404, f"Publisher model {model} was not found.")
        if model in self.deleted:
            return refusal(404, "ENDPOINT_NOT_FOUND")
        self.asked.append((model, body))
        turns = body["contents"]
        assert turns[-1]["role"] == "user"
        text = self.say(model, turns[-1]["parts"][-1]["text"])
        if not text:
            return 200, {"candidates": [{"finishReason": "SAFETY"}]}
        content = {"role": "model", "parts": [{"text": text}]}
        return 200, {"candidates": [{"content": content, "finishReason": "STOP"}]}

    def _fault_of(self, spec: dict[str, Any]) -> str:
        """What the service would say of the first bad row."""
        for key in ("trainingDatasetUri", "validationDatasetUri"):
            for number, row in enumerate(self.rows(spec[key]), start=1):
                turns = [json_format.ParseDict(turn, vertex.Content.pb()()) for turn in row["contents"]]
                roles = [turn.role for turn in turns]
                if roles != ["user", "model"] * (len(roles) // 2):
                    return f"Row {number}: roles must alternate and end with model, found {roles}."
        return ""

    def _shown(self, name: str) -> Answer:
        job = {key: value for key, value in self.jobs[name].items() if key not in ("looks", "broken")}
        if job["state"] == "JOB_STATE_SUCCEEDED":
            number = name.rpartition("/")[2]
            job["tunedModel"] = {"endpoint": f"{PARENT}/endpoints/{number}", "model": f"{PARENT}/models/1@1"}
        if job["state"] == "JOB_STATE_FAILED":
            job["error"] = {"code": 3, "message": self.error}
        return 200, job


class _Handler(BaseHTTPRequestHandler):
    server: FakeGemini
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, for which nobody waits

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/v1beta1/")
        if path == f"{PARENT}/tuningJobs":
            answer = self.server.refused("list") or self.server.listed(parse_qs(parts.query)["filter"][0])
        elif path.startswith(f"{PARENT}/tuningJobs/"):
            answer = self.server.refused("get") or self.server.look(path)
        else:  # google-auth asks, on a thread of its own, where an account may work
            answer = refusal(404, "not found")
        self._send(*answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Host"].startswith("oauth2."):
            self._send(200, {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
            return
        assert self.headers["Authorization"] == "Bearer t"
        path, _, verb = urlsplit(self.path).path.removeprefix("/v1beta1/").partition(":")
        self._send(*self._answer(path, verb, json.loads(body or b"{}")))

    def _answer(self, path: str, verb: str, body: dict[str, Any]) -> Answer:
        server = self.server
        try:
            if path == f"{PARENT}/tuningJobs":
                return server.refused("tune") or server.tune(body)
            if verb == "cancel":
                return server.cancel(path)
            if verb == "countTokens":
                return server.refused("answer") or server.count(body)
            assert verb == "generateContent", self.path
            return server.refused("answer") or server.generate(path, body)
        except json_format.ParseError as error:
            return refusal(400, str(error))

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        if status == NOT_CONNECTED:
            self.close_connection = True
            self.connection.close()
            return
        send(self, status, answer)

    def log_message(self, *_: object) -> None:
        pass
