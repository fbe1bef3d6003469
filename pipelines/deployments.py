"""What the commands do with a model that is deployed: roll out, and roll back alias and traffic together."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path

from gauntlet.backends.deployment import Deployment
from gauntlet.backends.factory import open_deployment, open_registry
from gauntlet.backends.registry import (
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    Registry,
    with_alias,
    with_number,
)
from gauntlet.backends.rollouts import open_records
from gauntlet.components.deploy_model.rollout import roll_back
from gauntlet.components.deploy_model.run import deploy, release_of
from gauntlet.contracts.rollout import ENDED, DeploymentRecord, Rollout
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest

MANIFEST_ENDINGS = (".yaml", ".yml", ".json")


def deploy_version(
    registry_uri: str, what: str, version: str | None, again: bool, say: Callable[[str], None]
) -> Rollout:
    """Roll out a version, by default the champion, of a manifest or of a model that was deployed before.

    Raises:
        UsageError: There is no such version, or nothing says to which target.
        GauntletError: As `Engine.deploy`.
    """
    settings: DeploymentSection | None
    if what.endswith(MANIFEST_ENDINGS):
        manifest = load_manifest(Path(what))
        name, settings = manifest.name, manifest.deployment
    else:
        name, settings = what, settings_of(open_records(what, registry_uri).read()[0])
    if settings is None or settings.target == "none":
        raise UsageError(
            f"{what}: nothing says where to deploy it. Give its manifest the section `deployment` with a "
            "target, and name the manifest: `gauntlet deploy MANIFEST`."
        )
    registry = open_registry(registry_uri)
    versions = registry.versions(name)
    found = with_alias(versions, CHAMPION) if version is None else with_number(name, versions, version)
    if found is None:
        raise UsageError(f"{name}: has no champion. Promote a version first, or add --version.")
    rollout = deploy(registry, registry_uri, found, settings, again)
    champion = registry.champion(name)
    if champion is not None and champion.version != found.version:
        say(
            f"{name}: the champion is still version {champion.version}. To move the alias too: "
            f"`gauntlet promote {name} --version {found.version}`"
        )
    return rollout


def settings_of(record: DeploymentRecord | None) -> DeploymentSection | None:
    """The section that a model was last deployed with; None if it never was."""
    return DeploymentSection.model_validate(record.settings) if record and record.settings else None


def rollback(
    registry: Registry,
    registry_uri: str,
    name: str,
    version: str | None,
    by: str | None,
    reason: str | None,
    say: Callable[[str], None],
) -> None:
    """Move alias and traffic back; only the alias of a model that is not deployed.

    The traffic is moved first. It needs no record of a rollout if `version` is given or the registry has a
    champion before this one.

    Raises:
        UsageError: There is no version to go back to, or the model is not deployed and has no place for a
            name and a reason.
        GauntletError: One of the two could not be moved; what was moved is said before.
    """
    records = open_records(name, registry_uri)
    record: DeploymentRecord | None = None
    settings: DeploymentSection | None = DeploymentSection(target="local")  # served without a manifest
    try:
        record, _ = records.read()
        settings = settings_of(record)
    except GauntletError as error:
        say(f"warning: {error}")
    if settings is None or settings.target == "none":
        if by is not None or reason is not None:
            raise UsageError(
                f"--by, --reason: {name} is not deployed, and they are recorded with a deployment. Leave "
                "them out."
            )
        say(str(registry.rollback(name, version)))
        return
    versions = registry.versions(name)
    deployment = open_deployment(
        settings.target, name, registry_uri, settings.model_dump(mode="json", exclude_none=True)
    )
    target = _target(name, versions, version, record, deployment)
    reason = (reason or "no reason given").strip()
    done = roll_back(deployment, records, release_of(target), (by or getpass.getuser()).strip(), reason)
    for warning in done.warnings:
        say(f"warning: {warning}")
    say(f"{name} {target.version} has all requests since {done.since[:19]} UTC")
    champion = with_alias(versions, CHAMPION)
    if champion is not None and champion.version != target.version:
        say(str(registry.rollback(name, target.version)))


def _target(
    name: str,
    versions: list[ModelVersion],
    asked: str | None,
    record: DeploymentRecord | None,
    deployment: Deployment,
) -> ModelVersion:
    """The version that gets the requests back.

    That is the one before the rollout that is going on or was the last, else the champion before this one.
    """
    if asked is not None:
        return with_number(name, versions, asked)
    rollout = record.rollout if record else None
    if rollout is not None and rollout.previous_version:
        serves = rollout.phase == "done" and _serves(deployment, rollout.version)
        if serves or rollout.phase not in ENDED:
            return with_number(name, versions, rollout.previous_version)
    previous = with_alias(versions, PREVIOUS)
    if previous is None or (rollout is not None and rollout.phase == "rolled back"):
        raise UsageError(
            f"{name}: nothing says which version to go back to: {_serving(deployment)}. Name it: "
            f"`gauntlet rollback {name} --to VERSION`; `gauntlet registry {name}` lists them."
        )
    return previous


def _serves(deployment: Deployment, version: str) -> bool:
    """Whether a version has requests."""
    service = deployment.service()
    return service is not None and any(one.version == version and one.weight for one in service.revisions)


def _serving(deployment: Deployment) -> str:
    service = deployment.service()
    shown = [
        f"version {one.version} has {one.weight} %"
        for one in (service.revisions if service else ())
        if one.weight
    ]
    return ", ".join(shown) or "no version has requests"
