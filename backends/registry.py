"""The model registry: versions of a model, and the aliases that say which of them is which.

An alias is a name that points to one version of a model:

- `challenger`: registered last and not promoted yet.
- `staging`: the one that people may try, of a model whose manifest has promotion stages.
- `champion`: the one that serves, and that the next challenger is compared with.
- `previous`: the champion before this one; `rollback` makes it champion again.

Promoting and rolling back only move aliases; nothing is copied, and no version is ever changed or removed.

A version's bundle lies in the registry's own folder under its sha256, which is that of `bundle.json`: that
file names every other file with its sha256, so it stands for the whole content, figures and lineage
included. Converting a model twice makes two bundles, because their timings differ; registering one bundle
twice, as a step that runs again does, makes one version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
STAGING = "staging"

BUNDLE_TAG = "bundle_sha256"
RUN_TAG = "run_id"
EVIDENCE_TAG = "evidence_sha256"
"""On a version that has evidence, which a model with promotion stages is promoted by."""
APPROVED_BY_TAG = "approved_by"
APPROVED_AT_TAG = "approved_at"
ANY_CHAMPION = "any"
PROMOTED_TAG = "promoted_at"
"""On a version that has been champion; ISO 8601, UTC, of the first time."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model. `created` is in UTC; `bundle_uri` is what `serving.bundle.Bundle` opens."""

    name: str
    version: str
    bundle_uri: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: datetime


@dataclass(frozen=True)
class Move:
    """What promoting or rolling back came to. Not `moved`: the champion was already the one asked for."""

    champion: ModelVersion
    previous: ModelVersion | None
    moved: bool

    def __str__(self) -> str:
        now = f"{self.champion.name} {self.champion.version}"
        if not self.moved:
            return f"{now} is already champion: nothing to move"
        return f"{now} is champion" + (f", {self.previous.version} is previous" if self.previous else "")


class Registry(Protocol):
    """Where models are registered. What fails for a user's reason raises a GauntletError that says it."""

    def register(
        self, name: str, bundle: Path, tags: Mapping[str, str], evidence: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        """Copy a bundle into the registry and make it a version of `name`, with what it proved, as JSON.

        The new version becomes `challenger`. The same bundle with the same `run_id` tag is the same version:
        it is returned, and stays what it is if it has ever been champion.
        """

    def champion(self, name: str) -> ModelVersion | None:
        """The version that serves; none when no version of `name` has been promoted."""

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points to, or none."""

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, newest first. An unknown name is a UsageError."""

    def names(self) -> list[str]:
        """The names of all models, sorted."""

    def evidence(self, version: ModelVersion) -> dict[str, Any] | None:
        """What the version proved, unaltered; none was recorded."""

    def stage(self, name: str, version: str) -> ModelVersion:
        """Point the alias `staging` to a version."""

    def promote(
        self,
        name: str,
        version: str | None = None,
        compared_with: str | None = ANY_CHAMPION,
        approver: str | None = None,
    ) -> Move:
        """Make `version`, or else the challenger, the champion; the old champion becomes `previous`.

        `compared_with` is the champion's version that the new one was found no worse than, None for none:
        with another champion by now nothing is moved, which is a GauntletError. `approver` is recorded on the
        version, with the time.
        """

    def rollback(self, name: str) -> Move:
        """Swap `champion` and `previous`, so that a second rollback undoes the first."""


def open_registry(registry_uri: str) -> Registry:
    """The registry that a URI names. Nothing is made or read yet.

    Raises:
        UsageError: The URI is of a kind that is not supported.
    """
    from backends.mlflow_database import database_path
    from backends.mlflow_registry import MlflowRegistry

    return MlflowRegistry(database_path(registry_uri, "registry URI"))
