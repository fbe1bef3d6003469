"""Sections that are too large for a command line, on their way to a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gauntlet.components.sections import given, keep, reference
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.cli import app
from gauntlet.pipelines.training import parameters

ROOT = Path(__file__).parents[2]
SECTION: dict[str, Any] = {"labels": ["naïve", "b"], "split": {"train": 0.5}, "count": 3}


def many_labels(folder: Path) -> Path:
    manifest = yaml.safe_load((ROOT / "manifests" / "emotion_sample.yaml").read_text())
    manifest["dataset"]["labels"] = [f"label {number}" for number in range(5_000)]
    (folder / "many.yaml").write_text(yaml.safe_dump(manifest))
    return folder / "many.yaml"


def test_a_step_gets_the_section_whichever_way_it_travels(tmp_path: Path) -> None:
    assert given(SECTION) is SECTION
    keep([SECTION, {"other": 1}], str(tmp_path))
    assert given(reference(SECTION, str(tmp_path))) == SECTION


@pytest.mark.parametrize(("damage", "fault"), [("altered", GauntletError), ("gone", UsageError)])
def test_a_section_whose_file_is_not_the_one_that_was_written_is_refused(
    tmp_path: Path, damage: str, fault: type[Exception]
) -> None:
    keep([SECTION], str(tmp_path))
    [file] = tmp_path.iterdir()
    if damage == "altered":
        file.write_text(file.read_text().replace("3", "4"))
    else:
        file.unlink()
    with pytest.raises(fault, match=file.name):
        given(reference(SECTION, str(tmp_path)))


def test_a_manifest_below_the_limit_travels_as_parameters_alone(tmp_path: Path) -> None:
    manifest = load_manifest(ROOT / "manifests" / "emotion_sample.yaml")
    assert parameters(manifest) == parameters(manifest, str(tmp_path))


def test_a_large_section_is_compiled_with_a_folder_that_steps_can_read_and_refused_without(
    tmp_path: Path,
) -> None:
    manifest = many_labels(tmp_path)
    arguments = ["compile", str(manifest), "--platform", "kubeflow", "--output", str(tmp_path / "spec.yaml")]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, UsageError)
    assert "dataset: found" in str(refused.exception)
    assert "--sections" in str(refused.exception)
    assert not (tmp_path / "spec.yaml").exists()

    done = CliRunner().invoke(app, [*arguments, "--sections", str(tmp_path / "sections")])
    assert done.exit_code == 0, done.output
    spec, _ = yaml.safe_load_all((tmp_path / "spec.yaml").read_text())  # the second is Kubernetes' own
    section = spec["root"]["inputDefinitions"]["parameters"]["dataset"]["defaultValue"]
    assert len(given(section)["labels"]) == 5_000
    assert "label 4999" not in (tmp_path / "spec.yaml").read_text()
