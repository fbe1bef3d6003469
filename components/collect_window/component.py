"""collect-window as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def collect_window(
    monitoring: dict[str, Any],
    name: str,
    registry_uri: str,
    scheduled: str,
    window: dsl.Output[dsl.Artifact],
) -> None:
    """Collect the last whole window before the scheduled time from the request log, and its labels."""
    from gauntlet.components.step import step

    with step(window.path):
        from pathlib import Path

        from gauntlet.components.collect_window.run import run, scheduled_time
        from gauntlet.components.sections import given
        from gauntlet.manifests.monitoring import Monitoring

        section, folder = Monitoring.model_validate(given(monitoring)), Path(window.path)
        folder.mkdir(parents=True, exist_ok=True)
        run(name, section, registry_uri, scheduled_time(scheduled), folder)
