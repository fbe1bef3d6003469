"""The last step of a run on Kubeflow, which is given the outputs of the steps before it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import finished_runs as runs

from gauntlet.components.write_report.page_component import write_report

ROOT = "minio://mlpipeline/v2/artifacts/emotion/0cf1-77"
OUTPUTS = {
    "sources": "fingerprint-data",
    "checks": "validate-data",
    "splits": "validate-data",
    "history": "train-model",
    "candidates": "convert-to-onnx",
    "bundle": "convert-to-onnx",
    "scores": "evaluate-model",
    "verdict": "gate-model",
    "version": "register-model",
}


def page(tmp_path: Path, registered: bool, task: str = runs.TASK) -> str:
    """The page of the outputs that lie under `tmp_path`, as KFP gives them to the step."""
    folder_of = runs.local(tmp_path)

    def artifact(output: str) -> SimpleNamespace:
        step = OUTPUTS[output]
        return SimpleNamespace(path=str(folder_of(step) / output), uri=f"{ROOT}/{step}/17e5/{output}")

    given = {output: artifact(output) for output in OUTPUTS if registered or output != "version"}
    report = tmp_path / "out" / "report"
    write_report.python_func(
        name="emotion",
        task=task,
        manifest_sha256="a" * 64,
        run_id="0cf1-77",
        report=SimpleNamespace(path=str(report)),
        **given,
    )
    return report.read_text(encoding="utf-8")


def test_a_promoted_run_is_called_promoted_and_says_where_its_outputs_are(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    written = page(tmp_path, registered=True)
    assert "<h1>Promoted as version 3</h1>" in written
    assert "Failed" not in written and "not reached" not in written
    assert f">{ROOT}<" in written
    assert f"{ROOT}/train-model/17e5" in written
    assert "0cf1-77" in written
    assert "taken from an earlier run" not in written  # fingerprint-data least of all, which runs every time


def test_a_rejected_run_is_called_rejected_with_the_rules_that_failed(tmp_path: Path) -> None:
    runs.rejected(runs.local(tmp_path))
    written = page(tmp_path, registered=False)
    assert "<h1>Rejected by speed-up and non-inferiority</h1>" in written
    assert "Failed in" not in written
