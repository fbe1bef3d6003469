"""The rules that the fakes of Google Cloud hold, each broken once. Those of jobs, schedules and models that
their own tests break are there: test_vertex_submit, test_vertex_schedules, test_vertex_registry.
"""

from __future__ import annotations

import json
import math
from typing import Any

import google.auth
import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.cloud import aiplatform_v1 as vertex
from google.cloud import cloudquotas_v1
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client

from tests.fakes.cloud import FakeCloud, Trust
from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.google_rest import RestProject
from tests.fakes.vertex_tensorboard import POINTS_PER_WRITE
from tests.fakes.web import REPOSITORY

PLACE = f"projects/demo/locations/{FakeCloud.LOCATION}"
STORE = f"{PLACE}/metadataStores/default"
EXPERIMENT = f"{PLACE}/tensorboards/42/experiments/e"
RUN = f"{EXPERIMENT}/runs/r"
OPTIONS = {"api_endpoint": f"{FakeCloud.LOCATION}-aiplatform.googleapis.com"}
CONTEXT = {"parent": STORE, "context_id": "another", "context": {}}
SERIES = {"display_name": "loss", "value_type": "SCALAR"}
ADDED = {"parent": EXPERIMENT, "requests": [{"parent": RUN, "tensorboard_time_series": SERIES}]}
JOB = {
    "pipeline_spec": {
        "pipelineInfo": {"name": "p"},
        "root": {"inputDefinitions": {"parameters": {"seed": {"parameterType": "NUMBER_INTEGER"}}}},
    },
    "runtime_config": {"gcs_output_directory": "gs://bucket/root", "parameter_values": {"seed": 1}},
}
CREATED = {"parent": PLACE, "pipeline_job_id": "a-job", "pipeline_job": JOB}
SCHEDULE = {
    "display_name": "s",
    "cron": "TZ=UTC 0 2 * * 0",
    "max_concurrent_run_count": 1,
    "create_pipeline_job_request": {"parent": PLACE, "pipeline_job": JOB},
}


def of_job(**changes: Any) -> dict[str, Any]:
    return {"parent": PLACE, "schedule": SCHEDULE | changes}


@pytest.fixture
def things(cloud: FakeCloud) -> FakeCloud:
    """One of each thing that the requests below are about."""
    vertex.MetadataServiceClient(client_options=OPTIONS).create_metadata_store(
        parent=PLACE, metadata_store_id="default", metadata_store={}
    )
    metadata = vertex.MetadataServiceClient(client_options=OPTIONS)
    metadata.create_context(parent=STORE, context_id="there", context={})
    cloud.resources.add(PLACE, "tensorboards", "42", vertex.Tensorboard())
    board = vertex.TensorboardServiceClient(client_options=OPTIONS)
    board.create_tensorboard_experiment(parent=f"{PLACE}/tensorboards/42", tensorboard_experiment_id="e")
    board.create_tensorboard_run(
        parent=EXPERIMENT, tensorboard_run_id="r", tensorboard_run={"display_name": "r"}
    )
    board.batch_create_tensorboard_time_series(request=ADDED)
    vertex.ScheduleServiceClient(client_options=OPTIONS).create_schedule(request=of_job())
    vertex.PipelineServiceClient(client_options=OPTIONS).create_pipeline_job(request=CREATED)
    return cloud


@pytest.mark.usefixtures("things")
@pytest.mark.parametrize(
    ("method", "request_", "error", "words"),
    [
        # what is documented for every service
        ("create_context", {"parent": STORE, "context_id": "another"}, "InvalidArgument", "context is req"),
        ("get_context", {"name": ""}, "InvalidArgument", "name is required"),
        ("get_context", {"name": "contexts/there"}, "InvalidArgument", "is no resource's name"),
        ("get_context", {"name": f"{STORE}/contexts/gone"}, "NotFound", "contexts/gone not found"),
        (
            "list_contexts",
            {"parent": STORE.replace(FakeCloud.LOCATION, "us-central1")},
            "InvalidArgument",
            "is not in europe-west4",
        ),
        (
            "create_schedule",
            of_job(create_pipeline_job_request={"pipeline_job": JOB}),
            "InvalidArgument",
            "schedule.create_pipeline_job_request.parent is required",
        ),
        # metadata
        ("create_context", CONTEXT | {"context_id": "there"}, "AlreadyExists", "there already exists"),
        ("create_context", CONTEXT | {"context_id": "abc"}, "InvalidArgument", "too short"),
        ("create_context", CONTEXT | {"context_id": "Another"}, "InvalidArgument", "'Another' is no id"),
        ("create_context", CONTEXT | {"parent": f"{PLACE}/metadataStores/x"}, "NotFound", "x not found"),
        (
            "create_context",
            CONTEXT | {"context": {"metadata": {"a": {"b": math.nan}}}},
            "InvalidArgument",
            "a number is not finite",
        ),
        (
            "create_context",
            CONTEXT | {"context": {"metadata": {"a": "x" * 200_001}}},
            "InvalidArgument",
            "more than 200000 bytes",
        ),
        ("create_context", CONTEXT | {"context": {"labels": {"A": "b"}}}, "InvalidArgument", "'A' is no key"),
        ("list_contexts", {"parent": STORE, "filter": "x=1"}, "InvalidArgument", "'x=1' is not in this fake"),
        (
            "update_context",
            {"context": {"name": f"{STORE}/contexts/there"}, "update_mask": {"paths": ["labels"]}},
            "InvalidArgument",
            "is not in this fake",
        ),
        (
            "add_context_children",
            {"context": f"{STORE}/contexts/there", "child_contexts": [f"{STORE}/contexts/gone"]},
            "NotFound",
            "contexts/gone not found",
        ),
        # curves
        (
            "create_tensorboard_run",
            {"parent": EXPERIMENT, "tensorboard_run_id": "q", "tensorboard_run": {"description": "x"}},
            "InvalidArgument",
            "tensorboard_run.display_name is required",
        ),
        ("batch_create_tensorboard_time_series", ADDED, "AlreadyExists", "loss already exists"),
        (
            "batch_create_tensorboard_time_series",
            {
                "parent": EXPERIMENT,
                "requests": [{"parent": RUN, "tensorboard_time_series": {"display_name": "x"}}],
            },
            "InvalidArgument",
            "requests.tensorboard_time_series.value_type is required",
        ),
        (
            "batch_create_tensorboard_time_series",
            ADDED | {"parent": f"{PLACE}/tensorboards/42/experiments/f"},
            "InvalidArgument",
            "is not in projects",
        ),
        (
            "write_tensorboard_run_data",
            {
                "tensorboard_run": RUN,
                "time_series_data": [
                    {
                        "tensorboard_time_series_id": "1",
                        "value_type": "SCALAR",
                        "values": [{"step": 1}] * (POINTS_PER_WRITE + 1),
                    }
                ],
            },
            "InvalidArgument",
            "more than 5000 points",
        ),
        (
            "write_tensorboard_run_data",
            {
                "tensorboard_run": RUN,
                "time_series_data": [
                    {"tensorboard_time_series_id": "1", "value_type": "TENSOR", "values": [{"step": 1}]}
                ],
            },
            "InvalidArgument",
            "another type of value",
        ),
        # jobs
        ("create_pipeline_job", CREATED, "AlreadyExists", "pipelineJobs/a-job already exists"),
        ("create_pipeline_job", CREATED | {"parent": "projects/demo"}, "InvalidArgument", "is no location"),
        ("create_pipeline_job", CREATED | {"pipeline_job_id": "1st"}, "InvalidArgument", "'1st' is no id"),
        (
            "create_pipeline_job",
            CREATED
            | {"pipeline_job": JOB | {"runtime_config": {"gcs_output_directory": "gs://bucket/root"}}},
            "InvalidArgument",
            "parameter 'seed' is required",
        ),
        (
            "create_pipeline_job",
            CREATED | {"pipeline_job": {"pipeline_spec": {"nothing": 1}} | {"runtime_config": {}}},
            "InvalidArgument",
            "is required|no field named",
        ),
        ("cancel_pipeline_job", {"name": f"{PLACE}/pipelineJobs/gone"}, "NotFound", "gone not found"),
        # schedules
        ("create_schedule", of_job(cron="0 2 * *"), "InvalidArgument", "five fields are expected"),
        (
            "create_schedule",
            of_job(start_time="2027-01-02T00:00:00Z", end_time="2027-01-01T00:00:00Z"),
            "InvalidArgument",
            "end_time must be after start_time",
        ),
        (
            "create_schedule",
            of_job(
                create_pipeline_job_request={
                    "parent": PLACE.replace("demo", "other"),
                    "pipeline_job": JOB,
                }
            ),
            "InvalidArgument",
            "must be the schedule's own",
        ),
        (
            "update_schedule",
            {"schedule": {"name": f"{PLACE}/schedules/1"}},
            "InvalidArgument",
            "update_mask is required",
        ),
        (
            "update_schedule",
            {"schedule": {"name": f"{PLACE}/schedules/1"}, "update_mask": {"paths": ["crom"]}},
            "InvalidArgument",
            "'crom' is no field",
        ),
        (
            "update_schedule",
            {"schedule": {"name": f"{PLACE}/schedules/1"}, "update_mask": {"paths": ["cron"]}},
            "InvalidArgument",
            "cron cannot be unset",
        ),
        ("resume_schedule", {"name": f"{PLACE}/schedules/1"}, "FailedPrecondition", "is ACTIVE"),
        ("pause_schedule", {"name": f"{PLACE}/schedules/2"}, "NotFound", "schedules/2 not found"),
        # what is not in the fake is not answered by it
        (
            "list_artifacts",
            {"parent": STORE},
            "MethodNotImplemented",
            "Method not found|UNIMPL|not found|501",
        ),
    ],
)
def test_vertex_refuses(method: str, request_: dict[str, Any], error: str, words: str) -> None:
    services = (
        vertex.MetadataServiceClient,
        vertex.TensorboardServiceClient,
        vertex.PipelineServiceClient,
        vertex.ScheduleServiceClient,
    )
    client = next(one for one in services if hasattr(one, method))(client_options=OPTIONS)

    with pytest.raises(getattr(exceptions, error), match=words):
        getattr(client, method)(request=request_, retry=None)


def test_nobody_is_answered_without_a_token_or_a_routing_header(things: FakeCloud) -> None:
    nobody = vertex.MetadataServiceClient(client_options=OPTIONS, credentials=AnonymousCredentials())
    with pytest.raises(exceptions.Unauthenticated, match="no bearer token"):
        nobody.get_context(name=f"{STORE}/contexts/there")

    request = vertex.GetContextRequest(name=f"{STORE}/contexts/there")
    stub = vertex.MetadataServiceClient(client_options=OPTIONS).transport.get_context
    with pytest.raises(Exception, match="no routing header"):
        stub(request)


def test_quotas_and_logs_are_of_a_place_and_a_job(cloud: FakeCloud) -> None:
    quotas = cloudquotas_v1.CloudQuotasClient()
    with pytest.raises(exceptions.NotFound, match="services/x not found"):
        list(quotas.list_quota_infos(parent="projects/demo/locations/global/services/x"))
    with pytest.raises(exceptions.InvalidArgument, match="no filter that this fake knows"):
        list(
            LoggingServiceV2Client().list_log_entries(
                request={"resource_names": ["projects/demo"], "filter": "severity=ERROR"}
            )
        )


def test_templates_images_and_buckets_are_there_or_not(cloud: FakeCloud) -> None:
    ask = requests.Session()
    bearer = {"Authorization": "Bearer t"}
    packages = "https://artifactregistry.googleapis.com/v1/projects/demo/locations/europe-west4/repositories"
    for url in (
        f"{REPOSITORY}/emotion/sha256:{'0' * 64}",
        f"{packages}/templates/packages/emotion/tags/v1",
        f"{packages}/images/dockerImages/trainer@sha256:{'0' * 64}",
        "https://storage.googleapis.com/storage/v1/b/another",
    ):
        assert ask.get(url).status_code == 401
        assert ask.get(url, headers=bearer).status_code == 404
    assert ask.get(f"{packages}/other", headers=bearer).status_code == 403
    assert ask.post(f"{REPOSITORY}/x", headers=bearer, data=b"x").status_code == 403


def test_no_other_host_is_led_to_and_who_asks_for_one_is_noted() -> None:
    proxy = ConnectProxy({})
    try:
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get("https://example.com", proxies={"https": proxy.url}, timeout=60)
        assert proxy.refused == ["example.com"]
    finally:
        proxy.close()


@pytest.fixture
def project(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project by REST, as the doctor sees it."""
    fake = RestProject(trust.authority)
    fake.apis = {f"{host}.googleapis.com" for host in ("storage", "cloudresourcemanager", "serviceusage")}
    fake.there = {"storage/storage/v1/b/there"}
    for key, value in {**trust.environment, "https_proxy": fake.proxy.url}.items():
        monkeypatch.setenv(key, value)
    yield fake
    fake.close()


BUCKETS = "https://storage.googleapis.com/storage/v1/b"
PROJECT = "https://cloudresourcemanager.googleapis.com/v3/projects/demo"
SERVICES = "https://serviceusage.googleapis.com/v1/projects/demo/services:batchGet"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("url", "query", "status", "words"),
    [
        (f"{BUCKETS}/gone/iam/testPermissions", {"permissions": "storage.objects.get"}, 404, "gone not foun"),
        (f"{BUCKETS}/there/iam/testPermissions", {}, 400, "permissions are required"),
        (f"{BUCKETS}/there/iam/testPermissions", {"permissions": "iam.x"}, 400, "not valid for this"),
        (f"{PROJECT}x", {}, 403, "denied"),
        (SERVICES, {"names": ["projects/demo/services/a.b"] * 31}, 400, "too many names"),
        (SERVICES, {"names": ["a.googleapis.com"]}, 400, "a name is none"),
        ("https://iam.googleapis.com/v1/projects/demo", {}, 403, "SERVICE_DISABLED"),
    ],
)
def test_a_project_refuses(url: str, query: dict[str, Any], status: int, words: str) -> None:
    answer = requests.get(url, params=query, headers={"Authorization": "Bearer me"}, timeout=60)

    assert answer.status_code == status
    assert words in json.dumps(answer.json())
    assert requests.get(url, params=query, timeout=60).status_code == 401


@pytest.mark.usefixtures("project")
def test_a_project_gives_tokens_for_what_is_asked_here_and_nothing_else() -> None:
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_only"])
    with pytest.raises(RefreshError, match="invalid_scope"):
        credentials.refresh(Request())
