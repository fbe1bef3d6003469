"""evaluate-model as a KFP component."""

from typing import Any

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def evaluate_model(
    evaluation: dict[str, Any],
    name: str,
    task: str,
    seed: int,
    registry_uri: str,
    bundle: dsl.Input[dsl.Model],
    splits: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Artifact],
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score the bundle and the champion of `name` on the same test rows."""
    from gauntlet.components.step import log_figures, step

    with step(scores.path):
        from pathlib import Path

        from gauntlet.components.evaluate_model import EvaluationRun
        from gauntlet.components.sections import given
        from gauntlet.manifests.kinds import task_kind
        from gauntlet.manifests.schema import section_of

        run = EvaluationRun(
            settings=section_of(task, "evaluation", given(evaluation)),
            name=name,
            seed=int(seed),
            registry_uri=registry_uri,
            bundle=Path(bundle.path),
            splits=Path(splits.path),
            scores=Path(scores.path),
            predictions=Path(predictions.path),
            report=Path(report.path),
        )
        result = task_kind(task).function("evaluation", "evaluate")(run)
        log_figures(metrics, result.headline)
        if result.confusion:
            confusion.log_confusion_matrix(*result.confusion)
