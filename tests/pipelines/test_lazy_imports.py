"""What a command does not import: a library that takes seconds, for a command that does not need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.serving.bundle import write_bundle
from tests.text_bundles import word_score_info, write_parts

SLOW = (
    *("mlflow", "torch", "transformers", "kfp", "grpc", "google.auth"),
    *("pandas", "sklearn", "matplotlib", "optuna", "sqlalchemy"),
)
SERVING = ("onnxruntime", "numpy")
SAMPLE = str(Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml")

EACH = """
import json, sys
from gauntlet.pipelines.cli import main
found = []
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as ended:
        code = ended.code or 0
    found.append([command[0], code, sorted(name for name in json.loads(sys.argv[2]) if name in sys.modules)])
print(json.dumps(found), file=sys.stderr)
"""


def slow_imports(commands: list[list[str]], libraries: tuple[str, ...]) -> list[tuple[str, int, list[str]]]:
    """For each command its name, its exit code, and which of the libraries it or one before it imported."""
    arguments = [sys.executable, "-c", EACH, json.dumps(commands), json.dumps(libraries)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
    return [(name, code, found) for name, code, found in json.loads(done.stderr.splitlines()[-1])]


def test_commands_that_only_read_files_import_no_slow_library(own_home: Path) -> None:
    own_home.mkdir()
    commands = [["--help"], ["--version"], ["runs"], ["registry"], ["tasks"], ["cost", SAMPLE]]
    for name, code, found in slow_imports(commands, SLOW + SERVING):
        assert (name, code, found) == (name, 0, [])


def test_check_opens_a_tokenizer_without_the_engine_that_serves_models() -> None:
    assert slow_imports([["check", SAMPLE]], (*SLOW, "onnxruntime")) == [("check", 0, [])]


def test_a_prediction_imports_what_serving_needs_and_nothing_else(own_home: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", word_score_info(), write_parts(tmp_path / "parts"))
    store = open_registry(f"sqlite:///{own_home / 'gauntlet.db'}")
    store.promote("moods", store.register("moods", tmp_path / "bundle", {}).version)
    commands = [["registry"], ["predict", "good"], ["bundle", "inspect", str(tmp_path / "bundle")]]
    for name, code, found in slow_imports(commands, SLOW):
        assert (name, code, found) == (name, 0, [])


@pytest.mark.parametrize(("typed", "offered"), [("gauntlet com", "compile"), ("gauntlet bundle ", "inspect")])
def test_completion_offers_commands_without_a_slow_library(typed: str, offered: str) -> None:
    place = str(len(typed.split(" ")) - 1)
    variables = {"_GAUNTLET_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": place}
    program = "import sys; from gauntlet.pipelines.cli import app; sys.argv = ['gauntlet']\n"
    program += "try: app(prog_name='gauntlet')\n"
    program += f"finally: print([name for name in {SLOW + SERVING} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert offered in done.stdout.split()
    assert done.stderr.splitlines()[-1] == "[]"
