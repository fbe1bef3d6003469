from __future__ import annotations

from pathlib import Path

from rich.console import Console

from gauntlet.pipelines.live import RunView

# As kfp.local 2.17.0 prints it, colours included.
OUTPUT = [
    "10:00:00.000 - INFO - Running pipeline: \x1b[95m'emotion'\x1b[0m\n",
    "-" * 80 + "\n",
    "10:00:00.100 - INFO - Executing task \x1b[96m'validate-data'\x1b[0m\n",
    "10:00:00.100 - INFO - Streamed logs:\n",
    "    [KFP Executor 2026-11-21 10:00:00,200 INFO]: Looking for component\n",
    '    "batch_sizes": [\n',
    "    32.0\n",
    "    1,032 rows read\n",
    "    10:00:00.100 - INFO - Executing task 'forged-by-a-log-line'\n",
    "10:00:02.000 - INFO - Task \x1b[96m'validate-data'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m\n",
    "10:00:02.100 - INFO - Executing task \x1b[96m'train-model'\x1b[0m\n",
    "    epoch 1/4  step 3/46\n",
]


def fed(folder: Path, *more: str) -> RunView:
    view = RunView(("validate-data", "train-model", "convert-to-onnx"), folder)
    for line in [*OUTPUT, *more]:
        view.feed(line)
    return view


def states(view: RunView) -> list[str]:
    return [step.state for step in view.steps.values()]


def test_what_kfp_prints_becomes_states(tmp_path: Path) -> None:
    view = fed(tmp_path)
    assert states(view) == ["succeeded", "running", "waiting"]
    assert list(view.steps) == ["validate-data", "train-model", "convert-to-onnx"]
    assert view.running is not None
    assert view.running.line == "epoch 1/4  step 3/46"


def test_the_input_that_kfp_echoes_is_not_taken_for_progress(tmp_path: Path) -> None:
    view = RunView(("validate-data",), tmp_path)
    for line in OUTPUT[:7]:
        view.feed(line)
    assert view.running is not None
    assert view.running.line == ""


def test_each_step_has_a_log_of_its_own_readable_while_it_runs(tmp_path: Path) -> None:
    fed(tmp_path)
    assert "1,032 rows read\n" in (tmp_path / "validate-data.log").read_text()
    assert "epoch 1/4" not in (tmp_path / "validate-data.log").read_text()
    assert "epoch 1/4  step 3/46\n" in (tmp_path / "train-model.log").read_text()


def test_a_step_that_never_reports_its_end_has_failed_and_the_rest_was_skipped(tmp_path: Path) -> None:
    view = fed(tmp_path)
    view.close()
    assert states(view) == ["succeeded", "failed", "skipped"]


def test_a_failure_is_seen(tmp_path: Path) -> None:
    view = fed(
        tmp_path, "10:00:09.000 - ERROR - Task \x1b[96m'train-model'\x1b[0m finished with status FAILURE\n"
    )
    assert states(view)[1] == "failed"


def test_the_view_shows_a_row_per_step_and_the_running_ones_latest_line(tmp_path: Path) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(fed(tmp_path))
    rows = captured.get().splitlines()
    assert len(rows) == 3
    assert "✓" in rows[0]
    assert "train-model" in rows[1]
    assert "step 3/46" in rows[1]
