"""A program that is forked sees and does what it does when it is started: `tests.warm`."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import warm

MODULE = [sys.executable, "-m", "tests.test_warm"]
SCRIPT = f"""program_path=$(mktemp -d)

printf "%s" "$0" > "$program_path/ephemeral_component.py"

_KFP_RUNTIME=true {sys.executable} -m tests.test_warm --file "$program_path/ephemeral_component.py" "$@"
"""
STEP = ["sh", "-ec", SCRIPT, "a component"]
CODE = [sys.executable, "-c", "import sys; from tests.test_warm import program; program(*sys.argv[1:])"]


def program(*arguments: str) -> None:
    """Print what this process finds, then end as it is told."""
    *_, number, ending = arguments
    command = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    file = Path(arguments[1]) if arguments[0] == "--file" else None
    found = {
        "arguments": arguments if file is None else arguments[2:],
        "command": command[-2:],
        "component": file and file.read_text(),
        "variable": os.environ.get("VARIABLE"),
        "kfp": os.environ.get("_KFP_RUNTIME"),
        "folder": str(Path.cwd()),
        "cpus": sorted(os.sched_getaffinity(0)),
        "leads_session": os.getsid(0) == os.getpid(),
        "input": sys.stdin.read(),
        "read": os.read(int(number), 100).decode(),
        "handlers": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "encoding": [sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors],
    }
    print(json.dumps(found), flush=True)
    print("to the errors \udc80", file=sys.stderr)
    if ending == "raise":
        raise LookupError("at the end")
    if ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(int(ending))


def outcome(command: list[str], ending: str, folder: Path) -> dict[str, Any]:
    """How a program ended that gets much of what a process can be given, and what it found."""
    numbers = os.pipe()
    os.write(numbers[1], b"through a descriptor")
    os.set_inheritable(numbers[0], True)
    done = subprocess.run(
        [*command, "one", "two words", str(numbers[0]), ending],
        input="from standard input",
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"VARIABLE": "a value", "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=[numbers[0]],
        start_new_session=True,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1_000_000, -1)),
        check=False,
    )
    for number in numbers:
        os.close(number)
    # Which number is free depends on the files that other tests left open.
    found = json.loads(done.stdout.replace(json.dumps(str(numbers[0])), '"DESCRIPTOR"'))
    return {"code": done.returncode, "found": found, "errors": done.stderr.splitlines()[-1]}


@pytest.mark.parametrize("ending", ["0", "3", "raise", "kill"])
@pytest.mark.parametrize("command", [MODULE, CODE, STEP], ids=["module", "code", "step"])
def test_a_fork_is_given_what_a_started_process_is_and_ends_as_it_does(
    zygote: None, command: list[str], ending: str, tmp_path: Path
) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        started = outcome(command, ending, tmp_path)
        with warm.forking():
            forked = outcome(command, ending, tmp_path)
    finally:
        os.sched_setaffinity(0, before)
    assert forked["found"]["arguments"][:2] == ["one", "two words"]
    if ending == "kill" and command is STEP:  # the shell says so
        assert started.pop("errors") != forked.pop("errors")
    assert forked == started


def test_a_fork_is_a_child_of_the_process_that_started_it(zygote: None) -> None:
    with warm.forking(), subprocess.Popen([*MODULE, "x", "0", "0"], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        assert int(stat.rpartition(")")[2].split()[1]) == os.getpid()
        process.kill()
    assert process.returncode == -signal.SIGKILL


if __name__ == "__main__":
    program(*sys.argv[1:])
