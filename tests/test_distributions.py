"""The wheels of gauntlet and gauntlet-serving, and an editable install, each in an environment of its own.

An environment holds links to the installed packages that it may see. Nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path

import httpx
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from gauntlet.serving.bundle import file_sha256, write_bundle
from tests.environments import Environment, everything_but_gauntlet
from tests.image_bundles import write_image_bundle
from tests.serving.running import SECONDS, running
from tests.text_bundles import certified, word_score_info, write_parts

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SERVING = tomllib.loads((REPOSITORY / "serving/pyproject.toml").read_text())
MANIFEST = REPOSITORY / "manifests/emotion_sample.yaml"
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"].values()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what both distributions are built from: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    for name in FOLDERS:
        links = {path.name for path in (REPOSITORY / name).iterdir() if path.is_symlink()}
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", *links)
        )
    return folder


def wheel_of(project: Path, folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(project)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def required(names: Sequence[str], seen: set[str]) -> Iterator[str]:
    """The installed files and folders of distributions and of all that they require."""
    for name in names:
        if canonicalize_name(name) in seen:
            continue
        seen.add(canonicalize_name(name))
        found = distribution(name)
        yield from {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}
        needs = [Requirement(one) for one in found.requires or ()]
        yield from required([one.name for one in needs if not one.marker or one.marker.evaluate()], seen)


@pytest.fixture(scope="module")
def serving(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """gauntlet-serving and what it requires."""
    folder = tmp_path_factory.mktemp("serving")
    environment = Environment(folder)
    names = [Requirement(one).name for one in SERVING["project"]["dependencies"]]
    environment.see(sorted(set(required(names, set()))))
    environment.install(str(wheel_of(tree / "serving", folder / "wheels")))
    return environment


def test_a_bundle_of_texts_is_verified_and_asked_with_the_serving_packages_alone(
    serving: Environment, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path / "parts")
    parts["parity.json"].write_text(json.dumps({"model_sha256": file_sha256(parts["model.onnx"]), "rows": 9}))
    write_bundle(tmp_path / "bundle", word_score_info(), parts)
    verified = serving.run("-m", "gauntlet.serving", "verify", str(tmp_path / "bundle"))
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout + verified.stderr
    assert [line.split()[:2] for line in verified.stdout.splitlines()] == [
        ["ok", name] for name in ("files", "certificate", "tensors", "prediction")
    ]
    asked = serving.run("-m", "gauntlet.serving", "predict", str(tmp_path / "bundle"), "good", "bad " * 9)
    first, second = map(json.loads, asked.stdout.splitlines())
    assert (first["text"], first["label"], second["label"]) == ("good", "good", "bad")
    assert asked.stderr == "row 2: cut at 4 tokens, as in training; the rest is not read\n"


def test_a_server_needs_the_serving_packages_alone(serving: Environment, tmp_path: Path) -> None:
    with running(str(certified(tmp_path)), python=str(serving.python), PYTHONPATH="") as server:
        answer = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS)
        assert answer.json()["predictions"][0]["label"] == "good"
        assert server.end()[0] == 0


def test_a_bundle_of_images_is_asked_and_a_file_that_is_none_is_one_message(
    serving: Environment, tmp_path: Path
) -> None:
    weights = np.stack([np.eye(4), 1 - np.eye(4)], axis=-1).astype(np.float32)[np.newaxis]
    bundle = write_image_bundle(tmp_path / "bundle", weights, ("diagonal", "rest"))
    Image.fromarray(np.eye(4, dtype=np.uint8) * 9).save(tmp_path / "image.png")
    asked = serving.run("-m", "gauntlet.serving", "predict", str(bundle), str(tmp_path / "image.png"))
    assert json.loads(asked.stdout)["label"] == "diagonal"
    refused = serving.run("-m", "gauntlet.serving", "predict", str(bundle), str(tmp_path / "absent.png"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {tmp_path / 'absent.png'}: no such file")


def test_a_bundle_whose_task_kind_is_not_installed_is_one_message(
    serving: Environment, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", word_score_info(), write_parts(tmp_path / "parts"))
    path = tmp_path / "bundle/bundle.json"
    path.write_text(path.read_text().replace("text_classification", "token_classification"))
    asked = serving.run("-m", "gauntlet.serving", "predict", str(tmp_path / "bundle"), "good")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "task: found 'token_classification', expected one of causal_lm, image_class" in asked.stderr


def test_what_trains_models_is_not_in_the_serving_environment(serving: Environment) -> None:
    for module in ("torch", "pydantic", "pandas", "kfp", "gauntlet.pipelines", "gauntlet.components"):
        assert "ModuleNotFoundError" in serving.run("-c", f"import {module}").stderr


def test_the_wheel_brings_one_package_and_checks_a_manifest_beside_files_of_its_folders_names(
    tree: Path, tmp_path: Path
) -> None:
    wheel = wheel_of(tree, tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as content:
        roots = {Path(name).parts[0] for name in content.namelist()}
        packages = {Path(name).parts[1] for name in content.namelist() if name.startswith("gauntlet/")}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"gauntlet"}
    assert packages == {"__init__.py", *FOLDERS} - {"gauntlet"}
    environment = Environment(tmp_path)
    environment.see(everything_but_gauntlet())
    environment.install(str(wheel))
    checked = environment.run("check", str(MANIFEST), program="gauntlet")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_editable_install_checks_a_manifest_beside_files_of_its_folders_names(
    tree: Path, tmp_path: Path
) -> None:
    environment = Environment(tmp_path)
    environment.see(everything_but_gauntlet())
    environment.install("--editable", str(tree))
    program = f"from gauntlet.pipelines.cli import main; main({['check', str(MANIFEST)]})"
    checked = environment.run("-c", program)  # which looks for modules in the user's folder first
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_both_distributions_have_one_version_and_the_serving_lock_has_the_locked_versions() -> None:
    assert SERVING["project"]["version"] == PROJECT["project"]["version"]
    served, locked = (
        dict(line.split()[0].split("==") for line in path.read_text().splitlines() if "==" in line)
        for path in (REPOSITORY / "serving/requirements.lock", REPOSITORY / "requirements.lock")
    )
    names: set[str] = set()
    list(required([Requirement(one).name for one in SERVING["project"]["dependencies"]], names))
    assert names <= served.keys()
    assert {name: locked[name] for name in names} == {name: served[name] for name in names}
