from __future__ import annotations

import json
import os
import resource
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

from gauntlet.backends import storage
from gauntlet.manifests.errors import GauntletError, UsageError

OBJECTS = {"data/train.csv": b"text,label\n", "data/old/train.csv": b"old"}


class _Store(BaseHTTPRequestHandler):
    """Plain files under `/files/`, and of the Cloud Storage JSON API what reading takes."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        parts = unquote(url.path).removeprefix("/download").split("/", 6)
        if parts[1] == "files":
            return self._answer(*((200, b"remote") if parts[2] == "here.csv" else (int(parts[2]), b"")))
        bucket, name = parts[4], parts[6] if len(parts) > 6 else None
        if bucket == "locked":
            return self._answer(403, b'{"error": {"message": "no access"}}')
        if name is None:
            return self._answer(200, json.dumps(_listing(bucket, query)).encode())
        if name not in OBJECTS:
            return self._answer(404, b"")
        if query.get("alt") == ["media"]:
            return self._answer(200, OBJECTS[name])
        return self._answer(200, json.dumps(_item(bucket, name)).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _item(bucket: str, name: str) -> dict[str, str]:
    return {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(OBJECTS[name]))}


def _listing(bucket: str, query: dict[str, list[str]]) -> dict[str, object]:
    prefix = query.get("prefix", [""])[0]
    below = [name for name in OBJECTS if name.startswith(prefix)]
    files = [name for name in below if "/" not in name.removeprefix(prefix)]
    folders = {prefix + name.removeprefix(prefix).split("/")[0] + "/" for name in below if name not in files}
    return {"items": [_item(bucket, name) for name in files], "prefixes": sorted(folders)}


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": url})
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_file_is_read_and_its_folder_listed(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"text,label\n")
    (tmp_path / "inner").mkdir()
    assert storage.read_bytes(str(tmp_path / "train.csv")) == b"text,label\n"
    assert storage.is_folder(str(tmp_path))
    assert not storage.is_folder(str(tmp_path / "train.csv"))
    assert storage.list_files(str(tmp_path)) == ("train.csv",)


def test_any_fsspec_scheme_works() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/a.csv", b"1")
    assert storage.read_bytes("memory://bucket/a.csv") == b"1"
    assert storage.is_folder("memory://bucket")
    assert storage.list_files("memory://bucket") == ("a.csv",)


def test_a_file_inside_an_installed_package_is_read() -> None:
    assert storage.read_bytes("package://gauntlet.manifests/schema.py").startswith(b'"""The manifest')
    assert storage.is_folder("package://gauntlet.manifests")
    assert "schema.py" in storage.list_files("package://gauntlet.manifests")


def test_a_package_need_not_be_one_that_can_be_imported_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("import a_runtime_that_is_not_installed\n")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)

    assert storage.read_bytes("package://carries_a_model/model.gguf") == b"GGUF"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("package://gauntlet.manifests/data/absent.csv", "holds no such file"),
        ("package://no_such_package/a.csv", "no installed package no_such_package"),
        ("package://", "expected package://PACKAGE/PATH"),
        ("/no/such/file.csv", "no such file"),
        ("memory://nowhere/file.csv", "no such file"),
        ("floppy://a.csv", "unknown kind of URI"),
        ("s3://bucket/a.csv", "Install s3fs to access S3. `pip install 'gauntlet.s3.'`"),
        ("abfs://container/a.csv", "`pip install 'gauntlet.az.'`"),
        ("sftp://host/a.csv", "unknown kind of URI"),
        ("s3://bucket/a.csv", "Install s3fs"),
    ],
)
def test_what_is_not_there_is_named_in_one_message(
    uri: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, scheme in (("s3fs", "s3"), ("adlfs", "abfs")):  # as if they were not installed
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(UsageError, match=words) as caught:
        storage.read_bytes(uri)
    assert uri in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found a folder, expected a file"):
        storage.read_bytes(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.csv"
    path.write_bytes(b"1")
    path.chmod(stat.S_IWUSR)
    with pytest.raises(UsageError, match="permission denied"):
        storage.read_bytes(str(path))


def test_an_address_is_read_over_http_and_is_never_a_folder(address: str) -> None:
    assert storage.read_bytes(f"{address}/files/here.csv") == b"remote"
    assert not storage.is_folder(f"{address}/files")


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, UsageError, "no such file"),
        (403, UsageError, "permission denied"),
        (500, GauntletError, "cannot be reached, or the transfer failed"),
    ],
)
def test_an_http_refusal_is_explained(address: str, status: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        storage.read_bytes(f"{address}/files/{status}")


def test_a_host_out_of_reach_is_a_failure_that_a_retry_may_cure() -> None:
    with pytest.raises(GauntletError, match="cannot be reached") as caught:
        storage.read_bytes("http://127.0.0.1:1/train.csv")
    assert caught.value.exit_code == 1


def test_a_bucket_is_listed_and_read(address: str) -> None:
    assert storage.is_folder("gs://bucket/data")
    assert storage.list_files("gs://bucket/data") == ("train.csv",)
    assert storage.read_bytes("gs://bucket/data/train.csv") == b"text,label\n"


def test_a_bucket_without_access_or_the_object_is_explained(address: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        storage.read_bytes("gs://bucket/data/absent.csv")
    with pytest.raises(UsageError, match="permission denied"):
        storage.read_bytes("gs://locked/data/train.csv")


def test_a_folder_is_copied_with_what_lies_deeper(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "inner" / "config.json").write_bytes(b"{}")
    storage.upload(tmp_path, "memory://models/one")
    assert storage.read_bytes("memory://models/one/model.bin") == b"weights"
    assert storage.read_bytes("memory://models/one/inner/config.json") == b"{}"


def test_names_are_joined_to_folders_and_taken_from_addresses() -> None:
    assert storage.join("gs://bucket/data/", "a/b.csv") == "gs://bucket/data/a/b.csv"
    assert storage.file_name("https://host/data/train.csv?download=1") == "train.csv"
    assert storage.file_name("/data/what?.csv") == "what?.csv"


@pytest.mark.parametrize("kind", ["path", "memory"])
def test_a_folder_goes_there_comes_back_and_is_deleted(tmp_path: Path, kind: str) -> None:
    folder_uri = str(tmp_path / "there") if kind == "path" else "memory://there"
    here, back = tmp_path / "here", tmp_path / "back"
    for folder in (here, back):
        folder.mkdir()
    (here / "weights.bin").write_bytes(b"weights")
    assert storage.list_folders(folder_uri) == ()
    storage.upload(here, storage.join(folder_uri, "one"))
    assert storage.list_folders(folder_uri) == ("one",)
    storage.download(storage.join(folder_uri, "one"), back)
    assert (back / "weights.bin").read_bytes() == b"weights"
    for _ in range(2):  # the second time there is nothing left
        storage.delete(storage.join(folder_uri, "one"), first="weights.bin")
    assert storage.list_folders(folder_uri) == ()


def test_the_last_file_is_uploaded_when_all_others_are_there(tmp_path: Path) -> None:
    for name in ("a.bin", "manifest.json", "z.bin"):
        (tmp_path / name).write_bytes(b"1")
    storage.upload(tmp_path, "memory://ordered", last="manifest.json")
    memory = fsspec.filesystem("memory")
    written = sorted(memory.ls("/ordered", detail=True), key=lambda entry: entry["created"])
    assert written[-1]["name"] == "/ordered/manifest.json"


@pytest.mark.parametrize("copy", [storage.upload, storage.replace_folder])
def test_a_copy_over_a_complete_folder_that_is_cut_short_is_not_complete(
    tmp_path: Path, copy: Callable[[Path, str, str], None]
) -> None:
    older, newer, there = (tmp_path / name for name in ("older", "newer", "there"))
    for folder, size in ((older, 10), (newer, 100_000)):
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        (folder / "weights.bin").write_bytes(bytes(size))
    copy(older, str(there), "manifest.json")
    assert (there / "manifest.json").exists()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(GauntletError, match=r"there: File too large\. Make room"):
            copy(newer, str(there), "manifest.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (there / "manifest.json").exists()


def test_a_folder_that_is_replaced_keeps_nothing_of_the_older_one(tmp_path: Path) -> None:
    older, newer, there = (tmp_path / name for name in ("older", "newer", "there"))
    (older / "student").mkdir(parents=True)
    newer.mkdir()
    for file in (older / "manifest.json", older / "student" / "manifest.json", newer / "manifest.json"):
        file.write_text(file.parent.name)
    for folder in (older, newer):
        storage.replace_folder(folder, str(there), last="manifest.json")
    assert [path.name for path in there.iterdir()] == ["manifest.json"]
    assert (there / "manifest.json").read_text() == "newer"


def test_a_folder_on_this_machine_is_a_path(tmp_path: Path) -> None:
    assert storage.local_path(str(tmp_path)) == tmp_path
    assert storage.local_path(f"file://{tmp_path}") == tmp_path
    assert storage.local_path("memory://there") is None
