"""What has to be there before a job is sent to Google Cloud: permissions, roles, a bucket, quotas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.vertex_calls import ask, explained
from backends.vertex_place import VertexPlace
from manifests.errors import UsageError

QUOTA_SERVICE = "aiplatform.googleapis.com"


class GoogleProject:
    """A project, as the account that is logged in may see it.

    Raises:
        UsageError: Nobody is logged in, or the project is unknown.
        GauntletError: A service cannot be reached, or refuses.
    """

    def __init__(self, place: VertexPlace) -> None:
        self._place = place
        with explained("cloudresourcemanager.googleapis.com"):
            from google.cloud import resourcemanager_v3

            self._projects: Any = resourcemanager_v3.ProjectsClient()

    def missing_permissions(self, permissions: Sequence[str]) -> tuple[str, ...]:
        """Those of the permissions that the account does not have in the project."""
        from google.api_core.exceptions import Forbidden, NotFound

        project = self._place.project
        with explained("cloudresourcemanager.googleapis.com"):
            try:
                answer = ask(
                    self._projects.test_iam_permissions,
                    resource=f"projects/{project}",
                    permissions=list(permissions),
                )
            except (Forbidden, NotFound):
                raise UsageError(
                    f"--project: {project}: there is no such project, or this account may not see it. "
                    "Look at `gcloud projects list` and `gcloud auth list`."
                ) from None
        return tuple(sorted(set(permissions) - set(answer.permissions)))

    def roles(self, service_account: str) -> frozenset[str] | None:
        """The roles that the account was given in the project; none when the policy may not be read."""
        from google.api_core.exceptions import Forbidden

        member = f"serviceAccount:{service_account}"
        with explained("cloudresourcemanager.googleapis.com"):
            try:
                policy = ask(self._projects.get_iam_policy, resource=f"projects/{self._place.project}")
            except Forbidden:
                return None
        return frozenset(binding.role for binding in policy.bindings if member in binding.members)

    def bucket_location(self, bucket: str) -> str:
        """Where a bucket is: `EUROPE-WEST4`, or `EU` for one of several regions.

        Raises:
            UsageError: There is no such bucket, or it may not be seen.
        """
        from google.api_core.exceptions import Forbidden, NotFound
        from google.cloud import storage

        with explained("storage.googleapis.com"):
            try:
                client = storage.Client(project=self._place.project)
                return str(client.get_bucket(bucket, timeout=10).location)
            except (Forbidden, NotFound):
                raise UsageError(
                    f"gs://{bucket}: there is no such bucket, or this account may not see it. Make it by "
                    f"`gcloud storage buckets create gs://{bucket} --location={self._place.location}`."
                ) from None

    def quota_limit(self, metric: str) -> int | None:
        """How much of a quota the project has in the region; none when the service says nothing of it."""
        from google.api_core.exceptions import Forbidden

        with explained("cloudquotas.googleapis.com"):
            from google.cloud import cloudquotas_v1

            service: Any = cloudquotas_v1.CloudQuotasClient()
            parent = f"projects/{self._place.project}/locations/global/services/{QUOTA_SERVICE}"
            try:
                for info in ask(service.list_quota_infos, parent=parent):
                    if info.metric == metric:
                        return self._limit_here(info)
            except Forbidden:
                return None
        return None

    def _limit_here(self, info: Any) -> int | None:
        for dimensions in info.dimensions_infos:
            if self._place.location in dimensions.applicable_locations:
                return int(dimensions.details.value)
        return None
