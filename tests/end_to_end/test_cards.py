"""Card grading through the whole DAG, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from gauntlet.pipelines.home import Home
from gauntlet.serving.bundle import Bundle
from tests.drawn_cards import HEIGHT, WIDTH, dataset, write_cards
from tests.end_to_end.conftest import System

pytestmark = pytest.mark.usefixtures("warm_processes")
FILES = {
    "golden.json",
    "model.onnx",
    "monitoring.json",
    "monitoring.npz",
    "parity.json",
    "training_rows.npz",
}
PER_GRADE = {"train": 10, "val": 3, "test": 4}


def manifest_content(data: Path) -> dict[str, Any]:
    return {
        "name": "bars",
        "description": "Cards that a bar grades",
        "task": "ordinal_grading",
        "seed": 1,
        "dataset": dataset(data),
        "training": {
            "filters": [8, 16],
            "units": 32,
            "phase1_epochs": 3,
            "lr_phase1": 1e-2,
            "phase2_epochs": 6,
            "lr_phase2": 5e-3,
            "batch_size": 10,
        },
        "conversion": {
            "candidates": ["plain", "int8_static"],
            "batch_sizes": [1, 4],
            "pytorch": ["eager"],
            "min_label_agreement": 0.5,
            "max_metric_drop": 0.5,
        },
        "evaluation": {"bootstrap_resamples": 300, "worst_mistakes": 2},
        "gates": {
            "min_macro_f1": 0.0,
            "min_qwk": 0.5,
            "max_mae": 2.0,
            "min_speedup": 0.01,
        },
    }


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system after its first run."""
    folder = tmp_path_factory.mktemp("bars")
    data = write_cards(folder / "data", PER_GRADE)
    manifest = folder / "bars.yaml"
    manifest.write_text(yaml.safe_dump(manifest_content(data)))
    system = System(manifest, Home(folder / "home"))
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return system


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def test_the_bundle_takes_two_images_of_raw_pixels_and_gives_grades_and_more(system: System) -> None:
    info = output(system, "convert-to-onnx/bundle/bundle.json")
    side = {"dtype": "uint8", "shape": ["batch", 3, HEIGHT, WIDTH]}
    assert info["inputs"] == [{"name": "front", **side}, {"name": "back", **side}]
    assert {spec["name"]: spec["shape"] for spec in info["outputs"]} == {
        "logits": ["batch", 10],
        "distribution": ["batch", 10],
        "expected_grade": ["batch"],
        "centering": ["batch", 4],
        "edge_damage": ["batch", 2],
    }
    assert info["files"].keys() == FILES
    rows = {row["name"]: row for row in output(system, "convert-to-onnx/candidates")["candidates"]}
    assert rows["plain"]["max_abs_difference"] < 1e-4
    assert "does not run" not in str(rows["int8_static"]["reason"])
    verified = system.gauntlet("bundle", "verify", str(system.steps() / "convert-to-onnx" / "bundle"))
    assert verified.returncode == 0, verified.stdout


def test_every_output_is_that_of_the_checkpoint_and_the_expected_grade_the_distributions_mean(
    system: System,
) -> None:
    import torch

    from gauntlet.tasks.ordinal_grading.data import read_card_split
    from gauntlet.trainer.saved_model import load_model

    cards = read_card_split(system.steps() / "validate-data" / "splits", "test").images
    bundle = Bundle(system.steps() / "convert-to-onnx" / "bundle")
    names = ("logits", "distribution", "expected_grade", "centering", "edge_damage")
    found = dict(zip(names, bundle.outputs(cards, names), strict=True))
    np.testing.assert_allclose(found["distribution"] @ np.arange(1, 11), found["expected_grade"], atol=1e-4)
    np.testing.assert_allclose(found["distribution"], bundle.probabilities(cards), atol=1e-5)
    if bundle.info.precision == "fp32":
        sides = torch.from_numpy(cards)
        with torch.no_grad():
            expected = load_model(system.steps() / "train-model" / "checkpoint")(sides[:, 0], sides[:, 1])
        for name in names:
            np.testing.assert_allclose(found[name], getattr(expected, name).numpy(), atol=1e-3)


def test_scores_are_those_of_the_predictions(system: System) -> None:
    grades = output(system, "evaluate-model/scores")["challenger"]["grades"]
    predictions = pd.read_parquet(system.steps() / "evaluate-model" / "predictions")
    assert predictions["certificate"].tolist() == [f"test-{row}" for row in range(40)]
    truth, predicted = predictions["label"].astype(int), predictions["predicted"].astype(int)
    assert grades["qwk"] == pytest.approx(cohen_kappa_score(truth, predicted, weights="quadratic"))
    assert grades["mae"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert grades["within_one"] == pytest.approx(((truth - predicted).abs() <= 1).mean())
    assert grades["qwk_lower_bound"] <= grades["qwk"]
    assert grades["mae_upper_bound"] >= grades["mae"]
    assert grades["centering_error"] > 0


def test_the_gate_judges_qwk_and_error_and_the_reports_show_what_grades_rest_on(system: System) -> None:
    rules = {rule["rule"]: rule for rule in output(system, "gate-model/verdict")["rules"]}
    assert (rules["qwk"]["bound"], rules["qwk"]["verdict"]) == (0.5, "pass")
    assert (rules["mae"]["operator"], rules["mae"]["bound"]) == ("<=", 2.0)
    run_report = Path(system.gauntlet("report").stdout.strip()).read_text(encoding="utf-8")
    assert "gauntlet predict --model bars FRONT.jpg BACK.jpg" in run_report
    assert "Files that could not be read" not in run_report
    step_report = (system.steps() / "evaluate-model" / "report").read_text(encoding="utf-8")
    for page in (run_report, step_report):
        assert "QWK" in page
        assert "Centering error" in page
        if output(system, "evaluate-model/scores")["mistakes"]:
            assert "orange where covering a part raises" in page


def test_pairs_of_files_are_graded_by_the_champion_and_half_a_pair_is_refused(system: System) -> None:
    folder = system.manifest.parent / "data"
    files = [str(folder / f"test-{card}-{side}.png") for card in (0, 9) for side in ("front", "back")]
    predicted = system.gauntlet("predict", *files)
    assert predicted.returncode == 0, predicted.stderr
    table = predicted.stdout.splitlines()
    assert table[0].split()[:5] == ["front", "back", "grade", "probability", "expected"]
    assert float(table[1].split()[4]) < 5 < float(table[2].split()[4])
    refused = system.gauntlet("predict", *files[:3])
    assert refused.returncode == 2
    assert "found 3 image files, expected front and back of each card" in refused.stderr


@pytest.mark.acceptance
def test_a_second_model_is_compared_with_the_champion_by_qwk(system: System) -> None:
    again = system.run("gates.min_qwk=1.0")
    assert again.returncode == 3, again.stdout + again.stderr
    rules = {rule["rule"]: rule for rule in output(system, "gate-model/verdict")["rules"]}
    assert rules["qwk"]["verdict"] == "fail"
    assert "QWK minus the champion's" in rules["non_inferiority"]["note"]
    scores = output(system, "evaluate-model/scores")
    assert rules["non_inferiority"]["value"] == scores["paired"]["qwk_lower_bound"]
    ours, theirs = (scores[model]["grades"]["qwk"] for model in ("challenger", "champion"))
    assert scores["paired"]["qwk_difference"] == pytest.approx(ours - theirs)
