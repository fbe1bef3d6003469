"""Vertex AI Model Registry: what is written is read back with the library's own classes.

`test_registry.py` has what all registries do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import aiplatform
from google_cloud_pipeline_components.container._implementation.model_evaluation import (
    import_model_evaluation,
)

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.google import calls
from gauntlet.backends.google.registry import VertexRegistry
from gauntlet.backends.registry import AnswerScores, Approval, ModelVersion, Scores
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.bundle import file_sha256, read_info
from tests.backends.registries import MODEL, make_bundle
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure

PLACE = f"projects/demo/locations/{FakeCloud.LOCATION}"
IMAGE = f"europe-docker.pkg.dev/demo/gauntlet/server@sha256:{'a' * 64}"
URI = f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/gauntlet&serving_image={IMAGE}"
# HTTP's 429, 503 and 504
TRANSIENT = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
SCORES = Scores(("sadness", "joy"), accuracy=0.75, macro_f1=0.733333, confusion=((1, 1), (0, 2)))


@pytest.fixture
def registry(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> VertexRegistry:
    monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.01)
    opened = open_registry(URI)
    assert isinstance(opened, VertexRegistry)
    return opened


def register(registry: VertexRegistry, tmp_path: Path, run_id: str) -> ModelVersion:
    folder = tmp_path / run_id
    bundle = folder if folder.exists() else make_bundle(folder, run_id)
    return registry.register(MODEL, bundle, {"run_id": run_id})


def promoted(registry: VertexRegistry, tmp_path: Path, *run_ids: str) -> None:
    for run_id in run_ids:
        register(registry, tmp_path, run_id)
        registry.promote(MODEL)


def aliases(cloud: FakeCloud) -> dict[str, str]:
    """alias → version, as the library's own class lists them."""
    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    listed = aiplatform.models.ModelRegistry(MODEL).list_versions()
    return {alias: version.version_id for version in listed for alias in version.version_aliases}


# --- registering ---


def test_a_registered_bundle_is_a_version_with_its_tags_labels_container_and_verified_copy(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sha256 = file_sha256(bundle / "bundle.json")

    version = registry.register(MODEL, bundle, {"run_id": "Run_1", "macro_f1": "0.9", "image": ""})

    assert (version.name, version.version, version.aliases) == (MODEL, "1", ("challenger", "default"))
    assert version.tags == {"run_id": "Run_1", "macro_f1": "0.9", "image": "", "bundle_sha256": sha256}
    assert version.bundle_uri == f"gs://bucket/gauntlet/models/{MODEL}/{sha256}"
    with bundle_folder(version) as copy:
        assert read_info(copy, sha256).labels == ("sadness", "joy")
    assert registry.champion(MODEL) is None
    assert registry.names() == [MODEL]
    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    model = aiplatform.Model(MODEL)
    assert model.labels == {"run_id": "run_1", "bundle_sha256": sha256[:63]}
    assert model.container_spec.image_uri == IMAGE
    assert model.container_spec.predict_route == "/predict"
    assert model.container_spec.health_route == "/health"


def test_a_version_names_the_pipeline_job_that_made_it_and_none_for_a_run_elsewhere(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.resources.add(PLACE, "pipelineJobs", "run-1", aiplatform.gapic.PipelineJob())
    for run_id in ("run-1", "run-2", "a_local_run"):
        register(registry, tmp_path, run_id)

    made_by = [request.model.pipeline_job for request in cloud.api.requests("UploadModel")]
    assert made_by == [f"{PLACE}/pipelineJobs/run-1", "", ""]
    asked = [request.name.rpartition("/")[2] for request in cloud.api.requests("GetPipelineJob")]
    assert asked == ["run-1", "run-2"]


def test_the_file_that_names_the_others_is_uploaded_last(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")

    names = [uri.rpartition("/")[2] for uri in cloud.bucket.objects]
    assert names == ["model.onnx", "tokenizer.json", "bundle.json"]


def test_only_promotion_moves_the_default_version(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")
    register(registry, tmp_path, "run-2")
    assert aliases(cloud) == {"default": "1", "challenger": "2"}

    registry.promote(MODEL)

    assert aliases(cloud) == {"default": "2", "champion": "2"}
    register(registry, tmp_path, "run-3")
    assert aliases(cloud) == {"default": "2", "champion": "2", "challenger": "3"}


def test_a_version_of_the_same_bundle_and_run_is_registered_once_and_of_another_run_shares_the_copy(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert registry.register(MODEL, bundle, {"run_id": "run-1"}) == first
    second = registry.register(MODEL, bundle, {"run_id": "run-2"})

    assert [version.version for version in registry.versions(MODEL)] == ["2", "1"]
    assert second.bundle_uri == first.bundle_uri
    assert len(cloud.bucket.objects) == 3


def test_a_bundle_that_is_or_was_champion_is_left_alone_when_another_run_registers_it(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    promoted(registry, tmp_path, "january", "june")
    for aliases_now in ({"champion": "2", "default": "2", "previous": "1"},) * 2:
        again = registry.register(MODEL, tmp_path / "june", {"run_id": "a-sunday-in-june"}, scores=SCORES)
        assert (again.version, again.tags["run_id"]) == ("2", "june")
        assert aliases(cloud) == aliases_now
    assert registry.rollback(MODEL).champion.tags["run_id"] == "january"
    assert registry.register(MODEL, tmp_path / "june", {"run_id": "the-next"}).aliases == ("previous",)
    assert aliases(cloud) == {"champion": "1", "default": "1", "previous": "2"}
    assert len(cloud.api.requests("UploadModel")) == 2
    assert cloud.api.requests("ImportModelEvaluation") == []


def test_without_a_serving_image_a_version_has_no_container_and_everything_else_works(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    registry = open_registry(URI.partition("&")[0])
    assert isinstance(registry, VertexRegistry)
    promoted(registry, tmp_path, "run-1", "run-2")

    first, second = (request.model for request in cloud.api.requests("UploadModel"))
    assert not first.container_spec and not first.artifact_uri and not second.container_spec
    assert registry.rollback(MODEL).champion.version == "1"
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.bundle_uri == f"gs://bucket/gauntlet/models/{MODEL}/{champion.tags['bundle_sha256']}"
    with bundle_folder(champion) as copy:
        assert read_info(copy, champion.tags["bundle_sha256"]).labels == ("sadness", "joy")
    with_image = open_registry(URI)  # built later: versions from then on can be deployed
    assert with_image.register(MODEL, make_bundle(tmp_path / "run-3", "run-3"), {"run_id": "run-3"}).version
    *_, third = cloud.api.requests("UploadModel")
    assert (third.model.container_spec.image_uri, third.model.artifact_uri != "") == (IMAGE, True)
    assert with_image.promote(MODEL).champion.version == "3"


def test_an_incomplete_bundle_is_refused_before_anything_is_sent(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").write_text("other weights")

    with pytest.raises(GauntletError, match=rf"{bundle}/model\.onnx: sha256 is .*Convert the model again"):
        registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert cloud.bucket.objects == {}
    assert cloud.api.calls == []


def test_the_scores_become_one_model_evaluation_that_is_imported_once(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    cloud.api.failures["ImportModelEvaluation"] = [Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)]

    for _ in range(2):
        registry.register(MODEL, bundle, {"run_id": "run-1"}, scores=SCORES)

    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    [evaluation] = aiplatform.Model(f"{MODEL}@1").list_model_evaluations()
    metrics = evaluation.metrics
    assert metrics["confidenceMetrics"][0]["f1ScoreMacro"] == 0.733333
    assert metrics["confidenceMetrics"][0]["recall"] == 0.75
    specs = metrics["confusionMatrix"]["annotationSpecs"]
    assert [dict(spec) for spec in specs] == [
        {"id": "0", "displayName": "sadness"},
        {"id": "1", "displayName": "joy"},
    ]
    assert [list(row) for row in metrics["confusionMatrix"]["rows"]] == [[1, 1], [0, 2]]


def test_what_a_language_model_scored_becomes_an_evaluation_of_generated_text(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    registry.register(MODEL, bundle, {"run_id": "run-1"}, scores=AnswerScores(bleu=0.25))

    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    [evaluation] = aiplatform.Model(f"{MODEL}@1").list_model_evaluations()
    assert evaluation.metrics == {"bleu": 25.0}
    schema = evaluation.gca_resource.metrics_schema_uri
    assert schema == import_model_evaluation.PROBLEM_TYPE_TO_SCHEMA_URI["text-generation"]


# --- promoting and rolling back ---


def test_the_alias_default_follows_the_champion(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    promoted(registry, tmp_path, "run-1", "run-2")
    assert aliases(cloud) == {"champion": "2", "default": "2", "previous": "1"}

    registry.rollback(MODEL)
    assert aliases(cloud) == {"champion": "1", "default": "1", "previous": "2"}
    assert registry.champion(MODEL) == registry.by_alias(MODEL, "default")


def test_a_staged_version_with_evidence_becomes_champion_in_the_name_of_its_approver(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    evidence = {"figures": {"macro_f1": 0.9}, "champion": None}
    version = registry.register(MODEL, make_bundle(tmp_path / "bundle"), {"run_id": "run-1"}, evidence)
    assert registry.evidence(version) == evidence

    assert registry.stage(MODEL, "1").aliases == ("challenger", "default", "staging")
    approval = Approval("Ada\nLovelace", "tried by hand")
    champion = registry.promote(MODEL, "1", compared_with=None, approval=approval).champion

    assert champion.tags["approved_by"] == "Ada Lovelace"
    assert champion.tags["promotion_reason"] == "tried by hand"
    assert champion.tags["approved_at"] == champion.tags["promoted_at"]
    assert aliases(cloud) == {"champion": "1", "default": "1", "staging": "1"}


def test_evidence_that_was_altered_or_is_gone_is_none(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    version = registry.register(MODEL, make_bundle(tmp_path / "bundle"), {"run_id": "run-1"}, {"a": 1})
    [file] = [uri for uri in cloud.bucket.objects if uri.endswith(".evidence.json")]

    cloud.bucket.objects[file] = b'{"a": 2}'
    with pytest.raises(GauntletError, match=rf"{file}: found another sha256 than the registry has"):
        registry.evidence(version)
    del cloud.bucket.objects[file]
    with pytest.raises(GauntletError, match=rf"{file}: no such file"):
        registry.evidence(version)


def test_a_model_that_is_not_there_is_refused_with_the_location(registry: VertexRegistry) -> None:
    with pytest.raises(UsageError, match=f"model 'emotion': not in {PLACE}, which has none yet"):
        registry.versions(MODEL)


# --- answers that are lost, and processes that die ---


WRITES = ("UploadModel", "ImportModelEvaluation", "UpdateModel", "MergeVersionAliases")


@pytest.mark.parametrize("status", TRANSIENT)
@pytest.mark.parametrize("written", [True, False])
def test_calls_that_fail_in_passing_or_whose_answers_are_lost_leave_the_same_registry(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path, status: grpc.StatusCode, written: bool
) -> None:
    bundles = [make_bundle(tmp_path / run_id, run_id) for run_id in ("run-1", "run-2")]
    for bundle in bundles:
        for method in WRITES:
            cloud.api.failures[method] = [Failure(status, after_the_write=written)]
        registry.register(MODEL, bundle, {"run_id": bundle.name}, scores=SCORES)
        for method in WRITES:
            cloud.api.failures[method] = [Failure(status, after_the_write=written)]
        registry.promote(MODEL)

    assert aliases(cloud) == {"champion": "2", "default": "2", "previous": "1"}
    assert [version.version for version in registry.versions(MODEL)] == ["2", "1"]
    assert [len(found) for found in cloud.models.evaluations.values()] == [1, 1]


REFUSED = Failure(grpc.StatusCode.INTERNAL)
DEATHS: list[tuple[str, list[Failure | None]]] = [
    ("UpdateModel", [REFUSED]),
    ("MergeVersionAliases", [REFUSED]),
    ("MergeVersionAliases", [None, REFUSED]),
]
"""The writes of a move, each refused: the service is then as a process leaves it that dies there."""


@pytest.mark.parametrize(("method", "failures"), DEATHS)
def test_a_promotion_that_dies_at_any_write_keeps_a_champion_and_is_finished_by_the_next(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path, method: str, failures: list[Failure | None]
) -> None:
    promoted(registry, tmp_path, "run-1", "run-2")
    register(registry, tmp_path, "run-3")
    cloud.api.failures[method] = list(failures)
    with pytest.raises(GauntletError, match="told to fail"):
        registry.promote(MODEL)

    half_way = aliases(cloud)
    assert half_way["champion"] == half_way["default"] == ("3" if None in failures else "2")
    assert registry.promote(MODEL).moved
    assert aliases(cloud) == {"champion": "3", "default": "3", "previous": "2"}


def test_a_bundle_whose_promotion_died_is_promoted_by_the_next_run_that_makes_it(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    promoted(registry, tmp_path, "run-1")
    register(registry, tmp_path, "run-2")
    cloud.api.failures["MergeVersionAliases"] = [REFUSED]
    with pytest.raises(GauntletError, match="told to fail"):
        registry.promote(MODEL)
    bundle = tmp_path / "run-2"  # from the cache, as the data have not changed
    version = registry.register(MODEL, bundle, {"run_id": "run-3"})
    assert version.tags["run_id"] == "run-3"  # not taken for a former champion
    registry.promote(MODEL, version.version)
    assert aliases(cloud) == {"champion": version.version, "default": version.version, "previous": "1"}


@pytest.mark.parametrize(("method", "failures"), DEATHS)
def test_a_rollback_that_dies_at_any_write_keeps_a_champion_and_is_finished_by_the_next(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path, method: str, failures: list[Failure | None]
) -> None:
    promoted(registry, tmp_path, "run-1", "run-2")
    cloud.api.failures[method] = list(failures)
    with pytest.raises(GauntletError, match="told to fail"):
        registry.rollback(MODEL)

    half_way = aliases(cloud)
    assert half_way["champion"] == half_way["default"] == ("1" if None in failures else "2")
    assert registry.rollback(MODEL).moved
    assert aliases(cloud) == {"champion": "1", "default": "1", "previous": "2"}


@pytest.mark.parametrize("method", ["UploadModel", "ImportModelEvaluation", "MergeVersionAliases"])
def test_a_registration_that_dies_at_any_write_is_completed_by_running_it_again(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path, method: str
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    cloud.api.failures[method] = [REFUSED]
    with pytest.raises(GauntletError, match="told to fail"):
        registry.register(MODEL, bundle, {"run_id": "run-1"}, scores=SCORES)

    version = registry.register(MODEL, bundle, {"run_id": "run-1"}, scores=SCORES)

    assert (version.version, version.aliases) == ("1", ("challenger", "default"))
    assert len(registry.versions(MODEL)) == 1
    assert [len(found) for found in cloud.models.evaluations.values()] == [1]


def test_an_upload_that_the_service_takes_and_then_fails_is_one_message_and_no_version(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.models.failing_upload = f"image {IMAGE} cannot be pulled"
    with pytest.raises(GauntletError, match=rf"image {IMAGE} cannot be pulled$"):
        register(registry, tmp_path, "run-1")
    assert registry.names() == []

    cloud.models.failing_upload = ""
    assert register(registry, tmp_path, "run-1").version == "1"


def test_a_promotion_that_another_one_overtakes_is_told_which_version_won(
    registry: VertexRegistry, cloud: FakeCloud, tmp_path: Path
) -> None:
    promoted(registry, tmp_path, "run-1")
    register(registry, tmp_path, "run-2")
    register(registry, tmp_path, "run-3")
    merge = cloud.models.MergeVersionAliases

    def overtaken(request: Any) -> Any:
        answer = merge(request)
        if "champion" in request.version_aliases:
            other = aiplatform.gapic.MergeVersionAliasesRequest(
                name=request.name.replace("@2", "@3"), version_aliases=["champion", "default"]
            )
            merge(other)
        return answer

    cloud.models.MergeVersionAliases = overtaken  # type: ignore[method-assign]
    with pytest.raises(GauntletError, match="another process made version 3 champion while version 2 was"):
        registry.promote(MODEL, "2")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (grpc.StatusCode.UNAVAILABLE, "cannot be reached (told to fail)"),
        (grpc.StatusCode.PERMISSION_DENIED, "Give this account the role Vertex AI User"),
        (grpc.StatusCode.UNAUTHENTICATED, "not logged in (told to fail). Run `gcloud auth"),
    ],
)
def test_a_service_that_fails_is_one_message_in_bounded_time(
    registry: VertexRegistry,
    cloud: FakeCloud,
    monkeypatch: pytest.MonkeyPatch,
    status: grpc.StatusCode,
    words: str,
) -> None:
    monkeypatch.setattr(calls, "SECONDS_OF_RETRIES", 0.1)
    cloud.api.failing = status

    with pytest.raises(GauntletError) as caught:
        registry.names()

    assert words in str(caught.value)


# --- the URI ---


@pytest.mark.parametrize(
    "uri",
    [
        "vertex://demo",
        URI.replace("gs://bucket", "/tmp"),
        URI.replace(f"@sha256:{'a' * 64}", ":latest"),
        f"{URI}&region=europe-west4",
    ],
)
def test_a_uri_that_says_no_place_is_refused_before_anything_is_asked(uri: str) -> None:
    with pytest.raises(UsageError, match=r"registry URI: found '.*', expected vertex://PROJECT/REGION"):
        open_registry(uri)


def test_a_registry_needs_a_folder_for_bundles() -> None:
    with pytest.raises(UsageError, match=r"registry URI: found no staging, expected vertex://"):
        open_registry(f"vertex://demo/{FakeCloud.LOCATION}?serving_image={IMAGE}")


# --- the fake's own rules ---


BARE: dict[str, Any] = {
    "display_name": MODEL,
    "artifact_uri": "gs://bucket/models/1",
    "container_spec": {"image_uri": IMAGE, "predict_route": "/predict", "health_route": "/health"},
}


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"display_name": ""}, {"model_id": "m"}, "display_name is required"),
        ({"container_spec": {}}, {"model_id": "m"}, "image_uri is required"),
        ({"artifact_uri": "", "container_spec": {"predict_route": "/p"}}, {"model_id": "m"}, "is required"),
        ({"container_spec": {"image_uri": IMAGE, "predict_route": "x"}}, {"model_id": "m"}, "is no route"),
        ({"artifact_uri": "gs://bucket/models/2"}, {"model_id": "m"}, "holds no object"),
        ({"labels": {"run": "0.5"}}, {"model_id": "m"}, "'0.5' is no value"),
        ({"labels": {"Run": "1"}}, {"model_id": "m"}, "'Run' is no key"),
        ({"version_aliases": ["1st"]}, {"model_id": "m"}, "'1st' is no alias"),
        ({}, {"model_id": "1m"}, "'1m' is no id"),
        ({}, {"model_id": MODEL}, "already exists"),
        ({}, {"parent_model": f"{PLACE}/models/none"}, "models/none not found"),
    ],
)
def test_the_fake_refuses_an_upload_that_the_service_would_refuse(
    cloud: FakeCloud, change: dict[str, Any], place: dict[str, str], words: str
) -> None:
    cloud.bucket.objects["gs://bucket/models/1/model.onnx"] = b""
    client = models()
    client.upload_model(request={"parent": PLACE, "model": BARE, "model_id": MODEL})

    with pytest.raises(GoogleAPICallError, match=words):
        client.upload_model(request={"parent": PLACE, "model": BARE | change, **place})


@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        ("get_model", {"name": f"{PLACE}/models/{MODEL}@champion"}, "not found"),
        ("merge_version_aliases", {"version_aliases": ["-default"]}, "default cannot be removed"),
        ("merge_version_aliases", {"version_aliases": ["Champion"]}, "'Champion' is no alias"),
        ("merge_version_aliases", {"version_aliases": []}, "version_aliases is required"),
        ("update_model", {"update_mask": {"paths": ["labels"]}}, "not in this fake"),
        (
            "update_model",
            {"update_mask": {"paths": ["version_description"]}},
            "version_description is a version's",
        ),
        ("import_model_evaluation", {"model_evaluation": {}}, "metrics_schema_uri and metrics are required"),
        ("list_models", {"filter": "display_name=emotion"}, "not in this fake"),
    ],
)
def test_the_fake_refuses_a_call_that_the_service_would_refuse(
    cloud: FakeCloud, method: str, request_: dict[str, Any], words: str
) -> None:
    cloud.bucket.objects["gs://bucket/models/1/model.onnx"] = b""
    client = models()
    client.upload_model(request={"parent": PLACE, "model": BARE, "model_id": MODEL})
    of_model: dict[str, Any] = {
        "get_model": {},
        "merge_version_aliases": {"name": f"{PLACE}/models/{MODEL}"},
        "update_model": {"model": {"name": f"{PLACE}/models/{MODEL}"}},
        "import_model_evaluation": {"parent": f"{PLACE}/models/{MODEL}"},
        "list_models": {"parent": PLACE},
    }[method]

    with pytest.raises(GoogleAPICallError, match=words):
        getattr(client, method)(request=of_model | request_)


def models() -> Any:
    host = f"{FakeCloud.LOCATION}-aiplatform.googleapis.com"
    return aiplatform.gapic.ModelServiceClient(client_options={"api_endpoint": host})
