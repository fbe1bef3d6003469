"""What data name is opened where the manifest allows it, and nowhere else."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gauntlet.backends import storage
from gauntlet.backends.storage import data_uri, lies_in
from gauntlet.components.fingerprint_data.run import run as fingerprint
from gauntlet.components.validate_data.run import run as validate
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests.drawn_cards import dataset, read_splits, write_cards, write_splits


class Listener(ThreadingHTTPServer):
    """A server on loopback that remembers every path it is asked for, and redirects `/to?URL` to URL."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Remembering)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Remembering(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        target = self.path.partition("/to?")[2]
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", "6" if not target else "0")
        self.end_headers()
        self.wfile.write(b"" if target else b"secret")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("folder", "name", "roots", "opened"),
    [
        ("/data/cards", "scans/1.png", (), "/data/cards/scans/1.png"),
        ("/data/cards", "/data/cards/1.png", (), "/data/cards/1.png"),
        ("/data/cards", "/data/scans/1.png", ("/data/scans",), "/data/scans/1.png"),
        ("/data/cards", "1::2.png", (), "/data/cards/1::2.png"),
        ("gs://bucket/cards", "scans/1.png", (), "gs://bucket/cards/scans/1.png"),
        ("gs://bucket/cards", "gs://bucket/scans/1.png", ("gs://bucket/scans/",), "gs://bucket/scans/1.png"),
        ("hf://datasets/a/b", "日本\u3000語.png", (), "hf://datasets/a/b/日本\u3000語.png"),
    ],
)
def test_a_file_under_the_datas_folder_or_a_root_is_opened(
    folder: str, name: str, roots: tuple[str, ...], opened: str
) -> None:
    assert data_uri(folder, name, roots) == opened


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/data/cards", "../scans/1.png"),
        ("/data/cards", "scans/../../1.png"),
        ("/data/cards", "/etc/passwd"),
        ("/data/cards", "/data/cards2/1.png"),
        ("/data/cards", "file:///etc/passwd"),
        ("/data/cards", "http://169.254.169.254/computeMetadata/v1/"),
        ("/data/cards", "gs://bucket/1.png"),
        ("/data/cards", "package://gauntlet.manifests/schema.py"),
        ("/data/cards", "reference://1.png::file:///data/cards/refs.json"),
        ("/data/cards", "1.png\0"),
        ("/data/cards", "1.png\n"),
        ("/data/cards", "\ud800.png"),
        ("gs://bucket/cards", "../scans/1.png"),
        ("gs://bucket/cards", "%2e%2e/scans/1.png"),
        ("gs://bucket/cards", "..\\scans\\1.png"),
        ("gs://bucket/cards", "gs://bucket/cards2/1.png"),
        ("gs://bucket/cards", "1.png::http://127.0.0.1/"),
        ("gs://bucket/cards", "/etc/passwd"),
        ("gs://bucket/cards", "file:///etc/passwd"),
        ("https://host/cards", "https://host@elsewhere/cards/1.png"),
        ("https://host/cards", "http://host/cards/1.png"),
    ],
)
def test_nothing_else_is(folder: str, name: str) -> None:
    with pytest.raises(UsageError, match=r"leads out of .* dataset\.roots") as caught:
        data_uri(folder, name)
    assert str(caught.value).isprintable()


def test_a_link_that_leads_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_bytes(b"1")
    (inside / "link").symlink_to(inside / "file")
    (inside / "way_out").symlink_to(outside / "file")
    (inside / "folder_out").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    assert lies_in(f"{inside}/link", (str(inside),))
    assert not lies_in(f"{inside}/way_out", (str(inside),))
    assert not lies_in(f"{inside}/folder_out/file", (str(inside),))
    assert lies_in(f"{inside}/way_out", (str(inside), f"file://{outside}"))
    with pytest.raises(UsageError, match=r"loop: Too many levels of symbolic links"):
        storage.read_bytes(data_uri(str(inside), "loop"))


@pytest.mark.parametrize("kind", ["address", "chain", "template", "redirect"])
def test_cards_from_a_stranger_send_nothing_anywhere(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A list of cards once made fsspec expand a template with an environment variable into an address."""
    monkeypatch.setenv("GAUNTLET_SECRET", "must-not-leak")
    cards = write_cards(tmp_path / "cards")
    template = f"{listener.url}/{{{{ x.__globals__.os.environ.GAUNTLET_SECRET }}}}"
    references = {"version": 1, "templates": {"u": template}, "refs": {"1.png": ["{{u}}"]}}
    (cards / "refs.json").write_text(json.dumps(references))
    name = {
        "address": f"{listener.url}/1.png",
        "chain": f"simplecache::{listener.url}/1.png",
        "template": f"reference://1.png::file://{cards}/refs.json",
        "redirect": f"1.png::{listener.url}/to?{listener.url}/1.png",
    }[kind]
    splits = read_splits(cards)
    splits["train"][0]["front"] = name
    write_splits(cards, splits)
    section = CardDataset.model_validate(dataset(cards))
    fingerprint("ordinal_grading", section, tmp_path / "sources")
    with pytest.raises(DataError, match="unreadable_images"):
        validate(
            "ordinal_grading", section, tmp_path / "splits", tmp_path / "checks", tmp_path / "report.html"
        )
    assert "leads out of" in (tmp_path / "checks").read_text()
    assert listener.asked == []


def test_scans_under_a_root_of_the_manifest_are_read(tmp_path: Path) -> None:
    cards, scans = write_cards(tmp_path / "cards"), tmp_path / "scans"
    scans.mkdir()
    (cards / "test-0-front.png").rename(scans / "first.png")
    splits = read_splits(cards)
    splits["test"][0]["front"] = f"{scans}/first.png"
    write_splits(cards, splits)
    section = CardDataset.model_validate(dataset(cards) | {"roots": [str(scans)]})
    validate("ordinal_grading", section, tmp_path / "splits", tmp_path / "checks", tmp_path / "report.html")
    assert (tmp_path / "splits").is_dir()


def test_a_file_that_a_folder_of_texts_links_to_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("text,label\n")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").symlink_to(tmp_path / "secret")
    section = TextDataset(name="texts", version="1", uri=str(folder), labels=("a", "b"))
    with pytest.raises(UsageError, match=r"train\.csv: leads out of "):
        validate(
            "text_classification", section, tmp_path / "splits", tmp_path / "checks", tmp_path / "report.html"
        )


@pytest.mark.parametrize(
    "uri", ["reference://x::file:///refs.json", "simplecache::gs://b/x", "gs://b/x::http://127.0.0.1/", "::"]
)
def test_a_chain_of_file_systems_is_opened_for_nobody(uri: str) -> None:
    with pytest.raises(UsageError, match=r"chain|unknown kind|no such file"):
        storage.read_bytes(uri)


@pytest.mark.parametrize(
    "scheme", ["reference", "github", "ftp", "sftp", "zip", "libarchive", "dask", "cached"]
)
def test_kinds_of_uris_that_no_manifest_needs_are_unknown(scheme: str) -> None:
    with pytest.raises(UsageError, match="unknown kind of URI"):
        storage.read_bytes(f"{scheme}://127.0.0.1/x")


def test_a_redirect_to_another_host_of_a_private_network_is_not_followed(listener: Listener) -> None:
    other = Listener()
    target = f"http://localhost:{other.server_port}/latest/meta-data"
    with pytest.raises(UsageError, match=r"redirect to .* an address of a private network"):
        storage.read_bytes(f"{listener.url}/to?{target}")
    assert other.asked == []
    other.shutdown()
    other.server_close()


def test_a_redirect_on_the_host_that_the_manifest_names_is_followed(listener: Listener) -> None:
    assert storage.read_bytes(f"{listener.url}/to?{listener.url}/data.csv") == b"secret"


def test_data_are_read_through_the_proxy_of_the_environment(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", listener.url)
    monkeypatch.setenv("no_proxy", "inner.example")
    assert storage.read_bytes("http://data.example/a.csv") == b"secret"
    assert "http://data.example/a.csv" in listener.asked
    with pytest.raises(GauntletError, match="cannot be reached"):
        storage.read_bytes("http://inner.example/a.csv")


def test_a_pipe_in_a_folder_of_data_does_not_make_reading_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.csv")
    with pytest.raises(UsageError, match="a device or a pipe, expected a file"):
        storage.read_bytes(str(tmp_path / "train.csv"))


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_a_path_that_cannot_be_is_named_in_characters_that_can_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(GauntletError) as caught:
        storage.read_bytes(f"{tmp_path}/{name}")
    assert str(caught.value).isprintable()
