"""What is looked at before a job is sent, so that it does not fail in an hour for what is known now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from gauntlet.backends.google.errors import QuotaError
from gauntlet.backends.google.project import GoogleProject, is_pushed
from gauntlet.backends.prices import estimate
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.terminal import plain
from gauntlet.pipelines.training import CPUS_OF_A_STEP
from gauntlet.pipelines.vertex.machines import needed_quotas
from gauntlet.pipelines.vertex.submission import Destination

PERMISSIONS = ("aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get")
MAY_USE_VERTEX = {"roles/aiplatform.user", "roles/aiplatform.admin", "roles/editor", "roles/owner"}
MAY_WRITE_OBJECTS = {"roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin"}


QUOTA = "quota"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `fault` is what to do about it; none where nothing need be done."""

    name: str
    found: str
    fault: str | None = None


def preflight(manifest: Manifest, images: Sequence[str], destination: Destination) -> list[Check]:
    """Look at everything.

    Raises:
        UsageError: The project or the bucket is unknown, or nobody is logged in.
        GauntletError: A service cannot be reached.
    """
    project = GoogleProject(destination.place)
    checks = [_permissions(project), _bucket(project, destination)]
    checks += [_image(image) for image in images]
    if destination.service_account is not None:
        checks += _roles(project, "service account", destination.service_account)
    training_account = destination.trains_as(manifest)
    if training_account is not None:
        checks += _roles(project, "training account", training_account, uses_vertex=False)
    checks += _quotas(project, manifest)
    checks.append(Check("cost at most", str(estimate(manifest.training.resources))))
    return checks


def checks_table(checks: Sequence[Check]) -> Table:
    """A row for each check."""
    table = Table("check", "verdict", "found", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.name, Text("fail", "red") if check.fault else "pass", plain(check.found))
    return table


def require_passed(checks: Sequence[Check]) -> None:
    """Refuse to go on with a fault.

    Raises:
        UsageError: All faults.
        QuotaError: Nothing is wrong but a quota.
    """
    failed = [check for check in checks if check.fault]
    if failed:
        of_quota = all(check.name == QUOTA for check in failed)
        error = QuotaError if of_quota else UsageError
        raise error("\n".join(f"{check.name}: {check.found}. {check.fault}" for check in failed))


def _permissions(project: GoogleProject) -> Check:
    missing = project.missing_permissions(PERMISSIONS)
    if not missing:
        return Check("permissions", ", ".join(PERMISSIONS))
    return Check(
        "permissions",
        f"this account lacks {', '.join(missing)}",
        "Give it the role Vertex AI User, roles/aiplatform.user.",
    )


def _bucket(project: GoogleProject, destination: Destination) -> Check:
    location, region = project.bucket_location(destination.bucket), destination.place.region
    found = f"gs://{destination.bucket} is in {location}"
    if location.holds(region):
        return Check("bucket", found)
    return Check("bucket", f"{found}, not in {region}", "Take one in that region, or --region.")


def _image(image: str) -> Check:
    there = is_pushed(image)
    if there is None:
        return Check("image", f"{image}: whether it is there cannot be seen")
    if there:
        return Check("image", image)
    return Check(
        "image", f"{image} is not in its repository", "Push it (cloudbuild.yaml), or name another digest."
    )


def _roles(project: GoogleProject, name: str, account: str, uses_vertex: bool = True) -> Iterator[Check]:
    """What an account was given. One that makes no jobs and no models need not be a Vertex AI User."""
    roles = project.roles(account)
    if roles is None:
        yield Check(name, f"{account}: not looked at, as the project's policy may not be read")
        return
    own = any(role.startswith(("projects/", "organizations/")) for role in roles)  # of unknown content
    may_use = bool(roles & MAY_USE_VERTEX) or own or not uses_vertex
    found = ", ".join(sorted(roles)) or "no roles in the project"
    fault = None if may_use else "Give it the role Vertex AI User, roles/aiplatform.user."
    yield Check(name, f"{account}: {found}", fault)
    if may_use and not own and not roles & (MAY_WRITE_OBJECTS | {"roles/editor", "roles/owner"}):
        yield Check(name, f"{account}: no role for objects; it needs one of the bucket's own")


def _quotas(project: GoogleProject, manifest: Manifest) -> Iterator[Check]:
    needed = needed_quotas(manifest.training.resources, CPUS_OF_A_STEP)
    limits = project.quota_limits(needed.keys())
    for metric, amount in needed.items():
        limit = limits.get(metric)
        if limit is None:
            yield Check(QUOTA, f"{metric}: {amount} needed; how much there is cannot be told")
            continue
        granted = "unlimited" if math.isinf(limit) else f"{limit:.0f} granted"
        action = "Ask for more on the console's page Quotas, or take another machine or region."
        yield Check(QUOTA, f"{metric}: {amount} needed, {granted}", action if limit < amount else None)
