"""Data in Amazon S3, by s3fs against moto's server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from gauntlet.backends import storage
from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.text_classification.data import read_table
from gauntlet.tasks.text_classification.manifest import TextDataset

server = pytest.importorskip("moto.server", reason="moto is in requirements-dev.lock: `make setup`")
pytest.importorskip("s3fs", reason="s3fs is in requirements-dev.lock: `make setup`")

CONTENT = b"text,label\nwords,joy\n"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """The bucket `bucket`, and what is in it."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*running.get_host_and_port()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    for name in ("data/b.csv", "data/a.csv", "data/notes.md", "hive/label=joy/0.csv"):
        files.pipe_file(f"bucket/{name}", CONTENT)
    yield files
    files.rm("bucket", recursive=True)  # moto keeps it for the next server of this process
    running.stop()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def dataset(uri: str, **settings: object) -> TextDataset:
    content = {"name": "d", "version": "1", "uri": uri, "labels": ("joy", "fear")}
    return TextDataset.model_validate(content | settings)


def test_files_folders_and_patterns_of_a_bucket_are_read(bucket: fsspec.AbstractFileSystem) -> None:
    assert read_table(dataset("s3://bucket/data/*.csv"))["place"].tolist() == ["a.csv line 2", "b.csv line 2"]
    assert read_table(dataset("s3://bucket/hive"))["place"].tolist() == ["label=joy/0.csv line 2"]
    assert len(read_table(dataset("s3://bucket/data", files={"train": "a.csv"}))) == 1


def test_an_object_has_the_identity_of_its_content(bucket: fsspec.AbstractFileSystem) -> None:
    uris = ["s3://bucket/data/a.csv", "s3://bucket/data/b.csv"]
    before = storage.identities(uris)
    assert before[uris[0]] is not None
    bucket.pipe_file("bucket/data/a.csv", CONTENT + b"more,fear\n")
    after = storage.identities(uris)
    assert (before[uris[0]] != after[uris[0]], before[uris[1]] == after[uris[1]]) == (True, True)


def test_what_is_not_there_is_named(bucket: fsspec.AbstractFileSystem) -> None:
    for uri in ("s3://bucket/absent.csv", "s3://absent/a.csv"):
        with pytest.raises(UsageError, match=rf"{uri}: no such file or folder"):
            read_table(dataset(uri))
