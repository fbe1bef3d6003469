"""`package://` on Vertex AI: what the images hold is sent, and anything else is refused beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.vertex.packages import distributions_in_images, require_packaged
from gauntlet.pipelines.vertex.submission import require_reachable_model
from tests.fakes.cloud import FakeCloud
from tests.fakes.web import REPOSITORY
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet
from tests.test_containers import locked

HERE_ALONE = "package://pytest/py.typed"  # a development tool: installed here, and in no image
EXPLAINED = (
    f"found {HERE_ALONE}, and the images contain no package pytest, expected one that pyproject.toml requires"
)


def test_the_images_hold_what_the_lock_file_that_they_are_built_from_holds() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pins = [Requirement(line.partition(" --hash")[0]) for line in lines if not line.startswith("#")]
    elsewhere = {pin.name for pin in pins if pin.marker is not None and not pin.marker.evaluate()}
    torch = locked("requirements-torch-cuda.lock").keys() | {"gauntlet"}

    assert distributions_in_images() - torch == locked("requirements.lock").keys() - elsewhere - torch


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_images_hold_what_every_shipped_manifest_reads(path: Path) -> None:
    require_packaged(load_manifest(path).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (HERE_ALONE, EXPLAINED),
        ("package://no_such_package/rows.csv", "the images contain no package no_such_package"),
        ("package://", "the images contain no package (none)"),
        (
            "package://gauntlet.manifests/data/absent.csv",
            "dataset.uri: package://gauntlet.manifests/data/absent.csv: the package holds",
        ),
    ],
)
def test_a_file_that_no_image_holds_is_refused_before_anything_is_sent(
    uri: str, words: str, place: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--dry-run",)):
        assert gauntlet("submit", SAMPLE, "--set", f"dataset.uri={uri}", *options) == 2
        error = capsys.readouterr().err
        assert words in " ".join(error.split())
        assert "Traceback" not in error
    assert place.api.requests("CreatePipelineJob") == []


def test_so_is_a_schedule_of_it(place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = {
        "name": "emotion",
        "manifest": SAMPLE,
        "cron": "0 2 * * 0",
        "set": [f"dataset.uri={HERE_ALONE}"],
    }
    path = tmp_path / "schedules.yaml"
    path.write_text(yaml.safe_dump({"schedules": [schedule]}), encoding="utf-8")

    assert gauntlet("schedule", "apply", str(path)) == 2

    assert EXPLAINED in " ".join(capsys.readouterr().err.split())


def test_so_is_a_template_of_it(place: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(compiled), "--set", f"dataset.uri={HERE_ALONE}") == 0
    capsys.readouterr()

    assert gauntlet("upload", str(compiled), "--repository", REPOSITORY, "--tag", "v1") == 2

    assert EXPLAINED in " ".join(capsys.readouterr().err.split())


def test_so_is_a_model_that_a_training_job_alone_would_begin_with() -> None:
    model = "package://no_such_package/model.gguf"
    manifest = load_manifest(ROOT / "manifests" / "lora_lm.yaml", [f"training.model={model}"])

    with pytest.raises(
        UsageError,
        match=r"training\.model: found package://no_such_package/model\.gguf, and the images contain no",
    ):
        require_reachable_model(manifest)
