"""What has to be there before a job is sent to Google Cloud: permissions, roles, a bucket, quotas."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gauntlet.backends.google.calls import ask, explained
from gauntlet.backends.google.location import VertexLocation
from gauntlet.manifests.errors import UsageError

QUOTA_SERVICE = "aiplatform.googleapis.com"
UNLIMITED = -1
"""As Cloud Quotas says it: https://cloud.google.com/docs/quotas/reference/rest/v1/QuotaConfig"""
EVERYWHERE = "global"
"""The location of a quota that is not per region."""

DUAL_REGIONS = {
    "asia1": ("asia-northeast1", "asia-northeast2"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "nam4": ("us-central1", "us-east1"),
}
MULTI_REGIONS = {"asia": "asia-", "eu": "europe-", "us": "us-"}
"""The regions that a bucket of several lies in; of a multi-region, how their names begin:
https://cloud.google.com/storage/docs/locations"""


@dataclass(frozen=True)
class BucketLocation:
    """Where a bucket is.

    Attributes:
        name: `europe-west4`, `eur4` or `eu`.
        regions: The two that its owner has paired, if it was made so.
    """

    name: str
    regions: tuple[str, ...] = ()

    def holds(self, region: str) -> bool:
        """Whether the bucket's objects lie in that region, or in a multi-region that it is in."""
        if self.regions:
            return region in self.regions
        if self.name in DUAL_REGIONS:
            return region in DUAL_REGIONS[self.name]
        if self.name in MULTI_REGIONS:
            return region.startswith(MULTI_REGIONS[self.name])
        return region == self.name

    def __str__(self) -> str:
        regions = self.regions or DUAL_REGIONS.get(self.name, ())
        return f"{self.name} ({', '.join(regions)})" if regions else self.name


class GoogleProject:
    """A project, as the account that is logged in may see it.

    Raises:
        UsageError: Nobody is logged in, or the project is unknown.
        GauntletError: A service cannot be reached, or refuses.
    """

    def __init__(self, place: VertexLocation) -> None:
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

    def bucket_location(self, bucket: str) -> BucketLocation:
        """Where a bucket is.

        Raises:
            UsageError: There is no such bucket, or it may not be seen.
        """
        from google.api_core.exceptions import Forbidden, NotFound
        from google.cloud import storage

        with explained("storage.googleapis.com"):
            try:
                client = storage.Client(project=self._place.project)
                found = client.get_bucket(bucket, timeout=10)
                regions = found.data_locations or ()
                return BucketLocation(found.location.lower(), tuple(region.lower() for region in regions))
            except (Forbidden, NotFound):
                raise UsageError(
                    f"gs://{bucket}: there is no such bucket, or this account may not see it. Make it by "
                    f"`gcloud storage buckets create gs://{bucket} --location={self._place.region}`."
                ) from None

    def quota_limits(self, metrics: Collection[str]) -> dict[str, float]:
        """How much of each quota the project has in the region: `inf` is unlimited.

        Quotas that the service says nothing of, or that this account may not see, are left out.
        """
        limits: dict[str, float] = {}
        from google.api_core.exceptions import Forbidden

        with explained("cloudquotas.googleapis.com"):
            from google.cloud import cloudquotas_v1

            service: Any = cloudquotas_v1.CloudQuotasClient()
            parent = f"projects/{self._place.project}/locations/global/services/{QUOTA_SERVICE}"
            try:
                for info in ask(service.list_quota_infos, parent=parent):
                    limit = self._limit_here(info) if info.metric in metrics else None
                    if limit is not None:
                        limits[info.metric] = min(limit, limits.get(info.metric, math.inf))
            except Forbidden:
                return {}
        return limits

    def _limit_here(self, info: Any) -> float | None:
        for dimensions in info.dimensions_infos:
            if {self._place.region, EVERYWHERE}.intersection(dimensions.applicable_locations):
                value = int(dimensions.details.value)
                return math.inf if value == UNLIMITED else value
        return None
