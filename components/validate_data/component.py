"""The KFP face of validate-data."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def validate_data(
    dataset: dict[str, Any],
    task: str,
    data_fingerprint: str,
    splits: dsl.Output[dsl.Dataset],
    checks: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    rejected: dsl.Output[dsl.Artifact],
) -> None:
    """Check the dataset, and write its three splits when every check passes.

    `rejected` is a folder with `rejected.csv`, every row that a check found fault with.
    """
    from gauntlet.components.step import step

    with step(splits.path, data_fingerprint):
        from pathlib import Path

        from gauntlet.components.sections import given
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
