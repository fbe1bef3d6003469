"""The task kind regression through the whole DAG on generated texts, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import yaml
from sklearn.metrics import mean_absolute_error, r2_score

from gauntlet.pipelines.home import Home
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.regression.tiny import write_texts
from tests.end_to_end.conftest import System

pytestmark = pytest.mark.usefixtures("warm_processes")


def manifest_content(encoder: Path, data: Path) -> dict[str, Any]:
    return {
        "name": "stars",
        "description": "A number that a word gives away",
        "task": "regression",
        "seed": 1,
        "dataset": {
            "name": "stars",
            "version": "1",
            "uri": str(data),
            "columns": {"text": "review", "target": "stars"},
            "target": {"min": 100, "max": 500},
            "checks": {
                "near_duplicates": {"severity": "warn"},
                "leakage": {"similarity": 1.0},
                "unknown_tokens": {"severity": "warn"},
            },
        },
        "training": {
            "encoder": str(encoder),
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 3e-3,
            "max_length": 16,
        },
        "conversion": {"candidates": ["plain"], "batch_sizes": [1, 4], "pytorch": ["eager"]},
        "evaluation": {"bootstrap_resamples": 300, "worst_rows": 3},
        "gates": {"max_mae": 200, "min_interval_coverage": 0.5, "min_speedup": 0.01},
    }


@pytest.fixture(scope="module")
def system(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system after its first run."""
    folder = tmp_path_factory.mktemp("stars")
    data = write_texts(folder, np.linspace(100, 500, 240), ("review", "stars"))
    manifest = folder / "stars.yaml"
    manifest.write_text(yaml.safe_dump(manifest_content(tiny_encoder, data)))
    system = System(manifest, Home(folder / "home"))
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Promoted as version 1" in done.stdout
    return system


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def test_the_scores_are_those_of_scikit_learn(system: System) -> None:
    predictions = pd.read_parquet(system.steps() / "evaluate-model" / "predictions")
    scores = output(system, "evaluate-model/scores")
    ours = scores["challenger"]
    truth, answers = predictions["target"], predictions["predicted"]
    assert ours["mae"] == pytest.approx(mean_absolute_error(truth, answers))
    assert ours["r2"] == pytest.approx(r2_score(truth, answers))
    assert ours["intervals"]["mae"][0] <= ours["mae"] <= ours["upper_bounds"]["mae"]
    inside = np.abs(truth - answers) <= ours["half_width"]
    assert ours["coverage"] == pytest.approx(inside.mean())
    assert sum(one["rows"] for one in ours["slices"]) == scores["rows"] == len(predictions)
    worst = np.abs(truth - answers).nlargest(3)
    assert [abs(row["predicted"] - row["target"]) for row in scores["worst"]] == pytest.approx(worst.tolist())


def test_the_graph_itself_answers_in_the_unit_of_the_target(system: System) -> None:
    predictions = pd.read_parquet(system.steps() / "evaluate-model" / "predictions")
    bundle = system.steps() / "convert-to-onnx" / "bundle"
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    inputs = TextInputs.open(bundle / "tokenizer.json", 16).batch(predictions["text"].tolist()[:5])
    (answers,) = session.run(["logits"], inputs)
    np.testing.assert_allclose(answers[:, 0], predictions["predicted"][:5], rtol=1e-4)
    assert answers.min() >= 100
    assert answers.max() <= 500
    target = json.loads((bundle / "target.json").read_text())
    train = pd.read_parquet(system.steps() / "validate-data" / "splits" / "train.parquet")["target"]
    assert target["mean"] == pytest.approx(train.mean())
    assert target["std"] == pytest.approx(train.std(ddof=0))


def test_the_certificate_has_differences_in_the_unit_of_the_target(system: System) -> None:
    certificate = json.loads((system.steps() / "convert-to-onnx/bundle/parity.json").read_text())
    assert 0 <= certificate["mean_abs_difference"] <= certificate["max_abs_difference"]
    assert certificate["max_abs_difference"] / certificate["target_std"] < 1e-4
    assert certificate["neighbours"]["max_difference"] < 0.05
    assert output(system, "convert-to-onnx/candidates")["pytorch"]["mae"] == pytest.approx(
        certificate["pytorch_mae"]
    )


def test_predict_answers_with_the_number_and_its_interval(system: System) -> None:
    asked = system.gauntlet("predict", "--model", "stars", "--json", "kalomi five netoru")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["target"] == "stars" and answer["coverage"] == 0.9
    assert 100 <= answer["low"] <= answer["value"] <= answer["high"] <= 500
    shown = system.gauntlet("predict", "--model", "stars", "kalomi five netoru")
    assert "90% interval" in shown.stdout and " to " in shown.stdout


def test_the_report_shows_the_pictures_and_the_worst_rows(system: System) -> None:
    run = system.home.find_run("latest").run_id
    page = (system.home.run_folder(run) / "report.html").read_text(encoding="utf-8")
    for words in ("Predicted and true stars", "Error by stars", "Largest errors", "Mean absolute error"):
        assert words in page, words
    assert 'aria-label="Predicted and true stars: ' in page
    assert "It could not be shown" not in page
    assert output(system, "evaluate-model/scores")["worst"][0]["text"][:20] in page
