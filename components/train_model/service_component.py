"""The KFP face of train-model for a kind of model that a service trains and serves."""

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def train_model(
    training: dict,
    name: str,
    task: str,
    manifest_sha256: str,
    tracking_uri: str,
    splits_sha256: str,
    splits: dsl.Input[dsl.Dataset],
    bundle: dsl.Output[dsl.Model],
    candidates: dsl.Output[dsl.Artifact],
    history: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Have a service train the model on the splits; the bundle names the endpoint that serves it."""
    from pathlib import Path

    from gauntlet.components.step import log_figures, step

    with step(bundle.path, f"splits {splits_sha256}"):
        from gauntlet.components.sections import given
        from gauntlet.manifests.kinds import task_kind
        from gauntlet.manifests.schema import section_of

        figures = task_kind(task).function("training", "train")(
            section=section_of(task, "training", given(training)),
            name=name,
            manifest_sha256=manifest_sha256,
            place_uri=tracking_uri,
            splits=Path(splits.path),
            bundle=Path(bundle.path),
            candidates=Path(candidates.path),
            history=Path(history.path),
        )
        log_figures(metrics, figures)
