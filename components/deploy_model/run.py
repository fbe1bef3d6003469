"""deploy-model: gives a registered version the requests by the manifest's section `deployment`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gauntlet.backends.deployment import Release
from gauntlet.backends.factory import bundle_folder, open_deployment, open_registry
from gauntlet.backends.registry import BUNDLE_TAG, CHAMPION, ModelVersion, Registry, with_number
from gauntlet.backends.rollouts import open_records
from gauntlet.components.deploy_model.golden import Golden, read_golden
from gauntlet.components.deploy_model.rollout import Engine
from gauntlet.contracts.rollout import Rollout
from gauntlet.contracts.verdict import Version
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import UsageError


def run(
    section: Mapping[str, Any], name: str, registry_uri: str, version_path: str, rollout_path: str
) -> None:
    """Deploy the version that register-model made champion, and write how the rollout ended.

    A version that waits for a person is not deployed: `gauntlet deploy` does that once it is promoted.

    Raises:
        RejectedError: The version was rolled back.
        GauntletError: As `Engine.deploy`.
    """
    registered = Version.read(version_path)
    registry = open_registry(registry_uri)
    version = with_number(name, registry.versions(name), registered.version)
    if CHAMPION not in version.aliases:
        why = f"version {version.version} is not the champion: promote it, then run `gauntlet deploy {name}`"
        print(why, flush=True)
        waiting = Rollout(
            version=version.version,
            bundle_uri=version.bundle_uri,
            bundle_sha256=registered.bundle_sha256,
            started="",
            phase="held",
            why=why,
        )
        waiting.write(rollout_path)
        return
    settings = DeploymentSection.model_validate(section)
    deploy(registry, registry_uri, version, settings).write(rollout_path)


def deploy(
    registry: Registry,
    registry_uri: str,
    version: ModelVersion,
    settings: DeploymentSection,
    again: bool = False,
    at_once: bool = False,
) -> Rollout:
    """Roll a version out to the target of `settings`; arguments and errors are those of `Engine.deploy`."""
    content = settings.model_dump(mode="json", exclude_none=True)
    deployment = open_deployment(settings.target, version.name, registry_uri, content)

    def golden() -> Golden:
        with bundle_folder(version) as folder:
            return read_golden(folder, version.tags[BUNDLE_TAG])

    def demote() -> None:
        champion = registry.champion(version.name)
        if champion is not None and champion.version == version.version:
            with suppress(UsageError):  # there was no champion before it
                print(registry.rollback(version.name), flush=True)

    engine = Engine(
        deployment,
        open_records(version.name, registry_uri),
        settings,
        golden,
        demote=demote,
        say=lambda text: print(text, flush=True),
    )
    return engine.deploy(release_of(version), again, at_once)


def release_of(version: ModelVersion) -> Release:
    """What a target is given of a registered version."""
    return Release(version.name, version.version, version.bundle_uri, version.tags[BUNDLE_TAG])
