"""docs/: that its commands are run as written, and that its picture is that of its script."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands() -> ModuleType:
    return _load("run_commands")


def _page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def _ran(commands: ModuleType, page: Path) -> subprocess.CompletedProcess[str]:
    script = "".join(block.script for block in commands.blocks_of(page))
    bash = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(bash, cwd=page.parent, capture_output=True, text=True, check=False)


def test_blocks_of_a_page_share_a_shell_and_files_are_written(commands: ModuleType, tmp_path: Path) -> None:
    page = _page(
        tmp_path,
        "```yaml\n# a.yaml\nkey: 1\n```\n\n```sh\nmkdir new\ncd new\n```\n\n```\nfalse\n```\n\n"
        "```sh\ncat ../a.yaml\n```\n",
    )
    ran = _ran(commands, page)
    assert ran.returncode == 0
    assert ran.stdout == "# a.yaml\nkey: 1\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```sh\nfalse\n```\n\n```sh\necho after\n```\n", 1),
        ("<!-- exit code 3 -->\n```sh\n(exit 3)\n```\n", 0),
        ("<!-- exit code 3 -->\n```sh\ntrue\n```\n", 1),
        ("<!-- not run: it needs a cloud -->\n```sh\nfalse\n```\n", 0),
        (
            "<!-- nothing below is run: it needs a cloud -->\n\n```sh\nfalse\n```\n\n```sh\nfalse\n```\n",
            0,
        ),
    ],
)
def test_a_block_that_does_not_end_as_the_page_says_fails_it(
    commands: ModuleType, tmp_path: Path, text: str, code: int
) -> None:
    ran = _ran(commands, _page(tmp_path, text))
    assert ran.returncode == code
    assert "after" not in ran.stdout


@pytest.mark.parametrize("text", ["```\ngauntlet runs\n```\n", "Look:\n\n    gauntlet runs\n"])
def test_a_command_that_would_not_be_run_needs_a_reason(
    commands: ModuleType, tmp_path: Path, text: str
) -> None:
    with pytest.raises(ValueError, match=r"line \d+: "):
        commands.blocks_of(_page(tmp_path, text))


def test_the_code_of_a_notebook_is_run(commands: ModuleType, tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["no code"]},
        {"cell_type": "code", "source": ["a = 20\n", "b = 1"]},
        {"cell_type": "code", "source": ["print(a + b)"]},
    ]
    path = tmp_path / "some.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert _ran(commands, path).stdout == "21\n"


def test_the_picture_of_the_architecture_is_that_of_its_script() -> None:
    drawn = _load("draw_architecture")
    assert drawn.PICTURE.read_text(encoding="utf-8") == drawn.picture(), "run docs/draw_architecture.py"
