"""The KFP face of write-report: the DAG's exit handler, which runs whatever happened."""

from kfp import dsl

from gauntlet.components.container_images import COMPONENTS_IMAGE


@dsl.component(base_image=COMPONENTS_IMAGE, install_kfp_package=False)
def write_report(
    name: str,
    task: str,
    manifest_sha256: str,
    run_id: str,
    pipeline_root: str,
    job: str,
    status: dsl.PipelineTaskFinalStatus,
    report: dsl.Output[dsl.HTML],
) -> None:
    """Write the whole run as one self-contained page, from what its steps left under `pipeline_root`."""
    from pathlib import Path

    from gauntlet.components.step import step

    with step(report.path):
        from gauntlet.components.write_report.collect import collect
        from gauntlet.components.write_report.record import FinalStatus
        from gauntlet.components.write_report.report import write_page

        run = collect(pipeline_root, job, task, FinalStatus(status.state, status.error_message))
        print(write_page(run, name, run_id, manifest_sha256, Path(report.path)).headline, flush=True)
