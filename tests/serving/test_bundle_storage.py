"""Bundles and images in buckets, read without Google's libraries: fake-gcs-server on loopback."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.interface import InputError
from gauntlet.serving.storage import download, read_object
from tests.fakes.bucket import Bucket
from tests.image_bundles import picture, write_shapes
from tests.serving.running import SECONDS, running
from tests.text_bundles import certified


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found = Bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.url)
    return found


def test_the_files_of_a_folder_are_copied_and_those_of_folders_in_it_are_not(
    bucket: Bucket, tmp_path: Path
) -> None:
    for name in ("model/a.json", "model/b c.bin", "model/deeper/d", "model2/e"):
        bucket.objects[f"gs://bucket/{name}"] = name.encode()
    download("gs://bucket/model/", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.json": "model/a.json",
        "b c.bin": "model/b c.bin",
    }
    for uri in ("gs://bucket/mod", "gs://nowhere/model"):
        with pytest.raises(UsageError, match=uri):
            download(uri, tmp_path)


def test_an_object_is_read_below_its_folder_and_up_to_a_size(bucket: Bucket) -> None:
    bucket.objects["gs://bucket/in/x"] = b"12345"
    bucket.objects["gs://bucket/inner"] = b"secret"
    assert read_object("gs://bucket/in/x", "gs://bucket/in/", 5) == b"12345"
    for uri, message in (
        ("gs://bucket/in/x", "found over 4 bytes"),
        ("gs://bucket/inner", "expected a file below gs://bucket/in"),
        ("gs://bucket/in/y", "HTTP 404"),
    ):
        with pytest.raises(InputError, match=message):
            read_object(uri, "gs://bucket/in", 4)


def test_a_server_serves_a_bundle_of_a_bucket_and_reads_images_that_it_may(
    bucket: Bucket, tmp_path: Path
) -> None:
    for path in certified(tmp_path / "texts").iterdir():
        bucket.objects[f"gs://bucket/moods/{path.name}"] = path.read_bytes()
    bucket.objects["gs://bucket/images/one.png"] = picture(diagonal=True)
    shapes = f"shapes={write_shapes(tmp_path / 'shapes')}"
    options = ("gs://bucket/moods", "--model", shapes, "--allow-gs", "gs://bucket/images")
    with running(*options, STORAGE_EMULATOR_HOST=bucket.url) as server:
        asked = {"instances": ["gs://bucket/images/one.png", {"image": "gs://bucket/images/one.png"}]}
        url = server.url + "/v1/models/shapes:predict"
        answer = httpx.post(url, json=asked, timeout=SECONDS).json()
        assert [one["label"] for one in answer["predictions"]] == ["diagonal", "diagonal"]
        refused = httpx.post(url, json={"instances": ["gs://bucket/moods/model.onnx"]}, timeout=SECONDS)
        assert refused.status_code == 400
        assert "expected a file below gs://bucket/images" in refused.json()["error"]
        text = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS).json()
        assert text["predictions"][0]["label"] == "good"
