"""The hosts of Google Cloud that are asked by HTTPS: tokens, buckets, and templates in Artifact Registry."""

from __future__ import annotations

import base64
import email
import hashlib
import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import trustme
import yaml

from tests.fakes.bigquery import BigQuery
from tests.fakes.bucket import Bucket
from tests.fakes.cloud_run import CloudRun
from tests.fakes.vertex_endpoints import EndpointService

REPOSITORY = "https://europe-west4-kfp.pkg.dev/demo/templates"
PACKAGES = "/v1/projects/demo/locations/europe-west4/repositories/templates/packages/"
IMAGES = "/v1/projects/demo/locations/europe-west4/repositories/images/dockerImages/"

Answer = tuple[int, bytes]


class Web(ThreadingHTTPServer):
    """All of these hosts at one port.

    Attributes:
        templates: What was uploaded, by package and digest.
        tags: The digest that each package's tag names.
        images: The images that were pushed, as NAME@sha256:….
        answers_to_lose: How many uploads get 503 though the template is kept.
        tokens_expired: Whether nobody gets a token.
    """

    HOSTS = ("oauth2.googleapis.com", "storage.googleapis.com", "artifactregistry.googleapis.com",
             "bigquery.googleapis.com")  # fmt: skip
    REPOSITORY_HOST = "europe-west4-kfp.pkg.dev"

    daemon_threads = True

    def __init__(
        self,
        bucket: Bucket,
        bigquery: BigQuery,
        cloud_run: CloudRun,
        endpoints: EndpointService,
        certificate: trustme.LeafCert,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Hosts)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.bucket, self.bigquery, self.cloud_run = bucket, bigquery, cloud_run
        self.endpoints = endpoints
        self.templates: dict[tuple[str, str], bytes] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.images: set[str] = set()
        self.answers_to_lose = 0
        self.tokens_expired = False
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def token(self, form: dict[str, list[str]]) -> Answer:
        """An access token; for an assertion with an audience, an identity token."""
        if self.tokens_expired:
            refusal = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            return 400, json.dumps(refusal).encode()
        parts = form.get("assertion", [""])[0].split(".")
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else {}
        if "target_audience" in claims:
            body = json.dumps({"aud": claims["target_audience"], "exp": 4102444800}).encode()
            encoded = base64.urlsafe_b64encode(body).decode().rstrip("=")
            head = base64.urlsafe_b64encode(b'{"alg": "RS256"}').decode().rstrip("=")
            return 200, json.dumps({"id_token": f"{head}.{encoded}.c2ln"}).encode()
        return 200, b'{"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}'

    def template(self, path: str) -> Answer:
        """What a GET of /demo/templates/PACKAGE/VERSION-OR-TAG gets."""
        package, version = path.removeprefix("/demo/templates/").split("/")
        found = self.templates.get((package, self.tags.get((package, version), version)))
        return (200, found) if found else (404, b"")

    def tag(self, path: str) -> Answer:
        package, _, tag = path.removeprefix(PACKAGES).split("/")
        version = self.tags.get((package, tag))
        if version is None:
            return 404, b"{}"
        name = f"{PACKAGES.removeprefix('/v1/')}{package}"
        found = {"name": f"{name}/tags/{tag}", "version": f"{name}/versions/{version}"}
        return 200, json.dumps(found).encode()

    def image(self, path: str) -> Answer:
        name = unquote(path.removeprefix(IMAGES))
        if name not in self.images:
            return 404, json.dumps({"error": {"code": 404, "message": f"{name} not found"}}).encode()
        return 200, json.dumps({"name": path.removeprefix("/v1/")}).encode()

    def keep(self, content_type: str, body: bytes) -> Answer:
        """A template in a form of several parts."""
        form = email.message_from_bytes(f"Content-Type: {content_type}\n\n".encode() + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        content = parts["content"].get_payload(decode=True)
        package = yaml.safe_load(content)["pipelineInfo"]["name"]
        version = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.templates[package, version] = content
        for tag in parts["tags"].get_payload().split(",") if "tags" in parts else ():
            self.tags[package, tag.strip()] = version
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            return 503, b"{}"
        return 200, f"{package}/{version}".encode()


class _Hosts(BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host, path = self.headers["Host"], urlsplit(self.path).path
        if not self.headers.get("Authorization", "").startswith("Bearer "):
            self._send(401, b"{}")
        elif host == "storage.googleapis.com":
            found = self.server.bucket.described(path.removeprefix("/storage/v1/b/"))
            self._send(200 if found else 404, json.dumps(found or {"error": {}}).encode())
        elif path.startswith("/bigquery/"):
            self._send(*self.server.bigquery.answer("GET", path, b""))
        elif host == Web.REPOSITORY_HOST:
            self._send(*self.server.template(path))
        elif path.startswith(PACKAGES):
            self._send(*self.server.tag(path))
        elif path.startswith(IMAGES):
            self._send(*self.server.image(path))
        else:
            self._send(403, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Host"] == "oauth2.googleapis.com":
            self._send(*self.server.token(parse_qs(body.decode())))
        elif self.headers["Host"].endswith(".a.run.app"):
            said = self.server.cloud_run.answer(
                self.headers["Host"], self.path, self.headers["Authorization"], body
            )
            self._send(said[0], said[2], said[1])
        elif self.headers["Host"].endswith(".prediction.vertexai.goog"):
            path = urlsplit(self.path).path
            self._send(*self.server.endpoints.answer(self.headers["Host"], path, body))
        elif self.path.startswith("/bigquery/"):
            self._send(*self.server.bigquery.answer("POST", urlsplit(self.path).path, body))
        elif self.headers["Host"] == Web.REPOSITORY_HOST and self.path == "/demo/templates":
            self._send(*self.server.keep(self.headers["Content-Type"], body))
        else:
            self._send(403, b"{}")

    def _send(self, status: int, answer: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass
