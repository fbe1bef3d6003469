"""Ctrl-C and killed processes at every step: nothing half-registered, and running again works."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.components.write_report.record import OPTIONAL_STEPS
from gauntlet.pipelines.local.processes import PREFIX, remove_abandoned
from gauntlet.pipelines.training import STEPS
from tests.end_to_end.conftest import System

pytestmark = pytest.mark.usefixtures("warm_processes")


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for_end(pid: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = select.poll()
    ended.register(process, select.POLLIN)
    assert ended.poll(20_000), f"process {pid} goes on without its parent"  # milliseconds
    os.close(process)


def start_until(system: System, step: str) -> subprocess.Popen[str]:
    """Start a run and return when `step` is running."""
    run = subprocess.Popen(
        system.command("run", str(system.manifest)),
        env=system.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith(f"{step}: running"):
            return run
    raise AssertionError(f"{step} never ran")


def running_step(folder: Path) -> int:
    """The process of the step that runs: not the shell around it, which may be there a moment before."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for pid in processes_of(folder):
            if b"\0kfp.dsl.executor_main\0" in _command_line(pid):
                return pid
    raise AssertionError("no step is running")


@pytest.fixture(scope="module")
def system(make_system: Callable[..., System]) -> System:
    return make_system()


@pytest.mark.parametrize("step", [step for step in STEPS[:-1] if step not in OPTIONAL_STEPS])
def test_ctrl_c_stops_every_process_and_registers_nothing_half(system: System, step: str) -> None:
    run = start_until(system, step)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "interrupted" in output
    assert f"gauntlet run --resume {system.home.find_run('latest').run_id}" in output
    assert "Traceback" not in output
    assert processes_of(system.home.folder) == []
    assert system.home.find_run("latest").state == "interrupted"
    registry = open_registry(system.home.store_uri)
    for name in registry.names():
        for version in registry.versions(name):
            assert (Path(version.bundle_uri) / "bundle.json").is_file()


def test_after_all_that_the_last_run_can_be_resumed(system: System) -> None:
    record = system.home.find_run("latest")
    again = system.gauntlet("run", "--resume", record.run_id)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"train-model: reused from {record.name}-" in again.stdout
    assert system.home.find_run("latest").run_id == record.run_id
    assert not (system.home.run_folder(record.run_id) / "states").exists()
    assert "it has ended" in system.gauntlet("run", "--resume", record.run_id).stderr


def test_a_step_killed_from_outside_fails_the_run(make_system: Callable[..., System]) -> None:
    system = make_system()
    run = start_until(system, "train-model")
    os.kill(running_step(system.home.folder), signal.SIGKILL)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "Failed in train-model" in output


def test_nothing_goes_on_alone_when_the_executor_is_killed(make_system: Callable[..., System]) -> None:
    system = make_system()
    run = start_until(system, "train-model")
    for pid in processes_of(system.home.folder):
        command = _command_line(pid)
        if b"gauntlet.pipelines.local.execute" in command and b"executor_main" not in command:
            os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=300)
    assert run.returncode == 1
    assert processes_of(system.home.folder) == []


def test_a_second_ctrl_c_does_not_cut_the_stopping_short(make_system: Callable[..., System]) -> None:
    system = make_system()
    run = start_until(system, "train-model")
    for _ in range(3):
        run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "Traceback" not in output
    assert processes_of(system.home.folder) == []
    assert system.home.find_run("latest").state == "interrupted"


def test_closing_the_terminal_stops_every_process(make_system: Callable[..., System]) -> None:
    system = make_system()
    run = start_until(system, "train-model")
    run.send_signal(signal.SIGHUP)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "nothing was registered" in output
    assert processes_of(system.home.folder) == []


def test_ctrl_c_after_the_registration_does_not_say_that_nothing_was_registered(system: System) -> None:
    run = start_until(system, "write-report")
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == 130
    assert "nothing was registered" not in output
    assert "check with `gauntlet registry`" in output


def test_a_run_whose_command_was_killed_is_listed_as_interrupted_and_leaves_one_folder_to_the_next_run(
    make_system: Callable[..., System], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    system = make_system()
    run = start_until(system, "train-model")
    run.kill()
    run.wait(timeout=300)
    assert "interrupted" in system.gauntlet("runs").stdout
    for pid in processes_of(system.home.folder):
        wait_for_end(pid)
    assert open_registry(system.home.store_uri).names() == []
    assert not [path for path in temporary.iterdir() if not path.name.startswith(PREFIX)]
    removed, deadline = [], time.monotonic() + 300
    while not removed and time.monotonic() < deadline:  # a step that was just starting holds the lock too
        removed = remove_abandoned()
        time.sleep(0.05)
    assert len(removed) == 1
    assert not list(temporary.iterdir())


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
