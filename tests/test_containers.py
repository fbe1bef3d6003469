"""The Dockerfiles and cloudbuild.yaml, read and in part executed: no Docker, no network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1 import Build
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.vertex.lint import images

ROOT = Path(__file__).parent.parent
IMAGES = ("components", "trainer")
DIGESTS = {
    name: f"registry.example/{name}@sha256:{digit * 64}" for name, digit in zip(IMAGES, "12", strict=True)
}

# https://cloud.google.com/build/docs/configuring-builds/substitute-variable-values
BUILT_IN_SUBSTITUTIONS = {
    "PROJECT_ID", "BUILD_ID", "PROJECT_NUMBER", "LOCATION", "TRIGGER_NAME", "COMMIT_SHA", "REVISION_ID",
    "SHORT_SHA", "REPO_NAME", "REPO_FULL_NAME", "BRANCH_NAME", "TAG_NAME", "REF_NAME",
    "TRIGGER_BUILD_CONFIG_PATH", "SERVICE_ACCOUNT_EMAIL", "SERVICE_ACCOUNT",
}  # fmt: skip
# The rule of Cloud Build's own parser: `$$` is a dollar sign, `$NAME` and `${NAME}` are variables.
SUBSTITUTION = re.compile(r"\$(?:(\$)|\{([A-Z_][A-Z0-9_]*)\}|([A-Z_][A-Z0-9_]*))")
SET_BY_A_TRIGGER = {
    "COMMIT_SHA": "0123abc",
    "_IMAGE_REPOSITORY": "registry.example/project/images",
    "_TEMPLATE_REPOSITORY": "https://registry.example/project/templates",
    "_TORCH_INDEX_URL": "",
    "_REGION": "europe-west4",
    "_ROOT": "gs://bucket/runs",
    "_REGISTRY": "sqlite:////gcs/bucket/gauntlet.db",
    "_SERVICE_ACCOUNT": "trainer@demo.iam.gserviceaccount.com",
    "PROJECT_ID": "demo",
}

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


def build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text(encoding="utf-8"))
    return config


def step(identifier: str) -> dict[str, Any]:
    return next(found for found in build()["steps"] if found["id"] == identifier)


def substitutable(config: Mapping[str, Any]) -> list[str]:
    fields = ("name", "dir", "entrypoint", "args", "env")
    values = [each[field] for each in config["steps"] for field in fields if field in each]
    return [text for value in values for text in ([value] if isinstance(value, str) else value)]


def variables(text: str) -> set[str]:
    return {braced or bare for dollar, braced, bare in SUBSTITUTION.findall(text) if not dollar}


def filled(text: str, values: Mapping[str, str]) -> str:
    return SUBSTITUTION.sub(lambda found: "$" if found[1] else values[found[2] or found[3]], text)


def run_step(identifier: str, values: Mapping[str, str], workspace: Path) -> subprocess.CompletedProcess[str]:
    found = step(identifier)
    environment = dict(filled(entry, values).split("=", 1) for entry in found.get("env", []))
    return subprocess.run(
        [found["entrypoint"], *(filled(argument, values) for argument in found["args"])],
        cwd=workspace,
        env={"PATH": os.environ["PATH"], "HOME": str(workspace), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


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


def test_cloud_build_knows_every_variable_and_uses_every_one_it_declares() -> None:
    config = build()
    declared = set(config["substitutions"])
    used = set[str]().union(*(variables(text) for text in substitutable(config)))

    assert all(re.fullmatch(r"_[A-Z0-9_]+", name) for name in declared)
    assert used - BUILT_IN_SUBSTITUTIONS == declared


def test_every_dollar_of_the_shell_is_escaped_from_cloud_build() -> None:
    for text in substitutable(build()):
        assert "$" not in SUBSTITUTION.sub("", text)


def test_a_step_waits_only_for_steps_that_come_before_it() -> None:
    seen: list[str] = []
    for found in build()["steps"]:
        assert set(found.get("waitFor", [])) <= set(seen), found["id"]
        assert found["id"] not in seen
        seen.append(found["id"])


def test_nothing_is_pushed_or_uploaded_before_the_tests_have_passed() -> None:
    earlier: dict[str, set[str]] = {}
    for found in build()["steps"]:
        waits = set(found.get("waitFor", []))
        earlier[found["id"]] = waits.union(*(earlier[name] for name in waits))

    leaving = {
        found["id"] for found in build()["steps"] if re.search("docker push|upload", found["args"][-1])
    }
    assert leaving == {"build-components", "build-trainer", "upload-templates"}
    assert all("test" in earlier[name] for name in leaving)
    assert {"build-components", "build-trainer"} <= earlier["compile"] <= earlier["upload-templates"]
    assert {"test", "upload-templates"} <= earlier["run-sample"] <= earlier["apply-schedules"]


@pytest.mark.parametrize("file", ["cloudbuild.yaml", "cloudbuild.pr.yaml"])
def test_a_build_is_what_the_api_takes(file: str) -> None:
    content = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    parsed = json_format.ParseDict(content, Build.pb()())  # an unknown key is refused
    assert all(found.name and found.args for found in parsed.steps)
    assert parsed.timeout.seconds >= max(found.timeout.seconds for found in parsed.steps)


def test_a_pull_request_is_tested_as_a_merge_is_and_nothing_leaves_the_build() -> None:
    request = yaml.safe_load((ROOT / "cloudbuild.pr.yaml").read_text(encoding="utf-8"))
    merged = step("test")
    assert request["steps"] == [{key: merged[key] for key in merged if key != "waitFor"}]


@pytest.mark.parametrize("code", [0, 3, 124])
def test_a_sample_run_that_does_not_end_well_is_cancelled_and_fails_the_build(
    code: int, tmp_path: Path
) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "gauntlet"
    command.write_text(f'#!/bin/sh\necho "$@" >> asked\n[ "$1" = submit ] && exit {code}\nexit 2\n')
    command.chmod(0o755)
    for name, digest in DIGESTS.items():
        (tmp_path / f"{name}.image").write_text(f"{digest}\n", encoding="utf-8")

    assert run_step("run-sample", SET_BY_A_TRIGGER, tmp_path).returncode == code

    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["submit manifests/emotion_sample.yaml --wait"] + ["cancel latest"] * (code != 0)


@pytest.mark.parametrize("missing", sorted(SET_BY_A_TRIGGER.keys() - {"_TORCH_INDEX_URL", "PROJECT_ID"}))
def test_a_build_stops_at_once_when_a_variable_is_not_set(missing: str, tmp_path: Path) -> None:
    assert run_step("require-substitutions", SET_BY_A_TRIGGER, tmp_path).returncode == 0

    done = run_step("require-substitutions", SET_BY_A_TRIGGER | {missing: ""}, tmp_path)

    assert done.returncode != 0
    assert missing in done.stderr


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_built_from_its_dockerfile_and_named_by_the_digest_it_was_pushed_with(name: str) -> None:
    script = filled(step(f"build-{name}")["args"][-1], SET_BY_A_TRIGGER).replace("\\\n", " ")
    built, pushed, inspected = (shlex.split(line) for line in script.splitlines())
    image = f"registry.example/project/images/{name}:0123abc"

    assert built[:2] == ["docker", "build"]
    assert built[built.index("--file") + 1] == f"{name}/Dockerfile"
    assert built[built.index("--tag") + 1] == image
    assert "GIT_COMMIT=0123abc" in built
    assert pushed == ["docker", "push", image]
    assert inspected == [
        "docker", "inspect", "--format", "{{index .RepoDigests 0}}", image, ">", f"{name}.image",
    ]  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_a_dockerfile_takes_every_build_argument_that_cloud_build_gives(name: str) -> None:
    script = filled(step(f"build-{name}")["args"][-1], SET_BY_A_TRIGGER)
    given = set(re.findall(r"--build-arg (\w+)=", script))
    taken = {rest.partition("=")[0] for word, rest in instructions(name) if word == "ARG"}

    assert "GIT_COMMIT" in given
    assert given <= taken


def test_the_templates_run_in_the_images_that_were_pushed(tmp_path: Path) -> None:
    for name, digest in DIGESTS.items():
        (tmp_path / f"{name}.image").write_text(f"{digest}\n", encoding="utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "manifests").mkdir()
    shutil.copy(ROOT / "manifests" / "emotion_sample.yaml", tmp_path / "manifests")

    done = run_step("compile", SET_BY_A_TRIGGER, tmp_path)

    assert done.returncode == 0, done.stderr
    template = yaml.safe_load((tmp_path / "templates" / "emotion_sample.yaml").read_text(encoding="utf-8"))
    assert set(images(json_format.ParseDict(template, PipelineSpec()))) == set(DIGESTS.values())
