"""`gauntlet submit` and what looks at a submitted run, over real connections to a fake of the services."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1.types import PipelineJob, PipelineState, PipelineTaskDetail
from google.protobuf import json_format

from gauntlet.backends.google import calls
from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.backends.google.location import VertexLocation
from gauntlet.backends.google.project import BucketLocation
from gauntlet.components.train_model.component import train_model
from gauntlet.components.train_model.import_component import train_model as import_model
from gauntlet.components.train_model.service_component import train_model as train_managed_model
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.training import Resources
from gauntlet.pipelines.vertex import follow
from gauntlet.pipelines.vertex.submission import Destination, compiled_submission, needed_quotas, pipeline_job
from tests.conftest import PUSHED_IMAGES
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure
from tests.fakes.web import REPOSITORY
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet

REGISTRY = f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/registered"
QUOTA = "aiplatform.googleapis.com/custom_model_training_nvidia_t4_gpus"
QUOTA_MESSAGE = f"The following quota metrics exceed quota limits: {QUOTA}"
T4 = "training.resources={machine_type: n1-standard-4, accelerator_type: NVIDIA_TESLA_T4, "
T4 += "accelerator_count: 1, max_hours: 1}"
TaskState = PipelineTaskDetail.State
RELEASE, TRAINER = (f"{name}@demo.iam.gserviceaccount.com" for name in ("release", "training"))
THAT_OF_THE_STEPS = "{{$.pipeline_service_account}}"  # as Google's own pipeline components spell it


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(calls, "SECONDS_TO_ANSWER", 2.0)
    monkeypatch.setattr(calls, "SECONDS_OF_RETRIES", 3.0)


@pytest.fixture
def gemini_manifest(place: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """A managed model's, with an image by digest for its training as well."""
    container = train_managed_model.component_spec.implementation.container
    monkeypatch.setattr(container, "image", PUSHED_IMAGES["gate_model"])
    return str(ROOT / "manifests" / "gemini_lm.yaml")


def jobs(cloud: FakeCloud) -> list[PipelineJob]:
    return cloud.resources.of_location(f"projects/demo/locations/{cloud.LOCATION}", "pipelineJobs")


def test_ids_and_labels_have_only_the_signs_that_vertex_takes(place: FakeCloud) -> None:
    """https://github.com/sky-uk/kfp-operator/issues/287, https://github.com/zenml-io/zenml/pull/1978: with
    other signs the service refuses the job."""
    assert gauntlet("submit", SAMPLE) == 0  # its name has an underscore
    [job] = jobs(place)
    assert re.fullmatch(r"[a-z][-a-z0-9]{0,127}", job.name.rpartition("/")[2])
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) for key in job.labels)
    assert all(re.fullmatch(r"[a-z0-9_-]{0,63}", value) for value in job.labels.values())


def test_a_checkpoint_in_a_bucket_takes_the_place_of_a_training(
    place: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    container = import_model.component_spec.implementation.container
    monkeypatch.setattr(container, "image", PUSHED_IMAGES["gate_model"])
    (tmp_path / "model.safetensors").touch()
    assert gauntlet("submit", SAMPLE, "--from-checkpoint", str(tmp_path)) == 2
    assert "is a path on this machine, which steps on Vertex AI cannot read" in " ".join(
        capsys.readouterr().err.split()
    )
    for name in ("model.safetensors", "config.json", "tokenizer.json", "optimizer.pt"):
        place.bucket.objects[f"gs://bucket/moods/{name}"] = name.encode()
    assert gauntlet("submit", SAMPLE, "--from-checkpoint", "gs://bucket/moods") == 0
    [job] = jobs(place)
    spec = json_format.MessageToDict(PipelineJob.pb(job))["pipelineSpec"]
    origin = spec["root"]["inputDefinitions"]["parameters"]["origin"]["defaultValue"]
    lines = "".join(
        f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    )
    assert origin == {
        "form": "checkpoint",
        "source": "gs://bucket/moods",
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "labels": [],
    }
    executors = spec["deploymentSpec"]["executors"]
    assert not [name for name, one in executors.items() if "customJob" in one]  # nothing is bought


def a_job(cloud: FakeCloud) -> dict[str, Any]:
    """The sample's job, as it is sent."""
    submission = compiled_submission(load_manifest(SAMPLE), destination(cloud))
    return pipeline_job(submission.manifest, submission.spec, destination(cloud))


def destination(cloud: FakeCloud) -> Destination:
    return Destination.of("demo", cloud.LOCATION, "gs://bucket/root", REGISTRY, None, None)


def leave(cloud: FakeCloud, job: PipelineJob, step: str, **outputs: Any) -> None:
    """A step's outputs where Vertex lets it put them; without an error its function has returned."""
    folder = f"gs://bucket/root/827804637/{job.name.rpartition('/')[2]}/{step}_7001"
    for name, content in outputs.items():
        file = "error.json" if name == "error" else name
        cloud.bucket.objects[f"{folder}/{file}"] = json.dumps(content).encode()
    if "error" not in outputs:
        cloud.bucket.objects[f"{folder}/executor_output.json"] = b"{}"


def promoted(cloud: FakeCloud) -> None:
    def finish(job: PipelineJob) -> None:
        leave(cloud, job, "gate-model", verdict={"decision": "promote", "rules": []})
        version = {"name": "m", "version": "3", "uri": "u", "aliases": ["champion"], "bundle_sha256": "0"}
        leave(cloud, job, "register-model", version=version)

    cloud.pipelines.on_create = finish


def test_a_section_that_is_too_large_for_a_command_line_is_sent_as_a_file(
    place: FakeCloud, tmp_path: Path
) -> None:
    labels = [f"label number {number} of many" for number in range(6_000)]
    manifest = yaml.safe_load(Path(SAMPLE).read_text())
    manifest["dataset"] |= {"labels": labels, "uri": "gs://bucket/data.csv"}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(manifest))
    assert gauntlet("submit", str(tmp_path / "many.yaml")) == 0
    [job] = jobs(place)
    sent = json_format.MessageToDict(PipelineJob.pb(job))
    assert len(json.dumps(sent["runtimeConfig"]["parameterValues"])) < 8_192
    assert "label number 5999" not in json.dumps(sent)
    dataset = sent["runtimeConfig"]["parameterValues"]["dataset"]
    kept = place.bucket.objects[dataset["section_file"]]
    assert json.loads(kept)["labels"] == labels
    assert hashlib.sha256(kept).hexdigest() == dataset["sha256"]
    assert (
        sent["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]["dataset"]["defaultValue"] == dataset
    )


def test_a_manifest_becomes_a_job_as_the_sdks_own_builder_makes_it(place: FakeCloud, tmp_path: Path) -> None:
    assert gauntlet("submit", SAMPLE, "--set", "training.epochs=3") == 0
    [job] = jobs(place)
    assert job.name.rpartition("/")[2].startswith("emotion-sample-")
    assert job.labels["system"] == "emotion_sample"

    submission = compiled_submission(load_manifest(SAMPLE, ["training.epochs=3"]), destination(place))
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(submission.spec))
    config = PipelineJob.RuntimeConfig.pb(job.runtime_config)
    values = json_format.MessageToDict(config)["parameterValues"]
    assert values["training"]["epochs"] == 3
    built = aiplatform.PipelineJob(
        display_name=job.display_name,
        template_path=str(tmp_path / "spec.yaml"),
        pipeline_root="gs://bucket/root",
        parameter_values=values,
        project="demo",
        location=place.LOCATION,
        credentials=AnonymousCredentials(),
    )
    assert built.runtime_config == job.runtime_config
    assert json_format.MessageToDict(PipelineJob.pb(job).pipeline_spec) == submission.spec


def cached_tasks(job: PipelineJob) -> set[str]:
    """The tasks of a job that may be taken from the cache."""
    spec = json_format.MessageToDict(PipelineJob.pb(job).pipeline_spec)
    return {
        name
        for component in (spec["root"], *spec["components"].values())
        for name, task in component.get("dag", {}).get("tasks", {}).items()
        if task.get("cachingOptions", {}).get("enableCache")
    }


def test_steps_are_cached_as_compiled_unless_the_cache_is_switched_off(place: FakeCloud) -> None:
    assert gauntlet("submit", SAMPLE) == 0
    assert gauntlet("submit", SAMPLE, "--no-cache") == 0
    usual, anew = map(cached_tasks, jobs(place))
    assert {"validate-data", "train-model", "convert-to-onnx"} <= usual
    assert "fingerprint-data" not in usual
    assert anew == set()


def test_a_run_that_is_waited_for_ends_as_a_run_here_does(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    promoted(place)
    place.pipelines.tasks = {"validate-data": TaskState.SKIPPED, "train-model": TaskState.SUCCEEDED}
    assert gauntlet("submit", SAMPLE, "--wait") == 0
    output = capsys.readouterr().out
    assert "train-model: running" in output and "train-model: succeeded" in output
    assert "Promoted as version 3" in output
    assert gauntlet("runs") == 0
    assert "Promoted as version 3" in capsys.readouterr().out
    assert len(list(own_home.glob("runs/*/report.html"))) == 1


def test_bad_data_and_a_failure_have_the_exit_codes_of_a_local_run(place: FakeCloud) -> None:
    place.pipelines.ending = PipelineState.PIPELINE_STATE_FAILED
    place.pipelines.error = "a task failed"
    assert gauntlet("submit", SAMPLE, "--wait") == 1  # nothing was left at all

    refused = {"message": "dataset: too few rows", "exit_code": 4}
    place.pipelines.on_create = lambda job: leave(place, job, "validate-data", error=refused)
    assert gauntlet("submit", SAMPLE, "--wait") == 4


def test_a_dry_run_looks_at_everything_and_sends_nothing(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    account = "trainer@demo.iam.gserviceaccount.com"
    assert gauntlet("submit", SAMPLE, "--dry-run", "--service-account", account) == 0
    output = capsys.readouterr().out
    for words in (
        "gs://bucket is in europe-west4",
        *PUSHED_IMAGES.values(),
        f"{account}: roles/aiplatform.user",
        "custom_model_training_cpus: 4 needed, 20 granted",
        "0.2185 USD/h × 0.5 h = 0.11 USD",  # 0.189999 USD of Compute Engine's × 1.15
    ):
        assert words in output
    assert place.api.requests("CreatePipelineJob") == []
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--project", "nowhere"), "--project: nowhere: there is no such project"),
        (("--region", "europe-west99"), "--region: found 'europe-west99', expected one of"),
        (("--region", "Europe"), "--project, --region: found"),
        (("--root", "bucket/root"), "expected gs://BUCKET/FOLDER"),
        (("--root", "gs://another/root"), "gs://another: there is no such bucket"),
        (("--service-account", "me@example.com"), "--service-account"),
        (("--service-account", "idle@demo.iam.gserviceaccount.com"), "no roles in the project"),
        (
            ("--service-account", RELEASE, "--training-account", "me@example.com"),
            "--training-account: found 'me@example.com'",
        ),
        (("--training-account", TRAINER), f"--training-account: found {TRAINER} without --service-account"),
        (("--registry", "postgres://host"), "registry URI: found 'postgres://host', expected"),
        (("--registry", "vertex://demo/europe-west4"), "registry URI: found no staging"),
        (
            ("--registry", "sqlite:////gcs/bucket/gauntlet.db"),
            "--registry: found 'sqlite:////gcs/bucket/gauntlet.db', a file that ends with the machine",
        ),
        (("--registry", "sqlite:////data/g.db"), "expected vertex://demo/europe-west4?staging=gs://"),
        (("--tracking", "sqlite:////gcs/bucket/g.db"), "--tracking: found 'sqlite:////gcs/bucket/g.db'"),
        (("--tracking", "https://mlflow.example"), "tracking URI: found 'https://mlflow.example', expected"),
        (("--set", "dataset.uri=data.csv"), "a path on this machine"),
        (("--set", "dataset.uri=file:///data.csv"), "a path on this machine"),
        (("--set", "training.epochs=three"), "training.epochs"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    options: tuple[str, ...], words: str, place: FakeCloud, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    assert gauntlet("submit", SAMPLE, *options) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert "Traceback" not in output.err
    assert place.api.requests("CreatePipelineJob") == []
    assert not own_home.exists()


def test_a_bucket_elsewhere_and_missing_permissions_are_named_together(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.bucket.locations["bucket"] = "US-EAST1"
    place.projects.permissions.clear()
    assert gauntlet("submit", SAMPLE) == 2
    message = capsys.readouterr().err
    assert "gs://bucket is in us-east1, not in europe-west4" in message
    assert "lacks aiplatform.pipelineJobs.create, aiplatform.pipelineJobs.get" in message


@pytest.mark.parametrize(
    ("location", "regions"),
    [
        ("EUR4", "europe-north1 europe-west4"),
        ("EUR5", "europe-west1 europe-west2"),
        ("EUR7", "europe-west2 europe-west3"),
        ("EUR8", "europe-west3 europe-west6"),
        ("NAM4", "us-central1 us-east1"),
        ("ASIA1", "asia-northeast1 asia-northeast2"),
        ("EU", "europe-west1 europe-west4 europe-north1"),
        ("US", "us-central1 us-east5 us-west1"),
        ("ASIA", "asia-east1 asia-south1 asia-southeast1"),
        ("EUROPE-WEST4", "europe-west4"),
    ],
)
def test_a_bucket_holds_the_regions_that_cloud_storage_says(location: str, regions: str) -> None:
    """https://cloud.google.com/storage/docs/locations"""
    every = (
        "europe-north1 europe-west1 europe-west2 europe-west3 europe-west4 europe-west6 us-central1 us-east1 "
    )
    every += "us-east5 us-west1 asia-northeast1 asia-northeast2 asia-east1 asia-south1 asia-southeast1"
    held = {region for region in every.split() if BucketLocation(location.lower()).holds(region)}
    assert set(regions.split()) <= held
    if location not in ("EU", "US", "ASIA"):
        assert held == set(regions.split())


@pytest.mark.parametrize(
    ("location", "pair", "code"),
    [
        ("EUR4", [], 0),
        ("NAM4", [], 2),
        ("EU", [], 0),
        ("EU", ["EUROPE-WEST1", "EUROPE-WEST4"], 0),
        ("EU", ["EUROPE-WEST1", "EUROPE-WEST3"], 2),
    ],
)
def test_a_bucket_of_two_regions_serves_both_and_no_other(
    location: str, pair: list[str], code: int, place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.bucket.locations["bucket"] = location
    if pair:
        place.bucket.pairs["bucket"] = pair
    assert gauntlet("submit", SAMPLE, "--dry-run") == code
    assert ("not in europe-west4" in capsys.readouterr().err) == bool(code)


def runs_as(job: PipelineJob) -> tuple[str, str]:
    """The accounts of the steps and of train-model, as they are given to Vertex AI."""
    values = job.runtime_config.parameter_values
    inputs = job.pipeline_spec["root"]["inputDefinitions"]["parameters"]
    return job.service_account, values.get("training_account", inputs["training_account"]["defaultValue"])


def test_steps_and_training_run_as_the_accounts_that_are_named(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.projects.roles = {"roles/aiplatform.user": [f"serviceAccount:{RELEASE}"]}
    for accounts, expected in (
        ((), ("", THAT_OF_THE_STEPS)),
        (("--service-account", RELEASE), (RELEASE, THAT_OF_THE_STEPS)),
        (("--service-account", RELEASE, "--training-account", TRAINER), (RELEASE, TRAINER)),
    ):
        assert gauntlet("submit", SAMPLE, *accounts) == 0
        assert runs_as(jobs(place)[-1]) == expected
    output = capsys.readouterr().out  # training makes neither jobs nor models, and needs no role for them
    assert f"{TRAINER}: no role for objects; it needs one of the bucket's own" in output


def test_a_managed_model_is_trained_by_the_steps_own_account(
    place: FakeCloud, gemini_manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place.projects.roles = {"roles/aiplatform.user": [f"serviceAccount:{RELEASE}"]}
    accounts = ("--service-account", RELEASE, "--training-account", TRAINER)
    assert gauntlet("submit", gemini_manifest, *accounts) == 0
    assert runs_as(jobs(place)[-1]) == (RELEASE, THAT_OF_THE_STEPS)
    assert TRAINER not in capsys.readouterr().out


def test_an_image_that_was_not_pushed_is_found_where_it_can_be_looked_for(
    place: FakeCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = f"sha256:{'1' * 64}"
    container = train_model.component_spec.implementation.container
    monkeypatch.setattr(container, "image", f"europe-west4-docker.pkg.dev/demo/images/gpu/trainer@{digest}")
    assert gauntlet("submit", SAMPLE) == 2
    assert f"images/gpu/trainer@{digest} is not in its repository" in capsys.readouterr().err
    assert jobs(place) == []

    place.web.images.add(f"gpu/trainer@{digest}")
    assert gauntlet("submit", SAMPLE) == 0
    assert f"{PUSHED_IMAGES['gate_model']}: whether it is there cannot be seen" in capsys.readouterr().out

    forbidden = f"europe-west4-docker.pkg.dev/demo/others/trainer@{digest}"
    monkeypatch.setattr(container, "image", forbidden)
    assert gauntlet("submit", SAMPLE) == 0
    assert f"{forbidden}: whether it is there cannot be seen" in capsys.readouterr().out


def test_what_may_not_be_looked_at_stops_nothing(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.projects.roles = None
    place.bucket.locations["bucket"] = "EU"  # which holds europe-west4
    place.quotas.limits.clear()
    assert gauntlet("submit", SAMPLE, "--service-account", "a@demo.iam.gserviceaccount.com") == 0
    output = capsys.readouterr().out
    assert "not looked at" in output and "how much there is cannot be told" in output


@pytest.mark.usefixtures("cloud")
def test_images_that_are_not_named_by_digest_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (
        "--project",
        "demo",
        "--region",
        FakeCloud.LOCATION,
        "--root",
        "gs://bucket/r",
        "--registry",
        REGISTRY,
    )
    assert gauntlet("submit", SAMPLE, *where) == 2
    message = capsys.readouterr().err
    assert "gauntlet-python/trainer:0.1.0: expected one by digest" in message


@pytest.mark.parametrize(
    "command",
    [
        ("submit", SAMPLE),
        ("submit", "--template", f"{REPOSITORY}/emotion/v1@sha256:{'0' * 64}"),
        ("status", f"projects/demo/locations/{FakeCloud.LOCATION}/pipelineJobs/a-job"),
        ("schedule", "apply", str(ROOT / "schedules.yaml")),
    ],
)
def test_expired_credentials_are_one_message(
    command: tuple[str, ...],
    place: FakeCloud,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "login.json").write_text(json.dumps(login))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "login.json"))
    place.web.tokens_expired = True
    assert gauntlet(*command) == 2
    message = capsys.readouterr().err
    assert "not logged in" in message and "gcloud auth application-default login" in message


@pytest.mark.parametrize(
    "status",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED],
)
def test_a_busy_service_is_asked_again_and_makes_one_job(status: grpc.StatusCode, place: FakeCloud) -> None:
    place.api.failures["CreatePipelineJob"] = [Failure(status)]
    assert gauntlet("submit", SAMPLE) == 0
    assert len(place.api.requests("CreatePipelineJob")) == 2
    assert len(jobs(place)) == 1


def test_an_answer_that_is_lost_after_the_job_was_made_makes_no_second_one(place: FakeCloud) -> None:
    """https://github.com/GoogleCloudPlatform/agent-starter-pack/pull/422: a repeated request failed with
    AlreadyExists, and one with a new id makes a second job."""
    place.api.failures["CreatePipelineJob"] = [Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)]
    assert gauntlet("submit", SAMPLE) == 0
    assert len(place.api.requests("CreatePipelineJob")) == 2
    assert len(jobs(place)) == 1


def test_the_same_job_is_made_once_and_another_one_of_its_id_is_refused(place: FakeCloud) -> None:
    service = PipelineJobs(VertexLocation("demo", place.LOCATION))
    job = a_job(place)
    assert service.create(job, "a-job").name == service.create(job, "a-job").name
    assert len(jobs(place)) == 1
    with pytest.raises(UsageError, match="another job of that name"):
        service.create(job | {"display_name": "other"}, "a-job")


def test_an_answer_to_a_cancellation_that_is_lost_ends_the_job_all_the_same(place: FakeCloud) -> None:
    place.pipelines.is_done = lambda: False
    assert gauntlet("submit", SAMPLE) == 0
    place.api.failures["CancelPipelineJob"] = [Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)]
    assert gauntlet("cancel", "latest") == 0
    assert len(place.api.requests("CancelPipelineJob")) == 2
    assert jobs(place)[0].state == PipelineState.PIPELINE_STATE_CANCELLING


def test_a_quota_that_is_too_small_is_found_before_anything_is_sent(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    place.quotas.limits[QUOTA] = 0
    assert gauntlet("submit", SAMPLE, "--set", T4) == 1
    assert f"{QUOTA}: 1 needed, 0 granted" in capsys.readouterr().err
    place.bucket.locations["bucket"] = "US-EAST1"  # no quota will help then
    assert gauntlet("submit", SAMPLE, "--set", T4) == 2
    assert place.api.requests("CreatePipelineJob") == []
    assert not own_home.exists()


def test_an_unlimited_quota_is_enough(place: FakeCloud, capsys: pytest.CaptureFixture[str]) -> None:
    """https://cloud.google.com/docs/quotas/reference/rest/v1/QuotaConfig: -1 is unlimited."""
    place.quotas.limits = {"aiplatform.googleapis.com/custom_model_training_cpus": -1}
    assert gauntlet("submit", SAMPLE, "--dry-run") == 0
    assert "custom_model_training_cpus: 4 needed, unlimited" in capsys.readouterr().out


def test_a_quota_that_is_not_per_region_counts_too(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.quotas.everywhere = {"aiplatform.googleapis.com/custom_model_training_cpus": 3}
    assert gauntlet("submit", SAMPLE, "--dry-run") == 1  # of several limits the lowest
    assert "custom_model_training_cpus: 4 needed, 3 granted" in capsys.readouterr().err


CPUS, T4_GPUS, L4_GPUS = "cpus", "nvidia_t4_gpus", "nvidia_l4_gpus"


@pytest.mark.parametrize(
    ("resources", "needed"),
    [
        ({"machine_type": "n1-standard-8"}, {CPUS: 8}),
        ({"machine_type": "n1-standard-8", "replica_count": 3}, {CPUS: 24}),
        ({"machine_type": "n1-standard-2"}, {CPUS: 4}),  # what another step takes
        ({"machine_type": "c2-standard-8"}, {CPUS: 4, "c2_cpus": 8}),
        ({"machine_type": "n1-standard-8", "strategy": "spot"}, {CPUS: 4, "preemptible_cpus": 8}),
        ({"machine_type": "n1-standard-8", "persistent_resource": "mine"}, {CPUS: 4}),
        (
            {
                "machine_type": "n1-standard-8",
                "accelerator_type": "NVIDIA_TESLA_T4",
                "accelerator_count": 2,
                "replica_count": 2,
            },
            {CPUS: 16, T4_GPUS: 4},
        ),
        *(
            (
                {
                    "machine_type": "g2-standard-8",
                    "accelerator_type": "NVIDIA_L4",
                    "accelerator_count": 1,
                    "strategy": strategy,
                },
                {CPUS: 4, metric: 1},
            )
            for strategy, metric in (
                ("standard", L4_GPUS),
                ("spot", f"preemptible_{L4_GPUS}"),
                ("flex_start", f"preemptible_{L4_GPUS}"),
            )
        ),
    ],
)
def test_the_quotas_of_a_run_are_those_of_its_machines_and_of_the_steps_beside(
    resources: dict[str, Any], needed: dict[str, int]
) -> None:
    """https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws#quota"""
    prefix = "aiplatform.googleapis.com/custom_model_training_"
    found = needed_quotas(Resources(**resources), cpus_of_a_step=4)
    assert found == {prefix + metric: amount for metric, amount in needed.items()}


def test_a_refusal_for_a_quota_names_it_and_is_not_repeated(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.api.failures["CreatePipelineJob"] = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA_MESSAGE)]
    assert gauntlet("submit", SAMPLE) == 1
    assert f"the quota {QUOTA} is used up" in capsys.readouterr().err
    assert len(place.api.requests("CreatePipelineJob")) == 1
    assert gauntlet("runs") == 0
    assert "not submitted" in capsys.readouterr().out


@pytest.mark.parametrize("of_task", [False, True])
def test_a_job_that_fails_for_a_quota_names_it_too(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], of_task: bool
) -> None:
    place.pipelines.ending = PipelineState.PIPELINE_STATE_FAILED
    place.pipelines.error = "The DAG failed because some tasks failed." if of_task else QUOTA_MESSAGE
    if of_task:
        place.pipelines.tasks = {"train-model": TaskState.FAILED}
        place.pipelines.task_errors = {"train-model": QUOTA_MESSAGE}
    assert gauntlet("submit", SAMPLE, "--wait") == 1
    assert f"the quota {QUOTA} is used up" in capsys.readouterr().err


@pytest.mark.parametrize("found", ["before", "when it is sent", "by a step"])
def test_refused_for_a_quota_the_manifest_runs_here_where_that_was_asked_for(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], tmp_path: Path, own_home: Path, found: str
) -> None:
    if found == "before":
        place.quotas.limits["aiplatform.googleapis.com/custom_model_training_cpus"] = 0
    if found == "by a step":
        place.pipelines.ending = PipelineState.PIPELINE_STATE_FAILED
        place.pipelines.tasks = {"train-model": TaskState.FAILED}
        place.pipelines.task_errors = {"train-model": QUOTA_MESSAGE}
    else:
        refusal = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA_MESSAGE)
        place.api.failures["CreatePipelineJob"] = [refusal]
    rows = "".join(f"words {row},{'ab'[row % 2]}\n" for row in range(8))
    place.bucket.objects["gs://bucket/few.csv"] = f"text,label\n{rows}".encode()
    manifest = tmp_path / "few.yaml"
    dataset = {"name": "few", "version": "1", "uri": "gs://bucket/few.csv", "labels": ["a", "b"]}
    content = {
        "name": "few",
        "description": "Few sentences",
        "task": "text_classification",
        "dataset": dataset,
    }
    manifest.write_text(yaml.safe_dump(content | {"gates": {"min_macro_f1": 0.5}}))
    code = gauntlet("submit", str(manifest), "--wait", "--fallback-local", "--registry", REGISTRY)
    assert code == 4  # 8 rows are too few, as validate-data says
    output = capsys.readouterr()
    assert "aiplatform.googleapis.com/custom_model_training_" in output.err
    assert "Data refused by validate-data" in output.out
    [steps] = own_home.glob("runs/*/steps")
    arguments = json.loads((steps.parent / "arguments.json").read_text())
    assert arguments["registry_uri"] == REGISTRY
    assert arguments["tracking_uri"] == "vertex://demo/europe-west4?staging=gs://bucket/root/tracking"


@pytest.mark.parametrize("what", ["looking at the job", "an answer that was lost", "whether it was made"])
def test_what_may_still_run_there_is_not_run_here_as_well(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], tmp_path: Path, own_home: Path, what: str
) -> None:
    refusal = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA_MESSAGE)
    lost = Failure(grpc.StatusCode.UNAVAILABLE, after_the_write=True)
    if what == "looking at the job":
        place.api.failures["GetPipelineJob"] = [refusal]
    else:
        place.api.failures["CreatePipelineJob"] = [lost, refusal]
    if what == "whether it was made":
        place.api.failures["GetPipelineJob"] = [refusal]
    waiting = ["--wait"] if what == "looking at the job" else []

    code = gauntlet("submit", SAMPLE, *waiting, "--fallback-local", "--registry", REGISTRY)

    assert code == (0 if what == "an answer that was lost" else 1)
    output = capsys.readouterr()
    assert "on this machine" not in output.out
    assert ("it is unknown whether the job was created" in output.err) == (what == "whether it was made")
    gauntlet("runs")
    assert ("perhaps submitted" in capsys.readouterr().out) == (what == "whether it was made")
    assert len(jobs(place)) == 1
    assert list(own_home.glob("runs/*/steps")) == []


def test_what_is_trained_there_is_not_trained_again_for_a_quota_of_a_later_step(
    place: FakeCloud, capsys: pytest.CaptureFixture[str], tmp_path: Path, own_home: Path
) -> None:
    place.pipelines.ending = PipelineState.PIPELINE_STATE_FAILED
    place.pipelines.tasks = {"train-model": TaskState.SUCCEEDED, "evaluate-model": TaskState.FAILED}
    place.pipelines.task_errors = {"evaluate-model": QUOTA_MESSAGE}
    assert gauntlet("submit", SAMPLE, "--wait", "--fallback-local", "--registry", REGISTRY) == 1
    assert f"the quota {QUOTA} is used up" in capsys.readouterr().err
    assert list(own_home.glob("runs/*/steps")) == []


def test_a_run_that_came_to_its_outcome_is_no_failure_for_a_quota_of_the_report(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(place)
    place.pipelines.ending = PipelineState.PIPELINE_STATE_FAILED
    place.pipelines.tasks = {"write-report": TaskState.FAILED}
    place.pipelines.task_errors = {"write-report": QUOTA_MESSAGE}
    assert gauntlet("submit", SAMPLE, "--wait") == 0
    assert "Promoted as version 3" in capsys.readouterr().out


def test_a_managed_models_run_has_no_step_that_never_comes(
    place: FakeCloud, gemini_manifest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("submit", gemini_manifest) == 0
    capsys.readouterr()
    assert gauntlet("status") == 0
    output = capsys.readouterr().out
    assert "train-model" in output and "convert-to-onnx" not in output
    assert gauntlet("status", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == [
        line.split()[0] for line in output.splitlines()[1 : len(rows) + 1]
    ]


def test_status_cancel_and_logs_look_at_the_run_that_was_submitted(
    place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    place.pipelines.tasks = {"validate-data": TaskState.SUCCEEDED, "train-model": TaskState.CANCELLED}
    place.pipelines.is_done = lambda: False
    place.logging.lines["2"] = ["epoch 1 of 4", "epoch 2 of 4"]
    assert gauntlet("submit", SAMPLE) == 0
    run = jobs(place)[0].name.rpartition("/")[2]
    capsys.readouterr()

    assert gauntlet("status", run) == 0
    assert "RUNNING" in capsys.readouterr().out
    assert gauntlet("logs", "latest", "--step", "train-model") == 0
    assert capsys.readouterr().out.splitlines() == ["train-model: epoch 1 of 4", "train-model: epoch 2 of 4"]
    place.pipelines.ending = PipelineState.PIPELINE_STATE_CANCELLED
    assert gauntlet("cancel", jobs(place)[0].name) == 0
    capsys.readouterr()
    assert gauntlet("status") == 0
    assert "Cancelled during" in capsys.readouterr().out
    assert gauntlet("cancel", run) == 2
    assert "ended already: CANCELLED" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", ["status", "cancel", "logs"])
def test_a_run_that_is_not_there_is_bad_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    absent = f"projects/demo/locations/{FakeCloud.LOCATION}/pipelineJobs/absent"
    assert gauntlet(command, absent) == 2
    assert "there is no such pipeline job" in capsys.readouterr().err
    assert gauntlet(command, "absent") == 2
    assert "not found under" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runtime_config": {"gcs_output_directory": "s3://bucket"}}, "is no gs:// folder"),
        ({"service_account": "somebody"}, "service_account"),
        ({"labels": {"System": "x"}}, "label System"),
        ({"pipeline_spec": {}}, "pipeline_spec"),
    ],
)
def test_the_service_refuses_a_job_that_is_none(change: dict[str, Any], words: str, place: FakeCloud) -> None:
    with pytest.raises(GauntletError, match=words):
        PipelineJobs(VertexLocation("demo", place.LOCATION)).create(a_job(place) | change, "a-job")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": "seven"}, "is no NUMBER_INTEGER"),
        ({"depth": 3}, "is no input"),
        ({"name": None}, "is no STRING"),
    ],
)
def test_the_service_refuses_parameters_that_do_not_fit(
    values: dict[str, Any], words: str, place: FakeCloud
) -> None:
    job = a_job(place)
    job["runtime_config"]["parameter_values"] |= values
    with pytest.raises(GauntletError, match=words):
        PipelineJobs(VertexLocation("demo", place.LOCATION)).create(job, "a-job")
