"""Cloud Storage: the part of its JSON API that puts an object into a bucket in one request."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Bucket(ThreadingHTTPServer):
    """A store on loopback.

    Attributes:
        objects: What was put, by its `gs://` URI.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Objects)
        self.objects: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Objects(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        bucket = unquote(urlsplit(self.path).path).removeprefix("/upload/storage/v1/b/").split("/")[0]
        # Three parts, as gcsfs writes them: the object's description, its content, nothing.
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"')
        _, described, content, _ = body.split(f"--{boundary}".encode())
        description = json.loads(described.partition(b"\n\n")[2])
        uri = f"gs://{bucket}/{description['name']}"
        self.server.objects[uri] = content.partition(b"\n\n")[2].removesuffix(b"\n")
        answer = json.dumps({"bucket": bucket, "name": description["name"], "generation": "1"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass
