"""The temporary folder of each run, and what killed runs leave of theirs."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.processes import remove_abandoned, temporary_folder

HOLDER = """
import sys
from gauntlet.pipelines.local.processes import temporary_folder
with temporary_folder() as made:
    (made.path / "scratch").mkdir()
    (made.path / "scratch" / "weights").write_text("half")
    print(made.path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_killed_runs_folder_is_removed_by_the_next_run_and_a_living_ones_is_not(
    temporary_files: Path,
) -> None:
    living, kept = holder()
    dead, abandoned = holder()
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert (abandoned / "scratch" / "weights").exists()

    with temporary_folder() as own:
        assert not abandoned.exists()
        assert (kept / "scratch" / "weights").exists()
        assert own.environment()["TMPDIR"] == str(own.path)
        assert own.path.parent == temporary_files
    living.communicate("")  # it ends by itself, and removes its own
    assert list(temporary_files.iterdir()) == []


def test_folders_that_are_no_runs_are_left_alone(temporary_files: Path) -> None:
    (temporary_files / "gauntlet-run-of-somebody").mkdir()
    (temporary_files / "other.lock").touch()
    target = temporary_files / "precious"
    target.mkdir()
    (temporary_files / "gauntlet-run-linked.lock").symlink_to(target)
    assert remove_abandoned() == []
    assert len(list(temporary_files.iterdir())) == 4


def test_a_run_is_known_to_be_running_until_its_process_is_gone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    record = home.create_run("tiny")
    assert not home.is_running(record)
    with home.working_on(record):
        assert home.is_running(record)
    assert not home.is_running(record)
