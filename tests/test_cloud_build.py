"""cloudbuild.yaml and cloudbuild.pr.yaml, read as Cloud Build reads them and in part executed: no Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from google.cloud.devtools.cloudbuild_v1 import Build
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from gauntlet.pipelines.cli import app
from gauntlet.pipelines.vertex.lint import images
from tests.test_containers import ALL_IMAGES, IMAGES, ROOT, instructions

DIGESTS = {
    name: f"registry.example/{name}@sha256:{digit * 64}"
    for name, digit in zip(ALL_IMAGES, "123", strict=True)
}
STEP_DIGESTS = {name: DIGESTS[name] for name in IMAGES}
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
    "_TORCH_INDEX_URL": "https://registry.example/cpu",
    "_DOCKER_HUB": "registry.example/docker-hub/",
    "_EXTRA_PACKAGES": "./extra/nets",
    "_REGION": "europe-west4",
    "_ROOT": "gs://bucket/runs",
    "_REGISTRY": "vertex://demo/europe-west4?staging=gs://bucket/gauntlet",
    "_SERVICE_ACCOUNT": "release@demo.iam.gserviceaccount.com",
    "_TRAINING_ACCOUNT": "trainer@demo.iam.gserviceaccount.com",
    "PROJECT_ID": "demo",
}


def build() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text(encoding="utf-8"))
    return config


def step(identifier: str) -> dict[str, Any]:
    return next(found for found in build()["steps"] if found["id"] == identifier)


def request_steps() -> list[dict[str, Any]]:
    config = yaml.safe_load((ROOT / "cloudbuild.pr.yaml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = config["steps"]
    return found


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


def test_cloud_build_knows_every_variable_and_uses_every_one_it_declares() -> None:
    config = build()
    declared = set(config["substitutions"])
    used = set[str]().union(*(variables(text) for text in substitutable(config)))

    assert all(re.fullmatch(r"_[A-Z0-9_]+", name) for name in declared)
    assert used - BUILT_IN_SUBSTITUTIONS == declared


def test_every_image_of_docker_hub_comes_by_digest_or_from_dockers_own_and_through_the_mirror() -> None:
    config = build()
    python = config["substitutions"]["_PYTHON_IMAGE"]
    names = {found["name"] for found in config["steps"]} | {found["name"] for found in request_steps()}
    script = "\n".join(substitutable(config))

    assert re.fullmatch(r"library/python:[\w.-]+@sha256:[0-9a-f]{64}", python)
    assert names == {"${_DOCKER_HUB}${_PYTHON_IMAGE}", "gcr.io/cloud-builders/docker"}
    for image in ("moby/buildkit:", "docker/buildkit-syft-scanner:"):
        assert script.count(image) == script.count("${_DOCKER_HUB}" + image) == len(ALL_IMAGES)


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

    leaving = {found["id"] for found in build()["steps"] if re.search("--push|upload", found["args"][-1])}
    builds = {f"build-{name}" for name in ALL_IMAGES}
    assert leaving == builds | {"upload-templates"}
    assert all("test" in earlier[name] for name in leaving)
    assert builds <= earlier["compile"] <= earlier["golden-check"]
    assert earlier["golden-check"] <= earlier["upload-templates"]
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
    command.write_text(
        f'#!/bin/sh\necho "$@" >> asked\n[ "$1" = submit ] && echo "$GAUNTLET_SERVING_IMAGE" > serving\n'
        f'[ "$1" = submit ] && exit {code}\nexit 2\n'
    )
    command.chmod(0o755)
    for name, digest in DIGESTS.items():
        (tmp_path / f"{name}.image").write_text(f"{digest}\n", encoding="utf-8")

    assert run_step("run-sample", SET_BY_A_TRIGGER, tmp_path).returncode == code

    assert (tmp_path / "serving").read_text().strip() == DIGESTS["serving"]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["submit manifests/emotion_sample.yaml --wait"] + ["cancel latest"] * (code != 0)


@pytest.mark.parametrize(
    "missing", sorted(SET_BY_A_TRIGGER.keys() - {"_DOCKER_HUB", "_EXTRA_PACKAGES", "PROJECT_ID"})
)
def test_a_build_stops_at_once_when_a_variable_is_not_set(missing: str, tmp_path: Path) -> None:
    assert run_step("require-substitutions", SET_BY_A_TRIGGER, tmp_path).returncode == 0

    done = run_step("require-substitutions", SET_BY_A_TRIGGER | {missing: ""}, tmp_path)

    assert done.returncode != 0
    assert missing in done.stderr


@pytest.mark.parametrize("name", ALL_IMAGES)
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
    assert set(images(json_format.ParseDict(template, PipelineSpec()))) == set(STEP_DIGESTS.values())


@pytest.mark.parametrize("name", ALL_IMAGES)
def test_an_image_is_built_from_its_dockerfile_and_named_by_the_digest_it_was_pushed_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, digest = f"sha256:{'cd' * 32}", f"sha256:{'ab' * 32}"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/sh\n"
        'printf "%s\\n" "$*" >> asked\n'
        f"""[ "$2" != build ] || echo '{{"containerimage.digest": "{index}"}}' > {name}.json\n"""
        f'[ "$2" != imagetools ] || echo {digest}\n',
        encoding="utf-8",
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=os.pathsep)

    done = run_step(f"build-{name}", SET_BY_A_TRIGGER, tmp_path)

    assert done.returncode == 0, done.stderr
    repository = f"registry.example/project/images/{name}"
    assert (tmp_path / f"{name}.image").read_text(encoding="utf-8") == f"{repository}@{digest}\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    created, built, inspected = (shlex.split(line) for line in asked)
    assert created[:2] == ["buildx", "create"]
    assert built[:2] == ["buildx", "build"]
    assert built[built.index("--builder") + 1] == created[created.index("--name") + 1]
    assert built[built.index("--file") + 1] == f"{name}/Dockerfile"
    assert built[built.index("--tag") + 1] == f"{repository}:0123abc"
    assert built[built.index("--metadata-file") + 1] == f"{name}.json"
    assert "GIT_COMMIT=0123abc" in built
    assert "DOCKER_HUB=registry.example/docker-hub/" in built
    assert "EXTRA_PACKAGES=./extra/nets" in built
    assert {"--push", "--provenance=mode=max"} <= set(built)
    assert [word for word in built if word.startswith("--sbom=generator=")]
    assert inspected[:4] == ["buildx", "imagetools", "inspect", f"{repository}@{index}"]
    kept, taken = (built[built.index(option) + 1] for option in ("--cache-to", "--cache-from"))
    assert kept == f"{taken},mode=max" == f"type=registry,ref={repository}:cache,mode=max"


@pytest.mark.parametrize("metadata", ["{}", '{"containerimage.digest": "sha256:cd"}'])
def test_an_image_without_a_digest_ends_the_build(
    metadata: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not pushed, or what was pushed holds no image for this kind of CPU."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f"#!/bin/sh\n[ \"$2\" = imagetools ] || echo '{metadata}' > components.json\n", encoding="utf-8"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker.parent), prepend=os.pathsep)

    assert run_step("build-components", SET_BY_A_TRIGGER, tmp_path).returncode != 0
    assert not (tmp_path / "components.image").exists()


@pytest.mark.parametrize(("edit", "code"), [("", 0), ("# another manifest\n", 1)])
def test_templates_that_are_not_what_was_committed_are_not_uploaded(
    edit: str, code: int, tmp_path: Path
) -> None:
    committed = (ROOT / "compiled" / "emotion_sample.yaml").read_text(encoding="utf-8")
    template = committed
    for name, digest in STEP_DIGESTS.items():
        (tmp_path / f"{name}.image").write_text(f"{digest}\n", encoding="utf-8")
        assert f"gauntlet-python/{name}:0.1.0" in committed
        template = template.replace(f"gauntlet-python/{name}:0.1.0", digest)
    for folder, text in (("compiled", committed), ("templates", template + edit)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "emotion_sample.yaml").write_text(text, encoding="utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)

    done = run_step("golden-check", SET_BY_A_TRIGGER, tmp_path)

    assert done.returncode == code, done.stderr
    assert ("+# another manifest" in done.stdout) == bool(edit)


def command_lines() -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Every `gauntlet …` of both files: its step, its arguments as the shell makes them, its environment."""
    for file in ("cloudbuild.yaml", "cloudbuild.pr.yaml"):
        for found in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["steps"]:
            entries = (filled(entry, SET_BY_A_TRIGGER) for entry in found.get("env", []))
            environment = dict(entry.split("=", 1) for entry in entries)
            script = filled(found["args"][-1], SET_BY_A_TRIGGER).replace("\\\n", " ")
            for line in script.splitlines():
                called = re.search(r"\.venv/bin/gauntlet (.*?)(?: \|\| .*)?$", line)
                if called:
                    yield found["id"], shlex.split(called[1]), environment


def test_every_command_line_is_one_that_gauntlet_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list(command_lines())
    for _, words, environment in lines:
        command: Any = typer.main.get_command(app)
        arguments = iter(words)
        while hasattr(command, "commands"):  # `schedule apply` is a command of a command
            command = command.commands[next(arguments)]
        with monkeypatch.context() as patched:
            for key, value in environment.items():
                patched.setenv(key, value)
            command.make_context(command.name, list(arguments))  # an unknown or missing argument ends it

    assert [step for step, _, _ in lines] == [
        "compile", "upload-templates", "run-sample", "run-sample", "apply-schedules",
    ]  # fmt: skip


def test_the_trigger_that_terraform_makes_sets_every_variable_that_is_declared() -> None:
    text = (ROOT / "infra" / "builds.tf").read_text(encoding="utf-8")
    for file in ("cloudbuild.yaml", "cloudbuild.pr.yaml"):
        declared = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["substitutions"]
        set_by_it = [name for name in declared if name != "_PYTHON_IMAGE"]  # which the file pins
        resource = text.partition(f'"{file}"')[2].partition("\nresource ")[0]
        assert set(re.findall(r"\b(_[A-Z_]+) +=", resource)) == set(set_by_it)
