"""From a manifest to the KFP pipeline spec (IR) that Vertex, Kubeflow and the local runner execute."""

from __future__ import annotations

import warnings
from pathlib import Path

from kfp import compiler

from gauntlet.components.images import COMPONENTS_IMAGE
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.platforms import Platform
from gauntlet.pipelines.training import training_pipeline


def compiled_file(manifest_file: Path, platform: Platform, folder: Path = Path("compiled")) -> Path:
    """Where the committed spec of a manifest is, or its place in another folder than `compiled`."""
    return (folder if platform == "vertex" else folder / platform) / f"{manifest_file.stem}.yaml"


def compile_manifest(
    manifest: Manifest,
    path: Path,
    platform: Platform,
    image: str = COMPONENTS_IMAGE,
    sections: str | None = None,
) -> None:
    """Write the manifest's training DAG as YAML, atomically. `image` is recorded in the lineage of bundles.

    `sections` is the folder for sections that are too large for a parameter; the spec names files there.

    Raises:
        UsageError: The platform cannot run it; all reasons are named. Or a section is too large, and
            `sections` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.yaml")  # the compiler requires the suffix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = training_pipeline(manifest, image, platform, sections)
        if platform == "vertex":
            from gauntlet.pipelines.vertex.lint import require_acceptable

            require_acceptable(pipeline.pipeline_spec)
        compiler.Compiler().compile(pipeline, str(temporary))
    # The compiler's comment lists struct defaults in an order that differs from process to process.
    lines = temporary.read_text(encoding="utf-8").splitlines(keepends=True)
    temporary.write_text("".join(line for line in lines if not line.startswith("#")), encoding="utf-8")
    temporary.replace(path)
