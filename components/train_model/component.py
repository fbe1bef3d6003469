"""The KFP face of train-model."""

from kfp import dsl

from gauntlet.components.container_images import TRAINER_IMAGE


@dsl.component(base_image=TRAINER_IMAGE, install_kfp_package=False)
def train_model(
    training: dict,
    name: str,
    task: str,
    seed: int,
    tracking_uri: str,
    splits_sha256: str,
    splits: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
    curves: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train on the validated splits; keep the best epoch's weights and the history of all epochs."""
    from pathlib import Path

    from gauntlet.components.step import log_figures, step

    with step(checkpoint.path, f"splits {splits_sha256}"):
        from gauntlet.trainer.process import settle_process

        settle_process()

        from gauntlet.components.sections import given
        from gauntlet.components.train_model.run import run
        from gauntlet.manifests.schema import section_of
        from gauntlet.trainer.run import TrainingRun

        training_run = TrainingRun(
            section=section_of(task, "training", given(training)),
            name=name,
            task=task,
            seed=int(seed),  # a Struct's numbers are floats
            splits=Path(splits.path),
            checkpoint=Path(checkpoint.path),
            tracking_uri=tracking_uri,
        )
        log_figures(metrics, run(training_run, Path(history.path), Path(curves.path)))
