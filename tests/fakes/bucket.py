"""Cloud Storage: the part of its JSON API that puts objects into buckets, lists them and reads them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

UPDATED = "2026-11-21T10:00:00.000Z"


class Bucket(ThreadingHTTPServer):
    """A store on loopback.

    Attributes:
        objects: What was put, by its `gs://` URI.
        locations: Where each bucket is; others do not exist for who asks where they are.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Objects)
        self.objects: dict[str, bytes] = {}
        self.locations = {"bucket": "EUROPE-WEST4"}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is no fault of the store's."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, url: str) -> tuple[int, bytes]:
        """What a GET gets."""
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = parts.path.removeprefix("/download").removeprefix("/storage/v1/b/")
        bucket, _, rest = path.partition("/")
        if not rest:
            found = self.locations.get(bucket)
            return _json({"name": bucket, "location": found}) if found else _json({"error": {}}, 404)
        if rest == "o":
            return _json(self._listed(f"gs://{bucket}/", query.get("prefix", ""), query.get("delimiter")))
        name = unquote(rest.removeprefix("o/"))
        content = self.objects.get(f"gs://{bucket}/{name}")
        if content is None:
            return _json({"error": {"code": 404, "message": "No such object"}}, 404)
        return (200, content) if query.get("alt") == "media" else _json(_described(bucket, name, content))

    def _listed(self, root: str, prefix: str, delimiter: str | None) -> dict[str, Any]:
        items, prefixes = [], set()
        for uri, content in sorted(self.objects.items()):
            name = uri.removeprefix(root)
            if not uri.startswith(root) or not name.startswith(prefix):
                continue
            inner, below, _ = name.removeprefix(prefix).partition(delimiter or "\0")
            if below:
                prefixes.add(f"{prefix}{inner}{below}")
            else:
                items.append(_described(root.split("/")[2], name, content))
        return {"items": items, "prefixes": sorted(prefixes)}


def _described(bucket: str, name: str, content: bytes) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "name": name,
        "size": str(len(content)),
        "generation": "1",
        "updated": UPDATED,
        "timeCreated": UPDATED,
    }


def _json(content: object, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(content).encode()


class _Objects(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(*self.server.answer(self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        bucket = unquote(urlsplit(self.path).path).removeprefix("/upload/storage/v1/b/").split("/")[0]
        # Three parts, as gcsfs writes them: the object's description, its content, nothing.
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"')
        _, described, content, _ = body.split(f"--{boundary}".encode())
        description = json.loads(described.partition(b"\n\n")[2])
        uri = f"gs://{bucket}/{description['name']}"
        self.server.objects[uri] = content.partition(b"\n\n")[2].removesuffix(b"\n")
        self._send(*_json({"bucket": bucket, "name": description["name"], "generation": "1"}))

    def _send(self, status: int, answer: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass
