"""Run a step's process on this machine, and write an error message if the step left none itself.

kfp.local records only whether a step succeeded. Without this, a step that is killed, or that fails before its
own code begins, would leave no reason.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gauntlet.backends.processes import how_ended
from gauntlet.components.step import ERROR_FILE, write_json

EXECUTOR_INPUT = "--executor_input"
LINES_KEPT = 12
"""How many of a step's last lines the message has."""


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
    folder = step_folder(full_command)
    if code and folder is not None and not (folder / ERROR_FILE).exists():
        write_json(folder / ERROR_FILE, {"message": ended(code, last), "exit_code": 1})
    return code


def ended(code: int, last: Sequence[str]) -> str:
    """A message for a process that left none: how it ended, and its last lines."""
    said = "\n".join(["Its last lines:", *last]) if last else "It printed nothing."
    return f"The step's process {how_ended(code)}. {said}"


def step_folder(command: Sequence[str]) -> Path | None:
    """The folder of the step's outputs, read from its command; None if the command has no such input."""
    if EXECUTOR_INPUT not in command[:-1]:
        return None
    given: Any = json.loads(command[list(command).index(EXECUTOR_INPUT) + 1])
    return Path(given["outputs"]["outputFile"]).parent
