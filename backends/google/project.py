"""What a job needs before it is submitted: permissions, roles, a bucket, quotas, pushed container images."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from gauntlet.backends.google.calls import ask, explained
from gauntlet.backends.google.location import VertexLocation
from gauntlet.backends.google.rest import Refused, Rest
from gauntlet.manifests.errors import UsageError

QUOTA_SERVICE = "aiplatform.googleapis.com"
UNLIMITED = -1
"""The value for no limit: https://cloud.google.com/docs/quotas/reference/rest/v1/QuotaConfig"""
EVERYWHERE = "global"
"""The location of a quota that is not per region."""

PROJECTS_HOST = "cloudresourcemanager.googleapis.com"
IMAGES_API = "https://artifactregistry.googleapis.com/v1"
IMAGE = re.compile(
    r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[a-z0-9-]+)/(?P<repository>[a-z0-9-]+)"
    r"/(?P<image>.+@sha256:[0-9a-f]{64})"
)
"""A container image in Artifact Registry, by digest."""

DUAL_REGIONS = {
    "asia1": ("asia-northeast1", "asia-northeast2"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "nam4": ("us-central1", "us-east1"),
}
MULTI_REGIONS = {"asia": "asia-", "eu": "europe-", "us": "us-"}
"""The regions of a bucket with several; for a multi-region, the prefix of their names:
https://cloud.google.com/storage/docs/locations"""


@dataclass(frozen=True)
class BucketLocation:
    """Where a bucket is.

    Attributes:
        name: A region, a dual-region or a multi-region, such as `europe-west4`, `eur4` or `eu`.
        regions: The two regions of a dual-region that the bucket's owner configured.
    """

    name: str
    regions: tuple[str, ...] = ()

    def holds(self, region: str) -> bool:
        """Whether the bucket is in that region, or in a dual-region or multi-region with it."""
        if regions := self.regions or DUAL_REGIONS.get(self.name):
            return region in regions
        if self.name in MULTI_REGIONS:
            return region.startswith(MULTI_REGIONS[self.name])
        return region == self.name

    def __str__(self) -> str:
        regions = self.regions or DUAL_REGIONS.get(self.name, ())
        return f"{self.name} ({', '.join(regions)})" if regions else self.name


class GoogleProject:
    """A project, as far as the account that is logged in may see it.

    Raises:
        UsageError: Nobody is logged in, or the project or the bucket is unknown or may not be seen.
        GauntletError: A service cannot be reached, or refuses.
    """

    def __init__(self, location: VertexLocation) -> None:
        self._location = location
        with explained(PROJECTS_HOST):
            from google.cloud import resourcemanager_v3

            self._projects: Any = resourcemanager_v3.ProjectsClient()

    def missing_permissions(self, permissions: Sequence[str]) -> tuple[str, ...]:
        """The permissions that the account lacks in the project."""
        from google.api_core.exceptions import Forbidden, NotFound

        project, asking = self._location.project, self._projects.test_iam_permissions
        with explained(PROJECTS_HOST):
            try:
                answer = ask(asking, resource=f"projects/{project}", permissions=list(permissions))
            except (Forbidden, NotFound):
                raise UsageError(
                    f"--project: {project}: there is no such project, or this account may not see it. "
                    "See `gcloud projects list` and `gcloud auth list`."
                ) from None
        return tuple(sorted(set(permissions) - set(answer.permissions)))

    def roles(self, service_account: str) -> frozenset[str] | None:
        """The roles of a service account in the project; None when the policy may not be read."""
        from google.api_core.exceptions import Forbidden

        member = f"serviceAccount:{service_account}"
        with explained(PROJECTS_HOST):
            try:
                policy = ask(self._projects.get_iam_policy, resource=f"projects/{self._location.project}")
            except Forbidden:
                return None
        return frozenset(binding.role for binding in policy.bindings if member in binding.members)

    def bucket_location(self, bucket: str) -> BucketLocation:
        """Where a bucket is."""
        from google.api_core.exceptions import Forbidden, NotFound
        from google.cloud import storage

        with explained("storage.googleapis.com"):
            try:
                client = storage.Client(project=self._location.project)
                found = client.get_bucket(bucket, timeout=10)
                regions = found.data_locations or ()
                return BucketLocation(found.location.lower(), tuple(region.lower() for region in regions))
            except (Forbidden, NotFound):
                raise UsageError(
                    f"gs://{bucket}: there is no such bucket, or this account may not see it. Create it by "
                    f"`gcloud storage buckets create gs://{bucket} --location={self._location.region}`."
                ) from None

    def quota_limits(self, metrics: Collection[str]) -> dict[str, float]:
        """The project's limit for each quota metric in the region; `inf` is no limit.

        Metrics that the service does not list, or that this account may not see, are left out.
        """
        from google.api_core.exceptions import Forbidden

        limits: dict[str, float] = {}
        with explained("cloudquotas.googleapis.com"):
            from google.cloud import cloudquotas_v1

            service: Any = cloudquotas_v1.CloudQuotasClient()
            parent = f"projects/{self._location.project}/locations/global/services/{QUOTA_SERVICE}"
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
            if {self._location.region, EVERYWHERE}.intersection(dimensions.applicable_locations):
                value = int(dimensions.details.value)
                return math.inf if value == UNLIMITED else value
        return None


def is_pushed(image: str) -> bool | None:
    """Whether a container image is in its repository; None when that is unknown, as for other registries.

    https://cloud.google.com/artifact-registry/docs/reference/rest/v1/projects.locations.repositories.dockerImages
    """
    found = IMAGE.fullmatch(image)
    if found is None:
        return None
    repository = f"projects/{found['project']}/locations/{found['region']}/repositories/{found['repository']}"
    try:
        Rest().get(f"{IMAGES_API}/{repository}/dockerImages/{quote(found['image'], safe='@:')}")
    except Refused as refusal:
        return False if refusal.status == 404 else None
    return True
