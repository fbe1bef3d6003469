"""What surrounds Vertex AI in a project: permissions, quotas and logs."""

from __future__ import annotations

import re
from collections import defaultdict

import grpc
from google.cloud import cloudquotas_v1
from google.cloud.logging_v2.types import ListLogEntriesRequest, ListLogEntriesResponse, LogEntry
from google.iam.v1 import iam_policy_pb2, policy_pb2

from tests.fakes.google_api import ApiError

PROJECT = "demo"
QUOTAS = "projects/demo/locations/global/services/aiplatform.googleapis.com"


class Projects:
    """Cloud Resource Manager. One project exists.

    Attributes:
        permissions: What the caller may do.
        roles: What members were given; none: the policy may not be read.
    """

    def __init__(self) -> None:
        self.permissions = {"aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get"}
        self.roles: dict[str, list[str]] | None = {
            "roles/aiplatform.user": ["serviceAccount:trainer@demo.iam.gserviceaccount.com"]
        }

    def TestIamPermissions(
        self, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        _require_project(request.resource)
        granted = [one for one in request.permissions if one in self.permissions]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=granted)

    def GetIamPolicy(self, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        _require_project(request.resource)
        if self.roles is None:
            raise ApiError(grpc.StatusCode.PERMISSION_DENIED, "resourcemanager.projects.getIamPolicy denied")
        bindings = [policy_pb2.Binding(role=role, members=who) for role, who in self.roles.items()]
        return policy_pb2.Policy(bindings=bindings)


class CloudQuotas:
    """Cloud Quotas: the limits of `aiplatform.googleapis.com`, by metric.

    Attributes:
        limits: Those in one region; -1 is unlimited.
        everywhere: Those that are not per region.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self.limits = {"aiplatform.googleapis.com/custom_model_training_cpus": 20}
        self.everywhere: dict[str, int] = {}

    def ListQuotaInfos(
        self, request: cloudquotas_v1.ListQuotaInfosRequest
    ) -> cloudquotas_v1.ListQuotaInfosResponse:
        if request.parent != QUOTAS:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"{request.parent} not found")
        infos = [
            {
                "metric": metric,
                "dimensions_infos": [
                    {"details": {"value": 99}, "applicable_locations": ["us-central1"]},
                    {"details": {"value": limit}, "applicable_locations": [self._region]},
                ],
            }
            for metric, limit in self.limits.items()
        ]
        infos += [
            {
                "metric": metric,
                "dimensions_infos": [{"details": {"value": limit}, "applicable_locations": ["global"]}],
            }
            for metric, limit in self.everywhere.items()
        ]
        return cloudquotas_v1.ListQuotaInfosResponse(quota_infos=infos)


class Logging:
    """Cloud Logging. `lines` are those of each custom job, by its id."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, list[str]] = defaultdict(list)

    def ListLogEntries(self, request: ListLogEntriesRequest) -> ListLogEntriesResponse:
        found = re.fullmatch(r'resource\.type="ml_job" AND resource\.labels\.job_id="(\d+)"', request.filter)
        if found is None or list(request.resource_names) != [f"projects/{PROJECT}"]:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "no filter that this fake knows")
        return ListLogEntriesResponse(entries=[LogEntry(text_payload=line) for line in self.lines[found[1]]])


def _require_project(resource: str) -> None:
    if resource != f"projects/{PROJECT}":
        raise ApiError(
            grpc.StatusCode.PERMISSION_DENIED,
            f"Permission denied on resource {resource} (or it may not exist).",
        )
