"""The URI of a place on Vertex AI, written and read."""

from __future__ import annotations

import pytest

from gauntlet.backends.google.location import VertexLocation
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.run import tracking_uri
from gauntlet.pipelines.vertex.submission import Destination, with_serving_image
from tests.pipelines.test_cli import ROOT

FOLDERS = [
    "gs://bucket/a+b",
    "gs://bucket/a b",
    "gs://bucket/50%",
    "gs://bucket/%2B",
    "gs://bucket/x&y=z#1?q",
]
IMAGE = f"europe-docker.pkg.dev/p/r/i@sha256:{'a' * 64}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_sign_in_a_folders_name_survives_being_written_and_read(folder: str) -> None:
    place = VertexLocation("demo", "europe-west4", tensorboard="12", staging=folder, serving_image=IMAGE)
    assert VertexLocation.of(place.uri) == place


def test_a_plus_in_a_uri_that_somebody_typed_is_a_plus() -> None:
    uri = f"vertex://demo/europe-west4?staging=gs://bucket/a+b&serving_image={IMAGE}"
    assert VertexLocation.of(uri).staging == "gs://bucket/a+b"
    assert (
        VertexLocation.of("vertex://demo/europe-west4?staging=gs://bucket/a%20b").staging == "gs://bucket/a b"
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_runs_are_tracked_below_the_root_that_was_given(
    folder: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = "vertex://demo/europe-west4?staging=gs://bucket/registered"
    destination = Destination.of("demo", "europe-west4", folder, registry, None, None)
    assert VertexLocation.of(destination.tracking_uri).staging == f"{folder}/tracking"

    places = {"GAUNTLET_PROJECT": "demo", "GAUNTLET_REGION": "europe-west4", "GAUNTLET_ROOT": folder}
    for variable, value in places.items():
        monkeypatch.setenv(variable, value)
    managed = load_manifest(ROOT / "manifests" / "gemini_lm.yaml")
    assert VertexLocation.of(tracking_uri(managed, Home(ROOT))).staging == folder


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("vertex://demo/europe-west4?staging=gs://b1/m", IMAGE),
        (f"vertex://demo/europe-west4?staging=gs://b1/m&serving_image={IMAGE[:-1]}b", f"{IMAGE[:-1]}b"),
    ],
)
def test_a_version_gets_the_container_that_was_built_unless_the_registry_names_one(
    registry: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAUNTLET_SERVING_IMAGE", IMAGE)
    destination = Destination.of("demo", "europe-west4", "gs://b1/runs", registry, None, None)
    assert VertexLocation.of(destination.registry_uri).serving_image == expected


def test_a_serving_image_by_its_tag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAUNTLET_SERVING_IMAGE", "europe-docker.pkg.dev/p/r/serving:latest")
    registry = "vertex://demo/europe-west4?staging=gs://b1/m"
    with pytest.raises(UsageError, match=r"GAUNTLET_SERVING_IMAGE: found .*serving:latest.*@sha256:DIGEST"):
        Destination.of("demo", "europe-west4", "gs://b1/runs", registry, None, None)


def test_a_registry_of_mlflow_has_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAUNTLET_SERVING_IMAGE", IMAGE)
    assert with_serving_image("mlflow+https://host") == "mlflow+https://host"


@pytest.mark.parametrize(
    "query",
    ["staging", "staging=gs://a1&staging=gs://b1", "staging=gs://bucket/%FF", "&", "staging=gs://b1#x"],
)
def test_a_query_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(UsageError, match=r"tracking URI: found '.*', expected vertex://PROJECT/REGION"):
        VertexLocation.of(f"vertex://demo/europe-west4?{query}")
