"""The KFP face of validate-data."""

from typing import Any, NamedTuple

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def validate_data(
    dataset: dict[str, Any],
    task: str,
    data_fingerprint: str,
    splits_folder: str,
    splits: dsl.Output[dsl.Dataset],
    checks: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    rejected: dsl.Output[dsl.Artifact],
) -> NamedTuple("Content", [("splits_sha256", str), ("splits_uri", str)]):  # type: ignore[valid-type]
    """Check the dataset, and write its three splits when every check passes.

    `rejected` is a folder with `rejected.csv`, every row that a check found fault with. The steps that read
    the splits are cached by `splits_sha256`, their content. `splits_uri` is a copy in `splits_folder` that is
    named by it; without such a folder it is the output `splits`.
    """
    from gauntlet.components.step import step

    with step(splits.path, f"data fingerprint {data_fingerprint}"):
        from pathlib import Path

        from gauntlet.components.sections import given
        from gauntlet.components.validate_data.content import keep, sha256_of
        from gauntlet.components.validate_data.run import run
        from gauntlet.contracts.data import REJECTED_FILE
        from gauntlet.manifests.schema import section_of

        run(
            task=task,
            section=section_of(task, "dataset", given(dataset)),
            splits_path=Path(splits.path),
            checks_path=Path(checks.path),
            report_path=Path(report.path),
            rejected_path=Path(rejected.path) / REJECTED_FILE,
            fingerprint=data_fingerprint,
        )
        sha256 = sha256_of(Path(splits.path))
        uri = keep(Path(splits.path), sha256, splits_folder) if splits_folder else splits.uri
        return (sha256, uri)
