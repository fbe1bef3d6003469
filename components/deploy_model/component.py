"""deploy-model as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def deploy_model(
    deployment: dict[str, Any],
    name: str,
    registry_uri: str,
    version: dsl.Input[dsl.Artifact],
    rollout: dsl.Output[dsl.Artifact],
) -> None:
    """Give the version the requests step by step, and roll it back if it is worse than the one before."""
    from gauntlet.components.step import step

    with step(rollout.path):
        from gauntlet.components.deploy_model.run import run
        from gauntlet.components.sections import given

        run(
            section=given(deployment),
            name=name,
            registry_uri=registry_uri,
            version_path=version.path,
            rollout_path=rollout.path,
        )
