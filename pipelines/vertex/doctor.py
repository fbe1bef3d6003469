"""`gauntlet doctor`: what a Google Cloud project lacks of `needs.yaml`, and the command that adds it.

With a manifest: what its deployment target needs, of the project and of the registry URI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict

from gauntlet.backends.factory import open_deployment
from gauntlet.backends.google.deployment import cloud_location
from gauntlet.backends.google.rest import NO_TOKEN, Refused, Rest
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import UsageError

SUBMITTER = "submitter"
PROJECT = "project"
SERVING, RELEASE = "serving", "release"
State = Literal["ok", "missing", "not seen"]

PROJECTS = "https://cloudresourcemanager.googleapis.com/v3/projects"
SERVICES = "https://serviceusage.googleapis.com/v1/projects"
VERTEX = "https://aiplatform.googleapis.com/v1/projects"
BUCKETS = "https://storage.googleapis.com/storage/v1/b"
REPOSITORIES = "https://artifactregistry.googleapis.com/v1/projects"
ACCOUNTS = "https://iam.googleapis.com/v1/projects"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Repository(_Frozen):
    """A repository of Artifact Registry."""

    id: str
    format: str


class Account(_Frozen):
    """A service account: its id in the project, or its whole address."""

    id: str
    purpose: str


class Grant(_Frozen):
    """Permissions that an account, or the `submitter`, needs.

    Attributes:
        target: `project`, or the name of a bucket, a repository or an account.
        role: The role that Terraform grants; None: a custom role with these permissions.
        permissions: The permissions of the role that are used.
    """

    who: str
    target: str
    role: str | None = None
    permissions: tuple[str, ...]


class TargetNeeds(_Frozen):
    """What a target on Google Cloud needs of who deploys to it, and of whom a version runs as, `serving`."""

    apis: tuple[str, ...]
    accounts: dict[str, Account]
    grants: tuple[Grant, ...]


class Needs(_Frozen):
    """The whole file."""

    apis: dict[str, str]
    buckets: dict[str, str]
    repositories: dict[str, Repository]
    accounts: dict[str, Account]
    grants: tuple[Grant, ...]
    deployments: dict[str, TargetNeeds]

    def of_target(self, target: str, serving: str | None, release: str | None) -> Needs:
        """What deploying to a target needs of a project.

        Args:
            serving: The address of the account that versions run as; None for the target's own default.
            release: The address of the account that pipelines run as, if those deploy too.
        """
        wanted = self.deployments[target]
        addresses = {SERVING: serving, RELEASE: release}
        accounts = {name: Account(id=id_, purpose="") for name, id_ in addresses.items() if id_}
        deploying = {SUBMITTER, *accounts} - {SERVING}
        return Needs(
            apis={api: self.apis[api] for api in wanted.apis},
            buckets={},
            repositories={},
            accounts=accounts,
            grants=tuple(
                grant
                for grant in wanted.grants
                if grant.who in deploying and grant.target in {PROJECT, *accounts}
            ),
            deployments={},
        )

    def bucket(self, name: str, project: str) -> str:
        """A bucket's real name."""
        return self.buckets[name].replace("PROJECT", project)

    def email(self, account: str, project: str) -> str:
        """A service account's address."""
        id_ = self.accounts[account].id
        return id_ if "@" in id_ else f"{id_}@{project}.iam.gserviceaccount.com"


@cache
def needs() -> Needs:
    """The file of this version."""
    text = resources.files(__package__).joinpath("needs.yaml").read_text(encoding="utf-8")
    return Needs.model_validate(yaml.safe_load(text))


@dataclass(frozen=True)
class Finding:
    """One line of the report. `not seen`: this account may not see whether the need is met."""

    group: str
    need: str
    state: State
    action: str = ""


class Examination:
    """A check of one project.

    Raises:
        UsageError: Nobody is logged in, the project is unknown, or Vertex AI has no such region.
        GauntletError: A service cannot be reached.
    """

    def __init__(self, rest: Rest, needs: Needs, project: str, region: str) -> None:
        self._rest = rest
        self._needs = needs
        self._project = project
        self._region = region
        self._resources = self._addresses()

    def findings(self) -> Iterator[Finding]:
        """All needs, in the order of the file."""
        self._require_project()
        self._require_region()
        yield from self._apis()
        there = {PROJECT}
        for name, finding in (*self._buckets(), *self._repositories(), *self._accounts()):
            yield finding
            if finding.state != "missing":
                there.add(name)
        for who in dict.fromkeys(grant.who for grant in self._needs.grants):
            if who == SUBMITTER or who in there:
                yield from self._permissions(who, there)

    def _require_project(self) -> None:
        try:
            self._rest.get(f"{PROJECTS}/{quote(self._project, safe='')}")
        except Refused as error:
            if error.reason == "SERVICE_DISABLED":
                raise UsageError(
                    f"--project: {self._project}: nothing can be checked before "
                    f"`gcloud services enable cloudresourcemanager.googleapis.com --project {self._project}`."
                ) from None
            raise UsageError(
                f"--project: {self._project}: there is no such project, or this account may not see it "
                f"({error}). Look at `gcloud projects list` and `gcloud auth list`."
            ) from None

    def _require_region(self) -> None:
        try:
            answer = self._rest.get(f"{VERTEX}/{self._project}/locations", pageSize="200")
        except Refused:
            return  # the API is not enabled yet, or this account may not use it
        regions = sorted(each["locationId"] for each in answer.get("locations", ()))
        if self._region not in regions:
            raise UsageError(f"--region: found {self._region!r}, expected one of {', '.join(regions)}.")

    def _apis(self) -> Iterator[Finding]:
        parent = f"projects/{self._project}"
        names = [f"{parent}/services/{api}" for api in self._needs.apis]
        try:
            answer = self._rest.get(f"{SERVICES}/{self._project}/services:batchGet", names=names)
        except Refused as error:
            action = f"{error}. gcloud services enable serviceusage.googleapis.com --project {self._project}"
            yield Finding("API", "all", "not seen", action)
            return
        services = answer["services"]
        enabled = {one["name"].rpartition("/")[2] for one in services if one["state"] == "ENABLED"}
        for api in self._needs.apis:
            action = f"gcloud services enable {api} --project {self._project}"
            yield _found("API", api, api in enabled, action)

    def _buckets(self) -> Iterator[tuple[str, Finding]]:
        for name in self._needs.buckets:
            bucket = self._needs.bucket(name, self._project)
            make = (
                f"gcloud storage buckets create gs://{bucket} --location {self._region} --project "
                f"{self._project} --uniform-bucket-level-access"
            )
            # Few accounts may see a bucket, but every account may ask for its own permissions on it.
            address = f"{self._resources[name]}/iam/testPermissions?permissions=storage.objects.get"
            yield name, _look(self._rest, address, "bucket", f"gs://{bucket}", make)

    def _repositories(self) -> Iterator[tuple[str, Finding]]:
        for name, repository in self._needs.repositories.items():
            make = (
                f"gcloud artifacts repositories create {repository.id} --location {self._region} "
                f"--repository-format {repository.format.lower()} --project {self._project}"
            )
            yield name, _look(self._rest, self._resources[name], "repository", repository.id, make)

    def _accounts(self) -> Iterator[tuple[str, Finding]]:
        for name, account in self._needs.accounts.items():
            email = self._needs.email(name, self._project)
            make = (
                f"gcloud iam service-accounts create {account.id.partition('@')[0]} --project {self._project}"
            )
            yield name, _look(self._rest, self._resources[name], "account", email, make)

    def _permissions(self, who: str, there: set[str]) -> Iterator[Finding]:
        """What one account may do with what exists, permission by permission."""
        email = None if who == SUBMITTER else self._needs.email(who, self._project)
        rest = self._rest if email is None else self._rest.acting_as(email)
        for grant in self._needs.grants:
            if grant.who != who or grant.target not in there:
                continue
            try:
                held = self._held(rest, grant)
            except Refused as error:
                yield Finding(f"{who} may", f"{grant.target}: all", "not seen", self._to_see(email, error))
                if error.reason == NO_TOKEN:
                    return
                continue
            for permission in grant.permissions:
                action = self._to_grant(grant, email or rest.account)
                need = f"{permission} on {grant.target}"
                yield _found(f"{who} may", need, permission in held, action)

    def _held(self, rest: Rest, grant: Grant) -> set[str]:
        address = self._resources[grant.target]
        if grant.target in self._needs.buckets:
            answer = rest.get(f"{address}/iam/testPermissions", permissions=list(grant.permissions))
        else:
            answer = rest.post(f"{address}:testIamPermissions", {"permissions": list(grant.permissions)})
        return set(answer.get("permissions", ()))

    def _to_see(self, email: str | None, error: Refused) -> str:
        if email is None or error.reason != NO_TOKEN:
            return str(error)
        return (
            f"gcloud iam service-accounts add-iam-policy-binding {email} --member user:YOU --role "
            f"roles/iam.serviceAccountTokenCreator --project {self._project}"
        )

    def _to_grant(self, grant: Grant, email: str | None) -> str:
        member = f"serviceAccount:{email}" if email else "user:YOU"
        if grant.role is None:
            return "terraform -chdir=infra apply"
        needs, project, where = self._needs, self._project, ""
        if grant.target == PROJECT:
            noun, target = "projects", project
        elif grant.target in needs.buckets:
            noun, target = "storage buckets", f"gs://{needs.bucket(grant.target, project)}"
        elif grant.target in needs.repositories:
            noun, target = "artifacts repositories", needs.repositories[grant.target].id
            where = f" --location {self._region} --project {project}"
        else:
            noun, target = "iam service-accounts", needs.email(grant.target, project)
            where = f" --project {project}"
        return f"gcloud {noun} add-iam-policy-binding {target} --member {member} --role {grant.role}{where}"

    def _addresses(self) -> dict[str, str]:
        """The URL of everything that permissions are granted on, by its name."""
        needs, project = self._needs, quote(self._project, safe="")
        location = f"{REPOSITORIES}/{project}/locations/{self._region}/repositories"
        accounts = f"{ACCOUNTS}/{project}/serviceAccounts"
        return {
            PROJECT: f"{PROJECTS}/{project}",
            **{name: f"{BUCKETS}/{needs.bucket(name, project)}" for name in needs.buckets},
            **{name: f"{location}/{each.id}" for name, each in needs.repositories.items()},
            **{name: f"{accounts}/{needs.email(name, project)}" for name in needs.accounts},
        }


def target_findings(
    name: str, registry_uri: str, settings: DeploymentSection, release: str | None
) -> Iterator[Finding]:
    """What the deployment target of a manifest needs, of the registry and of the project.

    Args:
        release: The address of the account that pipelines run as, if those deploy too.

    Raises:
        UsageError: As `Examination`, or neither the manifest nor the registry names a project.
        GauntletError: A service cannot be reached.
    """
    target, content = settings.target, settings.model_dump(mode="json", exclude_none=True)
    location = cloud_location(registry_uri, content)
    try:
        open_deployment(target, name, registry_uri, content)
    except UsageError as error:
        yield Finding("manifest", f"deployment.target {target}", "missing", str(error))
    else:
        yield Finding("manifest", f"deployment.target {target}", "ok")
    wanted = needs().of_target(target, content[target].get("service_account"), release)
    yield from Examination(Rest(), wanted, location.project, location.region).findings()


def _found(group: str, need: str, there: bool, action: str) -> Finding:
    return Finding(group, need, "ok") if there else Finding(group, need, "missing", action)


def _look(rest: Rest, address: str, group: str, need: str, make: str) -> Finding:
    try:
        rest.get(address)
    except Refused as error:
        if error.status == 404:
            return Finding(group, need, "missing", make)
        return Finding(group, need, "not seen", str(error))
    return Finding(group, need, "ok")
