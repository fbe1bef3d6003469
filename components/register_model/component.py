"""register-model as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def register_model(
    registration: dict[str, Any],
    name: str,
    registry_uri: str,
    manifest_sha256: str,
    run_id: str,
    bundle: dsl.Input[dsl.Model],
    scores: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    version: dsl.Output[dsl.Artifact],
) -> None:
    """Register the bundle as a version of `name` and, if the manifest says so, make it champion."""
    from gauntlet.components.step import step

    with step(version.path):
        from gauntlet.components.register_model.run import run
        from gauntlet.components.sections import given

        run(
            section=given(registration),
            name=name,
            registry_uri=registry_uri,
            manifest_sha256=manifest_sha256,
            run_id=run_id,
            bundle_path=bundle.path,
            scores_path=scores.path,
            verdict_path=verdict.path,
            version_path=version.path,
        )
