"""Google Cloud on loopback, for the libraries that are its real clients.

Nothing here was compared with the real services. It shows that requests are well formed as far as the API's
documentation says what that is, and what becomes of answers and refusals.
"""

from __future__ import annotations

import json
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import aiplatform_v1, cloudquotas_v1, monitoring_v3, run_v2
from google.cloud.bigquery_storage_v1 import types as bigquery_messages
from google.cloud.logging_v2 import types as logging_messages
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2

from tests.fakes.bigquery import BigQuery
from tests.fakes.bucket import Bucket
from tests.fakes.cloud_run import CloudRun
from tests.fakes.connect_proxy import SILENT, ConnectProxy
from tests.fakes.google_api import GoogleApi
from tests.fakes.monitoring import MetricService
from tests.fakes.project import CloudQuotas, Logging, Projects
from tests.fakes.resources import Resources
from tests.fakes.vertex_endpoints import EndpointService, Operations
from tests.fakes.vertex_jobs import JobService
from tests.fakes.vertex_metadata import MetadataService
from tests.fakes.vertex_models import ModelService
from tests.fakes.vertex_pipelines import PipelineService, ScheduleService
from tests.fakes.vertex_tensorboard import TensorboardService
from tests.fakes.web import Web

CLOSED_PORT = 1
DEDICATED = "europe-west4-1.prediction.vertexai.goog"


class Trust:
    """What clients trust, and what they log in with. gRPC reads its root certificates once in a process."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        roots, key = folder / "roots.pem", folder / "key.json"
        self.authority.cert_pem.write_to_path(str(roots))
        key.write_text(json.dumps(_service_account()))
        self.environment = {
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots),
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
            "REQUESTS_CA_BUNDLE": str(roots),
        }


class FakeCloud:
    """Google Cloud with Vertex AI in one location; in two others it is down. It takes any project.

    Attributes:
        environment: What makes a process its client, but for the bucket, whose `url` fsspec is told.
    """

    LOCATION = "europe-west4"
    LOCATION_THAT_REFUSES = "europe-west1"
    LOCATION_THAT_IS_SILENT = "europe-west2"

    def __init__(self, trust: Trust) -> None:
        self.resources = Resources()
        self.bucket = Bucket()
        self.metadata = MetadataService(self.resources)
        self.models = ModelService(self.bucket)
        self.jobs = JobService()
        self.pipelines = PipelineService(self.resources)
        self.schedules = ScheduleService(self.resources, self.pipelines)
        self.bigquery = BigQuery()
        self.projects, self.quotas, self.logging = Projects(), CloudQuotas(self.LOCATION), Logging()
        self.cloud_run, self.monitoring = CloudRun(), MetricService()
        self.endpoints = EndpointService()
        services = {
            "MetadataService": self.metadata,
            "ModelService": self.models,
            "JobService": self.jobs,
            "TensorboardService": TensorboardService(self.resources),
            "PipelineService": self.pipelines,
            "ScheduleService": self.schedules,
            "Projects": self.projects,
            "CloudQuotas": self.quotas,
            "LoggingServiceV2": self.logging,
            "BigQueryRead": self.bigquery,
            "Services": self.cloud_run,
            "Revisions": self.cloud_run,
            "EndpointService": self.endpoints,
            "PredictionService": self.endpoints,
            "Operations": Operations(self.endpoints, self.cloud_run),
            "MetricService": self.monitoring,
        }
        messages = (
            aiplatform_v1, iam_policy_pb2, cloudquotas_v1, logging_messages, bigquery_messages, run_v2,
            monitoring_v3, operations_pb2,
        )  # fmt: skip
        certificate = trust.authority.issue_cert(
            "*.googleapis.com", "*.pkg.dev", "*.a.run.app", f"*.{DEDICATED}"
        )
        self.api = GoogleApi(messages, services, certificate, (self.LOCATION, "global", "eu"))
        self.web = Web(self.bucket, self.bigquery, self.cloud_run, self.endpoints, certificate)
        vertex = {
            self.LOCATION: self.api.port,
            self.LOCATION_THAT_REFUSES: CLOSED_PORT,
            self.LOCATION_THAT_IS_SILENT: SILENT,
        }
        ports = {f"{location}-aiplatform.googleapis.com": port for location, port in vertex.items()}
        for service in (
            "cloudresourcemanager",
            "cloudquotas",
            "logging",
            "bigquerystorage",
            "run",
            "monitoring",
        ):
            ports[f"{service}.googleapis.com"] = self.api.port
        ports |= dict.fromkeys(
            (*Web.HOSTS, Web.REPOSITORY_HOST, "*.a.run.app", f"*.{DEDICATED}"), self.web.server_port
        )
        # google-auth asks it, on a thread of its own, where an account may work; no answer is any place.
        ports["iamcredentials.googleapis.com"] = CLOSED_PORT
        self.proxy = ConnectProxy(ports)
        self.environment = {
            **trust.environment,
            "https_proxy": self.proxy.url,
            "no_proxy": "127.0.0.1",
        }

    def close(self) -> None:
        self.proxy.close()
        self.api.close()
        self.web.close()


def _service_account() -> dict[str, str]:
    """What a key file of a service account holds."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "demo",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "trainer@demo.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
