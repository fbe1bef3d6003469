from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from components.step import read_json, step, write_json
from manifests.errors import DataError


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


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "figures.json"
    write_json(target, {"macro_f1": 0.9})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"macro_f1": float("nan")})
    assert json.loads(target.read_text()) == {"macro_f1": 0.9}
    assert list(target.parent.iterdir()) == [target]
