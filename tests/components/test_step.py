import errno
import json
import math
import os
import signal
from pathlib import Path

import pytest
from kfp import dsl
from kfp.dsl.executor import Executor

from gauntlet.components.step import log_figures, step
from gauntlet.contracts.document import read_json, write_json
from gauntlet.manifests.errors import DataError


def fail(folder: Path, error: BaseException) -> None:
    with step(str(folder / "output")):
        raise error


def test_a_users_mistake_ends_the_step_with_its_message_and_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fail(tmp_path, DataError("data.csv: found no rows"))
    assert ended.value.code == 4
    assert read_json(tmp_path / "error.json") == {"message": "data.csv: found no rows", "exit_code": 4}
    assert "data.csv: found no rows" in capsys.readouterr().err


def test_a_full_disk_is_one_message_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fail(tmp_path, OSError(errno.ENOSPC, "No space left on device", "model.onnx"))
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: model.onnx: No space left on device\n"


def test_a_full_disk_that_takes_not_even_the_error_file_still_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text(
        ""
    )  # a file where the step's folder would be: nothing can be written there
    with pytest.raises(SystemExit):
        fail(tmp_path / "file", DataError("the cause"))
    assert "error: the cause" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback_and_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path, ZeroDivisionError("by zero"))
    assert read_json(tmp_path / "error.json") == {"message": "ZeroDivisionError: by zero", "exit_code": 1}


def test_sigterm_ends_the_step_with_143_and_says_that_it_was_cancelled_or_preempted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned_up = []
    with pytest.raises(SystemExit) as ended, step(str(tmp_path / "output")):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # as code that takes any failure for one that it can handle
            pytest.fail("SIGTERM was taken for a failure of the code that it came in")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one interrupts no cleaning up
            cleaned_up.append(True)
    assert cleaned_up
    assert ended.value.code == 143
    error = read_json(tmp_path / "error.json")
    assert error["exit_code"] == 143
    assert "the step was cancelled or preempted" in error["message"]
    assert "the step was cancelled or preempted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_figures_that_are_no_numbers_are_null_in_json(tmp_path: Path) -> None:
    target = tmp_path / "history"
    write_json(target, {"epochs": ({"loss": math.nan}, {"loss": 0.5}), "speedup": {"1": math.inf}})
    assert read_json(target) == {"epochs": [{"loss": None}, {"loss": 0.5}], "speedup": {"1": None}}
    assert "NaN" not in target.read_text()


def log_what_diverged(
    metrics: dsl.Output[dsl.Metrics], confusion: dsl.Output[dsl.ClassificationMetrics]
) -> None:
    log_figures(metrics, {"perplexity": math.inf, "loss": math.nan, "rouge_l": 0.25})
    confusion.log_confusion_matrix(["calm", "glad"], [[2, 0], [1, 3]])


def test_infinity_among_the_figures_does_not_break_what_kfp_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {
        name: {
            "artifacts": [
                {"name": name, "uri": str(tmp_path / name), "metadata": {}, "type": {"schemaTitle": kind}}
            ]
        }
        for name, kind in (("metrics", "system.Metrics"), ("confusion", "system.ClassificationMetrics"))
    }
    written = tmp_path / "executor_output.json"
    Executor(
        {"inputs": {}, "outputs": {"artifacts": outputs, "outputFile": str(written)}}, log_what_diverged
    ).execute()
    content = json.loads(written.read_text(), parse_constant=lambda found: pytest.fail(f"found {found}"))
    assert content["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"rouge_l": 0.25}
    errors = capsys.readouterr().err
    assert "warning: perplexity is inf, so it is not logged as a metric" in errors
    assert "warning: loss is nan" in errors


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "figures.json"
    write_json(target, {"macro_f1": 0.9})
    with pytest.raises(TypeError, match="JSON"):
        write_json(target, {"macro_f1": object()})
    assert json.loads(target.read_text()) == {"macro_f1": 0.9}
    assert list(target.parent.iterdir()) == [target]
