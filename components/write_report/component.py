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
        from gauntlet.components.write_report import report as page
        from gauntlet.components.write_report.record import FinalStatus

        ended = page.write_report(
            name=name,
            task=task,
            manifest_sha256=manifest_sha256,
            run_id=run_id,
            pipeline_root=pipeline_root,
            job=job,
            final=FinalStatus(status.state, status.error_message),
            report=Path(report.path),
        )
        print(ended.headline, flush=True)
