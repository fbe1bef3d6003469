"""The KFP face of check-services, which `gauntlet submit` does before a run on Vertex AI."""

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def check_services(
    name: str, registry_uri: str, tracking_uri: str, checked: dsl.Output[dsl.Markdown]
) -> None:
    """Ask the registry and the tracking server before training is paid for."""
    from pathlib import Path

    from gauntlet.components.step import step

    with step(checked.path):
        from gauntlet.components.check_services.run import run

        run(name, registry_uri, tracking_uri, Path(checked.path))
