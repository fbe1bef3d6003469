import os
from pathlib import Path

import pytest
from kfp import dsl, local

import gauntlet
from gauntlet.components.write_report.component import write_report


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def validate_data(message: str, splits: dsl.Output[dsl.Dataset]):
    from gauntlet.components.step import step
    from gauntlet.manifests.errors import DataError

    with step(splits.path):
        if message:
            raise DataError(message)


@dsl.pipeline(name="refusing")
def refusing(message: str):
    report = write_report(
        name="emotion",
        task="text_classification",
        manifest_sha256="a" * 64,
        run_id="run-17",
        pipeline_root=dsl.PIPELINE_ROOT_PLACEHOLDER,
        job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    )
    with dsl.ExitHandler(report):
        validate_data(message=message)


@pytest.mark.parametrize(
    ("message", "headline"),
    [
        ("emotion.csv: 2 checks failed", "Data refused by validate-data"),
        ("", "Failed in train-model"),  # the pipeline of this test has none: it left no trace
    ],
)
def test_the_exit_handler_reports_on_the_steps_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, headline: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(gauntlet.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"), raise_on_error=False
    )

    refusing(message=message)

    (report,) = tmp_path.glob("runs/*/write-report/report")
    page = report.read_text(encoding="utf-8")
    assert f"<h1>{headline}</h1>" in page
    assert message in page and "run-17" in page
