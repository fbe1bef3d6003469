"""gate-model as a KFP component. Its output `Output` is the plain word that the pipeline branches on."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def gate_model(
    gates: dict[str, Any],
    task: str,
    scores: dsl.Input[dsl.Artifact],
    candidates: dsl.Input[dsl.Artifact],
    history: dsl.Input[dsl.Artifact],
    bundle: dsl.Input[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
) -> str:
    """Judge every rule of the section `gates`: `promote` or `reject`."""
    from gauntlet.components.step import step

    with step(verdict.path):
        from pathlib import Path

        from gauntlet.components.gate_model.run import gate
        from gauntlet.components.sections import given
        from gauntlet.manifests.schema import section_of

        result = gate(
            task=task,
            gates=section_of(task, "gates", given(gates)),
            scores=Path(scores.path),
            candidates=Path(candidates.path),
            history=Path(history.path),
            bundle=Path(bundle.path),
            verdict=Path(verdict.path),
            table=Path(table.path),
        )
    return result.decision
