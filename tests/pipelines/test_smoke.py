"""`gauntlet smoke`: what it sets, what it stands in for, and that a run comes to its gate's decision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.backends.factory import open_registry
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.smoke import Smoke, overrides, smoke_table, tiny_settings
from tests.pipelines.test_cli import ROOT, gauntlet

pytestmark = pytest.mark.usefixtures("warm_processes")
MANIFESTS = sorted(path for path in (ROOT / "manifests").glob("*.yaml") if path.stem != "gemini_lm")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_tiny_settings_make_a_valid_manifest_that_needs_no_network(path: Path, tmp_path: Path) -> None:
    settings, rows = tiny_settings(load_manifest(path), tmp_path)
    tiny = load_manifest(path, overrides(settings))
    assert tiny.training.total_epochs <= 2  # type: ignore[attr-defined]
    uri = tiny.dataset.uri
    assert uri.startswith(("package://", "synthetic://")) or Path(uri).exists()
    remote = path.stem in ("emotion", "fashion_mnist")
    assert rows == {True: "drawn", False: "fewer cards" if path.stem == "card_grading" else "its own"}[remote]
    assert tiny.gates == load_manifest(path).gates


def test_rows_for_a_hub_that_is_out_of_reach_are_of_the_manifests_classes(tmp_path: Path) -> None:
    settings, _ = tiny_settings(load_manifest(ROOT / "manifests" / "emotion.yaml"), tmp_path)
    lines = Path(settings["dataset"]["uri"]).read_text().splitlines()
    labels = [line.rsplit(",", 1)[1].strip('"') for line in lines[1:]]
    assert set(labels) == {"sadness", "joy", "love", "anger", "fear", "surprise"}
    assert len(set(lines)) == len(lines)


def test_conversations_in_a_bucket_are_replaced_by_the_packaged_ones(tmp_path: Path) -> None:
    elsewhere = ["dataset.uri=gs://nowhere/at-all", "dataset.name=talk"]
    path = ROOT / "manifests" / "therapy_lm.yaml"
    settings, rows = tiny_settings(load_manifest(path, elsewhere), tmp_path)
    tiny = load_manifest(path, [*elsewhere, *overrides(settings)])
    assert rows == "packaged" and tiny.dataset.uri.startswith("package://")
    assert tiny.dataset.checks.context_length.max_fraction == 1.0  # type: ignore[attr-defined]


def image_manifest(folder: Path, **gates: Any) -> Path:
    content = {
        "name": "shapes",
        "description": "Bars in images that lie in a bucket",
        "task": "image_classification",
        "dataset": {"name": "shapes", "version": "1", "uri": "gs://nowhere/at-all", "shape": [16, 16],
                    "labels": ["left", "middle", "right"]},
        "gates": {"min_macro_f1": 0.1} | gates,
    }  # fmt: skip
    path = folder / "shapes.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(("min_speedup", "decision"), [(0.01, "promote"), (1000, "reject")])
def test_a_system_comes_to_its_decision_and_touches_no_registry_but_its_own(
    tmp_path: Path,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    min_speedup: float,
    decision: str,
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("GAUNTLET_REGISTRY", elsewhere)
    shapes, managed = image_manifest(tmp_path, min_speedup=min_speedup), ROOT / "manifests/gemini_lm.yaml"
    assert gauntlet("smoke", str(shapes), str(managed)) == 0
    output = capsys.readouterr().out
    assert re.search(rf"^shapes +drawn +{decision} ", output, re.MULTILINE), output
    assert "gemini_lm" in output and "skipped" in output and "for money" in output
    assert not (tmp_path / "elsewhere.db").exists()
    assert open_registry(Home(own_home).store_uri).names() == []
    own = open_registry(Home(own_home / "smoke" / "shapes").store_uri)
    assert own.names() == (["shapes"] if decision == "promote" else [])


def test_a_system_that_fails_before_its_decision_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    path = image_manifest(tmp_path)
    content = yaml.safe_load(path.read_text())
    (tmp_path / "empty").mkdir()
    content["dataset"]["uri"] = str(tmp_path / "empty")  # at hand, so it is used as it is
    path.write_text(yaml.safe_dump(content))
    assert gauntlet("smoke", str(path)) == 1
    output = capsys.readouterr().out
    assert "failed" in output and "found no files" in output and "run.log" in output


def test_a_manifest_that_is_not_valid_keeps_all_from_running(tmp_path: Path, own_home: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: broken\n")
    assert gauntlet("smoke", str(broken), str(image_manifest(tmp_path))) == 2
    assert not (own_home / "smoke").exists()


def test_the_table_says_how_each_system_ended() -> None:
    rows = [Smoke("a", "its own", "promote", 61.2), Smoke("b", "", "failed", 2.0, "Failed in x", "/run.log")]
    table = smoke_table(rows)
    assert [list(column.cells) for column in table.columns][3] == ["61", "2"]
