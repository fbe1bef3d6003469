"""A step's process on this machine leaves a message, however it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.pipelines.local.execute import run_step
from gauntlet.pipelines.local.processes import safe_environment

ROOT = Path(__file__).parents[2]
PACKAGES = ("manifests", "pages", "backends", "trainer", "components", "pipelines", "serving")
STARTERS = [
    file.relative_to(ROOT)
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*"))
    if file.suffix in (".py", "")
    and file.is_file()
    and re.search(r"\[sys\.executable|python3 -m|interpreter, \"-m|\nFROM |\"python\", ", file.read_text())
]


def command(script: str, folder: Path) -> list[str]:
    given = {"outputs": {"outputFile": str(folder / "executor_output.json")}}
    return ["sh", "-c", script, "sh", "--executor_input", json.dumps(given), "--function_to_execute", "f"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo loading; kill -KILL $$", r"was ended by SIGKILL, which the system sends when memory runs out"),
        ("echo loading; kill -SEGV $$", r"was ended by SIGSEGV\. Its last lines:\nloading"),
        ("echo loading; (kill -ABRT $BASHPID 2>&1); exit 134", r"was ended by SIGABRT"),
        (
            "echo No module named x >&2; exit 1",
            r"ended with exit code 1\. Its last lines:\nNo module named x",
        ),
        ("exit 3", r"ended with exit code 3\. It printed nothing"),
    ],
)
def test_how_a_step_ended_and_what_it_printed_last_are_its_message(
    tmp_path: Path, script: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_step(command(script, tmp_path)) != 0
    assert json.loads((tmp_path / "error.json").read_text())["exit_code"] == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(json.loads((tmp_path / "error.json").read_text())["message"])
    assert ("loading" in capsys.readouterr().out) == ("loading" in script)


def test_a_message_of_the_steps_own_stays_and_a_step_that_succeeds_has_none(tmp_path: Path) -> None:
    own, fine = tmp_path / "own", tmp_path / "fine"
    own.mkdir()
    assert run_step(command(f"echo '{{}}' > {own}/error.json; exit 4", own)) == 4
    assert (own / "error.json").read_text() == "{}\n"
    assert run_step(command("true", fine)) == 0
    assert not fine.exists()


@pytest.mark.parametrize("file", STARTERS, ids=str)
def test_whatever_starts_python_keeps_the_working_folder_off_its_path(file: Path) -> None:
    assert re.search('PYTHONSAFEPATH|safe_environment|"-P"', (ROOT / file).read_text())


def test_a_users_own_modules_are_not_imported_in_the_environment_that_processes_get(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("raise ImportError('imported from the working folder')\n")
    path = os.pathsep.join(path for path in sys.path if path)
    found = subprocess.run(
        [sys.executable, "-c", "import trainer; print(trainer.__file__)"],
        cwd=tmp_path,
        env=safe_environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == ROOT / "trainer" / "__init__.py"
