"""detect-drift as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def detect_drift(
    monitoring: dict[str, Any],
    registry_uri: str,
    max_cost_usd: float,
    window: dsl.Input[dsl.Artifact],
    drift: dsl.Output[dsl.Artifact],
) -> None:
    """Say what has changed in the window and whether that harms, decide, and list the rows to label."""
    from gauntlet.components.step import step

    with step(drift.path):
        from pathlib import Path

        from gauntlet.components.detect_drift.judged import run
        from gauntlet.components.sections import given
        from gauntlet.manifests.monitoring import Monitoring

        section = Monitoring.model_validate(given(monitoring))
        run(section, registry_uri, max_cost_usd, Path(window.path), Path(drift.path))
