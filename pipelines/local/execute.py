"""Executes a compiled pipeline with `kfp.local`: `python -m gauntlet.pipelines.local.execute RUN_FOLDER`.

It is a process of its own, so that `gauntlet run` can watch its output, stop it as a group, and outlive it.
kfp.local records only whether a step succeeded, so `run_step` writes an error message if a step is killed, or
fails before its own code begins.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from kfp import components, local
from kfp.local import subprocess_task_handler

from gauntlet.backends.processes import how_ended
from gauntlet.components.step import ERROR_FILE
from gauntlet.contracts.document import write_json
from gauntlet.pipelines.home import ARGUMENTS_FILE, PIPELINE_FILE, STEPS_FOLDER

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_THE_STEP = 8.0
"""After SIGTERM, for the running step: training writes a resume state, a paid job elsewhere is cancelled."""
EXECUTOR_INPUT = "--executor_input"
LINES_KEPT = 12
"""The number of a step's last lines in the message."""


def execute(run_folder: Path) -> None:
    """Run the pipeline in `run_folder` with its arguments; outputs go to its `steps` folder.

    The outcome is read from the steps' outputs there: kfp.local calls a run a success when an error skipped a
    branch.
    """
    subprocess_task_handler.run_local_subprocess = run_step  # there is no public API for how a step ended
    warnings.simplefilter("ignore", RuntimeWarning)  # this environment is used instead of the image
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(run_folder / STEPS_FOLDER),
        raise_on_error=False,
    )
    pipeline = components.load_component_from_file(str(run_folder / PIPELINE_FILE))
    pipeline(**json.loads((run_folder / ARGUMENTS_FILE).read_text(encoding="utf-8")))


def run_step(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
    """Run a step and print its output, as `kfp.local` does; returns its exit code.

    If the step fails and has written no `error.json`, this function writes it.
    """
    process = subprocess.Popen(
        full_command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        bufsize=1,
        env={**os.environ, **(env_vars or {})},
    )
    last: deque[str] = deque(maxlen=LINES_KEPT)
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if line.strip():
                last.append(line.rstrip())
        code = process.wait()
    print("\n")
    folder = _step_folder(full_command)
    if code and folder is not None and not (folder / ERROR_FILE).exists():
        write_json(folder / ERROR_FILE, {"message": ended(code, last), "exit_code": 1})
    return code


def ended(code: int, last: Sequence[str]) -> str:
    """A message for a process without one: how it ended, and its last lines."""
    said = "\n".join(["Its last lines:", *last]) if last else "It printed nothing."
    return f"The step's process {how_ended(code)}. {said}"


def _step_folder(command: Sequence[str]) -> Path | None:
    """The folder of the step's outputs, read from its command; None if the command has no such input."""
    if EXECUTOR_INPUT not in command[:-1]:
        return None
    given: Any = json.loads(command[list(command).index(EXECUTOR_INPUT) + 1])
    return Path(given["outputs"]["outputFile"]).parent


def _end_after_the_step(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Exit after the step, which got the same SIGTERM. If this process exits first, the step is killed."""
    # The step's processes may not be children, because the shell that started them has exited.
    others = [process for process in psutil.process_iter() if _is_of_the_group(process.pid)]
    psutil.wait_procs(others, timeout=SECONDS_FOR_THE_STEP)
    os._exit(128 + signal.SIGTERM)


def _is_of_the_group(pid: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def _end_with_parent() -> None:
    """Kill this process group, steps included, when the command that started it has exited."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_after_the_step)
    _end_with_parent()
    execute(Path(sys.argv[1]))
