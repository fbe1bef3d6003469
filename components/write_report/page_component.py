"""write-report on Kubeflow: the last step of a run, which is given what the page shows.

An exit handler learns neither where KFP keeps the outputs of a run nor, reliably, how the run ended. A run
that fails before its gate has no page.
"""

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def write_report(
    name: str,
    task: str,
    manifest_sha256: str,
    run_id: str,
    report: dsl.Output[dsl.HTML],
    sources: dsl.Input[dsl.Artifact],
    checks: dsl.Input[dsl.Artifact],
    splits: dsl.Input[dsl.Dataset],
    history: dsl.Input[dsl.Artifact],
    candidates: dsl.Input[dsl.Artifact],
    bundle: dsl.Input[dsl.Model],
    scores: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    version: dsl.Input[dsl.Artifact] = None,
) -> None:
    """Write the whole run as one self-contained page, from the outputs of its steps."""
    from pathlib import Path

    from gauntlet.components.step import step

    with step(report.path):
        from gauntlet.components.write_report.collect import Artifact, collect_artifacts
        from gauntlet.components.write_report.report import write_page
        from gauntlet.manifests.kinds import task_kind

        converter = "convert-to-onnx" if task_kind(task).is_converted else "train-model"
        given = [
            ("fingerprint-data", "sources", sources),
            ("validate-data", "checks", checks),
            ("validate-data", "splits", splits),
            ("train-model", "history", history),
            (converter, "candidates", candidates),
            (converter, "bundle", bundle),
            ("evaluate-model", "scores", scores),
            ("gate-model", "verdict", verdict),
            ("register-model", "version", version),
        ]
        artifacts: dict[str, dict[str, Artifact]] = {}
        for producer, output, artifact in given:
            if artifact is not None:
                artifacts.setdefault(producer, {})[output] = Artifact(artifact.path, artifact.uri)
        run = collect_artifacts(artifacts, run_id, task)
        print(write_page(run, name, run_id, manifest_sha256, Path(report.path)).headline, flush=True)
