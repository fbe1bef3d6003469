"""request-training as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def request_training(
    monitoring: dict[str, Any],
    name: str,
    registry_uri: str,
    max_hours: float,
    window: dsl.Input[dsl.Artifact],
    drift: dsl.Input[dsl.Artifact],
    request: dsl.Output[dsl.Artifact],
) -> None:
    """Record the window's outcome, and ask for a training while an episode of harm has started none."""
    from gauntlet.components.step import step

    with step(request.path):
        from pathlib import Path

        from gauntlet.components.request_training.run import run
        from gauntlet.components.sections import given
        from gauntlet.manifests.monitoring import Monitoring

        section = Monitoring.model_validate(given(monitoring))
        window_folder, drift_file = Path(window.path), Path(drift.path) / "drift.json"
        run(name, section, registry_uri, max_hours, window_folder, drift_file, Path(request.path))
