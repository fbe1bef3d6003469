"""What `import gauntlet` gives."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gauntlet
from gauntlet.serving.bundle import write_bundle
from tests.text_bundles import word_score_info, write_parts

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("name", gauntlet.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(gauntlet, name) is not None
    assert name in dir(gauntlet)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gauntlet' has no attribute 'train'"):
        _ = gauntlet.train


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert gauntlet.__version__ == project["version"]


def test_importing_gauntlet_imports_no_room() -> None:
    code = "import gauntlet, sys; print([name for name in sys.modules if name.startswith('gauntlet.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_manifest_is_loaded_and_data_that_are_missing_are_refused_before_the_run(tmp_path: Path) -> None:
    manifest = gauntlet.load_manifest(
        REPOSITORY / "manifests" / "emotion_sample.yaml", [f"dataset.uri={tmp_path / 'absent.csv'}"]
    )
    with pytest.raises(gauntlet.UsageError, match=r"dataset\.uri: found .*absent\.csv"):
        gauntlet.run(manifest, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_bundle_answers(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", word_score_info(), write_parts(tmp_path / "parts"))
    [answer] = gauntlet.open_model(tmp_path / "bundle").answer(gauntlet.Request(["good"]))
    assert answer.content["label"] == "good"
