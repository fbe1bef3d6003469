"""Which state of the user's own repository a model was made by."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gauntlet.pipelines.local.run import commit_of
from tests.components.register_model.test_register_run import MODEL, Step


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_repository_that_holds_the_manifest(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "mine.yaml").write_text("seed: 1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Add a manifest")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path / "manifests") == commit
    (tmp_path / "manifests" / "mine.yaml").write_text("seed: 2")
    assert commit_of(tmp_path / "manifests") == f"{commit}-dirty"


@pytest.mark.parametrize("commit", ["", "4f" * 20 + "-dirty"])
def test_a_version_has_the_commit_beside_gauntlets_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str
) -> None:
    monkeypatch.setenv("GAUNTLET_MANIFEST_COMMIT", commit)
    step = Step(tmp_path / "run", "run-1")
    step.run()
    champion = step.registry.champion(MODEL)
    assert champion is not None
    assert champion.tags["git_commit"] == "d" * 40
    assert champion.tags.get("manifest_commit", "") == commit
