"""The KFP face of train-model for a model that was trained elsewhere."""

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def train_model(
    training: dict,
    task: str,
    seed: int,
    origin: dict,
    splits_sha256: str,
    splits: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Take a model that was trained elsewhere, and score it on the validation split."""
    from pathlib import Path

    from gauntlet.components.step import log_figures, step

    with step(checkpoint.path, f"splits {splits_sha256}"):
        from gauntlet.components.sections import given
        from gauntlet.components.train_model.imported import import_model
        from gauntlet.contracts.training import Origin
        from gauntlet.manifests.schema import section_of

        figures = import_model(
            section=section_of(task, "training", given(training)),
            task=task,
            seed=int(seed),
            origin=Origin.model_validate(origin),
            splits=Path(splits.path),
            checkpoint=Path(checkpoint.path),
            history=Path(history.path),
        )
        log_figures(metrics, figures)
