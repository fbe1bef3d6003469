"""What Gauntlet needs of a Google Cloud project, as `needs.yaml` beside this file says it."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

SUBMITTER = "submitter"
PROJECT = "project"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Repository(_Frozen):
    """A repository of Artifact Registry."""

    id: str
    format: str


class Account(_Frozen):
    """A service account."""

    id: str
    purpose: str


class Grant(_Frozen):
    """What somebody needs to be allowed to do.

    Attributes:
        who: The name of an account, or `submitter`.
        target: `project`, or the name of a bucket, a repository or an account.
        role: What Terraform grants; none: a role made of the permissions.
        permissions: What of it is used.
    """

    who: str
    target: str
    role: str | None = None
    permissions: tuple[str, ...]


class Needs(_Frozen):
    """The whole file."""

    apis: dict[str, str]
    buckets: dict[str, str]
    repositories: dict[str, Repository]
    accounts: dict[str, Account]
    grants: tuple[Grant, ...]

    def bucket(self, name: str, project: str) -> str:
        """A bucket's real name."""
        return self.buckets[name].replace("PROJECT", project)

    def email(self, account: str, project: str) -> str:
        """A service account's address."""
        return f"{self.accounts[account].id}@{project}.iam.gserviceaccount.com"


@cache
def needs() -> Needs:
    """The file that belongs to this version."""
    text = resources.files(__package__).joinpath("needs.yaml").read_text(encoding="utf-8")
    return Needs.model_validate(yaml.safe_load(text))
