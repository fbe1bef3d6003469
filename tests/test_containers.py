"""The Dockerfiles, read: no Docker, no network."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
IMAGES = ("components", "trainer")

Instruction = tuple[str, str]  # the word in capitals, and what follows it


def instructions(name: str) -> list[Instruction]:
    text = (ROOT / name / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    logical = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in logical if line.strip())]


def final_stage(name: str) -> list[Instruction]:
    found = instructions(name)
    return found[max(at for at, (word, _) in enumerate(found) if word == "FROM") :]


def package_folders() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_ends_as_a_user_that_is_not_root(name: str) -> None:
    users = [rest for word, rest in final_stage(name) if word == "USER"]
    created = [shlex.split(rest) for word, rest in final_stage(name) if word == "RUN" and "useradd" in rest]

    assert users == [created[0][-1]]
    assert int(created[0][created[0].index("--uid") + 1]) > 0


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_every_package_that_the_project_declares(name: str) -> None:
    copied = {part for word, rest in instructions(name) if word == "COPY" for part in rest.split()[:-1]}

    assert package_folders() <= copied


@pytest.mark.parametrize("name", IMAGES)
def test_what_a_dockerfile_copies_is_there_and_in_the_build_context(name: str) -> None:
    context = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for word, rest in instructions(name)
        if word == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    }

    assert copied <= context
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", IMAGES)
def test_whatever_pip_takes_from_an_index_is_pinned_by_the_lock_file(name: str) -> None:
    commands = [rest for word, rest in instructions(name) if word == "RUN"]
    from_an_index = [
        command for command in commands if re.search("pip .*install", command) and "--no-index" not in command
    ]
    torch_alone = "\"$(grep '^torch==' requirements.lock)\""

    assert from_an_index
    for command in from_an_index:
        pinned_by_name = "--no-deps" in command and torch_alone in command
        assert pinned_by_name or "--constraint requirements.lock" in command


def test_the_lock_file_pins_every_dependency_once() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").split()
    pinned = [canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert len(pinned) == len(set(pinned)) == len(lines)
    assert {canonicalize_name(Requirement(text).name) for text in project["dependencies"]} <= set(pinned)


@pytest.mark.parametrize("name", IMAGES)
def test_the_final_stage_installs_nothing_and_holds_no_source_tree(name: str) -> None:
    commands = [rest for word, rest in final_stage(name) if word == "RUN"]
    copies = [rest for word, rest in final_stage(name) if word in {"COPY", "ADD"}]

    assert len(commands) == 1
    assert "useradd" in commands[0]
    assert copies
    assert all(copy.split()[0].startswith("--from=") for copy in copies)


def test_the_trainer_image_asks_for_the_gpu() -> None:
    environment = " ".join(rest for word, rest in final_stage("trainer") if word == "ENV").split()

    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment
