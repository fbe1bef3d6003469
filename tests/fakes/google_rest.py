"""A Google Cloud project as its REST interfaces show it: APIs, resources, and who may do what with them."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import trustme

from tests.fakes.connect_proxy import ConnectProxy

HOSTS = (
    "aiplatform", "artifactregistry", "cloudresourcemanager", "iam", "iamcredentials", "oauth2",
    "serviceusage", "storage",
)  # fmt: skip
SERVICE_OF_PERMISSION = {"storage": "storage.", "artifactregistry": "artifactregistry.", "iam": "iam."}
NAMES_AT_ONCE = 30

Json = dict[str, object]
Answer = tuple[int, Json]


class RestProject(ThreadingHTTPServer):
    """The project `demo`, which the caller of the key file may see.

    Attributes:
        apis: The APIs that are enabled.
        there: The addresses of buckets, repositories and accounts, as HOST/PATH.
        hidden: Those of them that the caller may not see.
        permissions: What each caller (`me`, or an account's address) may do, by address.
        may_act_as: The accounts that tokens may be made of.
        busy: Whether every request gets 503.
        expired: Whether the caller's login is over.
        asked: The address of every request.
    """

    REGIONS = ("europe-west4", "us-central1")

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("*.googleapis.com").configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.proxy = ConnectProxy({f"{host}.googleapis.com": self.server_port for host in HOSTS})
        self.apis: set[str] = set()
        self.there: set[str] = set()
        self.hidden: set[str] = set()
        self.permissions: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.may_act_as: set[str] = set()
        self.busy = False
        self.expired = False
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.proxy.close()
        self.shutdown()
        self.server_close()

    def answer(self, caller: str, address: str, query: dict[str, list[str]], body: Json) -> Answer:
        """What one request gets, but for those for tokens."""
        self.asked.append(address)
        host, _, path = address.partition("/")
        if f"{host}.googleapis.com" not in self.apis:
            return refusal(403, f"{host} has not been used in project 1 before", "SERVICE_DISABLED")
        for suffix in (":testIamPermissions", "/iam/testPermissions"):
            if path.endswith(suffix):
                wanted = body.get("permissions", query.get("permissions"))
                return self._permitted(caller, address.removesuffix(suffix), host, wanted)
        if host == "cloudresourcemanager":
            return (
                (200, {"projectId": "demo"}) if path == "v3/projects/demo" else refusal(403, "denied on it")
            )
        if path == "v1/projects/demo/services:batchGet":
            return self._services(query["names"])
        if host == "aiplatform" and path == "v1/projects/demo/locations":
            return 200, {"locations": [{"locationId": region} for region in self.REGIONS]}
        return self._resource(address)

    def _permitted(self, caller: str, address: str, host: str, wanted: object) -> Answer:
        seen, _ = self._resource(address)
        if seen == 404 and host != "cloudresourcemanager":
            return refusal(404, f"{address} not found")
        if not isinstance(wanted, list) or not wanted:
            return refusal(400, "permissions are required")
        prefix = SERVICE_OF_PERMISSION.get(host, "")
        if not all(isinstance(each, str) and each.startswith(prefix) for each in wanted):
            return refusal(400, f"{wanted}: not valid for this resource")
        held = [each for each in wanted if each in self.permissions[caller, address]]
        return 200, {"permissions": held} if held else {}

    def _services(self, names: list[str]) -> Answer:
        if len(names) > NAMES_AT_ONCE:
            return refusal(400, "too many names")
        found = [re.fullmatch(r"projects/demo/services/([a-z.]+)", name) for name in names]
        if not all(found):
            return refusal(400, "a name is none")
        apis = [match[1] for match in found if match]
        states = {True: "ENABLED", False: "DISABLED"}
        return 200, {
            "services": [
                {"name": f"projects/1/services/{api}", "state": states[api in self.apis]} for api in apis
            ]
        }

    def _resource(self, address: str) -> Answer:
        if address in self.hidden:
            return refusal(403, "Permission denied on resource (or it may not exist).")
        return (200, {}) if address in self.there else refusal(404, f"{address} not found")


class _Handler(BaseHTTPRequestHandler):
    server: RestProject
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, for which nobody waits

    def do_GET(self) -> None:
        if self.path.endswith("/allowedLocations"):  # google-auth asks, on a thread of its own
            send(self, *refusal(404, "not found"))
            return
        self._respond({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        host = self.headers["Host"].partition(".")[0]
        if host == "oauth2":
            send(self, *self._token(parse_qs(body.decode())))
        elif host == "iamcredentials":
            send(self, *self._token_of(urlsplit(self.path).path))
        else:
            self._respond(json.loads(body))

    def _respond(self, body: Json) -> None:
        if self.server.busy:
            send(self, *refusal(503, "The service is currently unavailable."))
            return
        parts = urlsplit(self.path)
        scheme, _, caller = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not caller:
            send(self, *refusal(401, "no bearer token"))
            return
        address = self.headers["Host"].partition(".")[0] + parts.path
        send(self, *self.server.answer(caller, address, parse_qs(parts.query), body))

    def _token(self, form: dict[str, list[str]]) -> Answer:
        if self.server.expired:
            return 400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        claims = form["assertion"][0].split(".")[1]
        scope = json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"]
        if scope.rpartition("/")[2] not in {"cloud-platform", "iam"}:  # the latter to act as another account
            return 400, {"error": "invalid_scope", "error_description": scope}
        return 200, {"access_token": "me", "expires_in": 3600, "token_type": "Bearer"}

    def _token_of(self, path: str) -> Answer:
        account = path.removeprefix("/v1/projects/-/serviceAccounts/").removesuffix(":generateAccessToken")
        if account not in self.server.may_act_as:
            return refusal(403, "Permission 'iam.serviceAccounts.getAccessToken' denied on resource")
        return 200, {"accessToken": account, "expireTime": "2100-01-01T00:00:00Z"}

    def log_message(self, *_: object) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, status: int, answer: Json) -> None:
    """Answer a request with JSON."""
    body = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def refusal(status: int, message: str, reason: str = "") -> Answer:
    """An error in the form of Google's APIs."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}] if reason else []
    return status, {"error": {"code": status, "message": message, "details": details}}
