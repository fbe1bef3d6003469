"""fingerprint-data over local files, a bucket and HTTP servers on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from gauntlet.components.fingerprint_data.component import fingerprint_data
from gauntlet.components.fingerprint_data.run import run
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests.conftest import LABELS
from tests.drawn_cards import dataset as card_dataset
from tests.drawn_cards import write_cards
from tests.fakes.bucket import Bucket


def texts(uri: str, **keys: Any) -> TextDataset:
    return TextDataset.model_validate({"name": "moods", "version": "1", "uri": uri, "labels": LABELS} | keys)


@pytest.fixture
def fingerprint(tmp_path: Path) -> Callable[..., str]:
    """The fingerprint of a section as it is now, in a process that has asked no store before."""

    def take(section: Any, task: str = "text_classification") -> str:
        fsspec.get_filesystem_class("http").clear_instance_cache()
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        return run(task, section, tmp_path / "sources")

    return take


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket()
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": bucket.url})
    return bucket


class Server(ThreadingHTTPServer):
    """One CSV file, with these headers; it counts how often the content is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _File)
        self.content = b"text,label\nwords,calm\n"
        self.headers: dict[str, str] = {}
        self.sent = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/moods.csv"


class _File(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.server.content)
        self.server.sent += 1

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_local_file_is_known_by_its_content_and_not_by_its_time(
    tmp_path: Path, fingerprint: Callable[..., str]
) -> None:
    file = tmp_path / "moods.csv"
    file.write_text("text,label\nwords,calm\n")
    before = fingerprint(texts(str(file)))
    file.touch()
    assert fingerprint(texts(str(file))) == before
    file.write_text("text,label\nwords,glad\n")
    assert fingerprint(texts(str(file))) != before


def test_an_object_is_known_by_its_checksum_so_writing_it_again_changes_nothing(
    bucket: Bucket, fingerprint: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("train.csv", "test.csv"):
        bucket.objects[f"gs://bucket/moods/{name}"] = b"text,label\nwords,calm\n"
    before = fingerprint(texts("gs://bucket/moods"))
    written = json.loads((tmp_path / "sources").read_text())
    assert set(written["files"]) == {"gs://bucket/moods/train.csv", "gs://bucket/moods/test.csv"}
    assert all(identity.startswith("md5Hash:") for identity in written["files"].values())
    bucket.objects["gs://bucket/moods/train.csv"] = b"text,label\nwords,calm\n"
    assert fingerprint(texts("gs://bucket/moods")) == before
    bucket.objects["gs://bucket/moods/test.csv"] = b"text,label\nother,calm\n"
    changed = fingerprint(texts("gs://bucket/moods"))
    assert changed != before
    bucket.objects["gs://bucket/moods/validation.csv"] = b"text,label\nmore,glad\n"
    assert fingerprint(texts("gs://bucket/moods")) not in {before, changed}


def test_a_file_in_a_package_is_known_by_its_content(fingerprint: Callable[..., str], tmp_path: Path) -> None:
    fingerprint(texts("package://gauntlet.manifests/data/emotion_sample.csv"))
    [identity] = json.loads((tmp_path / "sources").read_text())["files"].values()
    # sha256sum manifests/data/emotion_sample.csv
    assert identity == "sha256:56483d463b22b271b2be209707a45b2c300a8e23b2f6689cb7078485708eb558"


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_web_server_that_names_its_version_sends_no_content(
    server: Server, fingerprint: Callable[..., str], header: str
) -> None:
    server.headers = {header: "one"}
    before = fingerprint(texts(server.uri))
    assert fingerprint(texts(server.uri)) == before
    server.headers = {header: "two"}
    assert fingerprint(texts(server.uri)) != before
    assert server.sent == 0


def test_of_a_web_server_that_names_no_version_the_content_is_read(
    server: Server, fingerprint: Callable[..., str]
) -> None:
    before = fingerprint(texts(server.uri))
    assert fingerprint(texts(server.uri)) == before
    server.content = b"text,label\nwords,glad\n"  # as long as before
    assert fingerprint(texts(server.uri)) != before


def test_every_scan_of_a_set_of_cards_counts_and_a_missing_one_too(
    tmp_path: Path, fingerprint: Callable[..., str]
) -> None:
    section = CardDataset.model_validate(card_dataset(write_cards(tmp_path / "cards")))
    before = fingerprint(section, "ordinal_grading")
    files = json.loads((tmp_path / "sources").read_text())["files"]
    scans = [uri for uri in files if not uri.endswith(".json")]
    assert len(scans) == len(files) - 1 > 100 and None not in files.values()
    Path(scans[-1]).write_bytes(b"another scan")
    changed = fingerprint(section, "ordinal_grading")
    Path(scans[-1]).unlink()
    assert len({before, changed, fingerprint(section, "ordinal_grading")}) == 3


def test_cards_that_are_drawn_have_no_files_but_the_section_counts(fingerprint: Callable[..., str]) -> None:
    drawn, others = (
        CardDataset(name="cards", version="1", uri=f"synthetic://cards?cards=60&seed={seed}", shape=(32, 32))
        for seed in (1, 2)
    )
    of_drawn = fingerprint(drawn, "ordinal_grading")
    assert fingerprint(drawn, "ordinal_grading") == of_drawn != fingerprint(others, "ordinal_grading")


def test_the_section_counts_since_splits_are_made_by_it(
    tmp_path: Path, fingerprint: Callable[..., str]
) -> None:
    file = tmp_path / "moods.csv"
    file.write_text("text,label\nwords,calm\n")
    section = texts(str(file))
    other = texts(str(file), split={"train": 0.8, "validation": 0.1, "test": 0.1})
    assert fingerprint(section) != fingerprint(other)


def test_data_that_are_not_there_are_left_for_validate_data_to_refuse(
    tmp_path: Path, fingerprint: Callable[..., str]
) -> None:
    first = fingerprint(texts(str(tmp_path / "absent")))
    assert fingerprint(texts(str(tmp_path / "absent"))) != first  # nothing may be reused for it
    assert "no such file or folder" in json.loads((tmp_path / "sources").read_text())["fault"]


def test_a_store_out_of_reach_fails_the_step(
    server: Server, fingerprint: Callable[..., str], tmp_path: Path
) -> None:
    uri = server.uri
    server.shutdown()
    server.server_close()
    with pytest.raises(GauntletError, match="cannot be reached"):
        fingerprint(texts(uri))
    assert not (tmp_path / "sources").exists()


def test_numbers_that_came_through_a_struct_give_the_same_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "moods.csv"
    file.write_text("text,label\nwords,calm\n")
    section = as_parameter(texts(str(file), size=12, columns={"text": 1, "label": 0}))
    floats = json.loads(json.dumps(section), parse_int=float)  # as a Struct makes them
    output = type("Output", (), {"path": str(tmp_path / "step" / "sources")})

    given = {"task": "text_classification", "sources": output}
    as_sent = fingerprint_data.python_func(dataset=floats, **given)
    assert as_sent == fingerprint_data.python_func(dataset=section, **given)
