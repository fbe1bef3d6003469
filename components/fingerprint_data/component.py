"""fingerprint-data as a KFP component. Its output `Output` is a parameter of every step that is cached."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def fingerprint_data(dataset: dict[str, Any], task: str, sources: dsl.Output[dsl.Artifact]) -> str:
    """A sha256 that changes when a file of the dataset or its section of the manifest does."""
    from gauntlet.components.step import step

    with step(sources.path):
        from pathlib import Path

        from gauntlet.components.fingerprint_data.run import run
        from gauntlet.components.sections import given
        from gauntlet.manifests.schema import section_of

        return run(task, section_of(task, "dataset", given(dataset)), Path(sources.path))
