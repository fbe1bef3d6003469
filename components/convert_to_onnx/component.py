"""convert-to-onnx as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def convert_to_onnx(
    conversion: dict[str, Any],
    name: str,
    seed: int,
    manifest_sha256: str,
    splits_sha256: str,
    checkpoint: dsl.Input[dsl.Model],
    splits: dsl.Input[dsl.Dataset],
    bundle: dsl.Output[dsl.Model],
    candidates: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Convert the checkpoint and bundle the fastest candidate that is as good as PyTorch."""
    from gauntlet.components.step import log_figures, step

    with step(bundle.path, f"splits {splits_sha256}"):
        from pathlib import Path

        from gauntlet.components.convert_to_onnx.run import run
        from gauntlet.components.sections import given
        from gauntlet.manifests.conversion import Conversion

        figures = run(
            section=Conversion.model_validate(given(conversion)),
            name=name,
            seed=int(seed),
            manifest_sha256=manifest_sha256,
            checkpoint_path=Path(checkpoint.path),
            splits_path=Path(splits.path),
            bundle_path=Path(bundle.path),
            candidates_path=Path(candidates.path),
        )
        log_figures(metrics, figures)
