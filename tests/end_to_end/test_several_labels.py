"""Several labels per text through the whole DAG, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from gauntlet.backends.factory import open_registry
from gauntlet.components.evaluate_model import EvaluationRun
from gauntlet.pipelines.home import Home
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.multi_label_text.data import label_sets
from gauntlet.tasks.multi_label_text.evaluation import evaluate
from tests.conftest import CLASS_WORDS, LABELS
from tests.end_to_end.conftest import System, manifest_content

pytestmark = pytest.mark.usefixtures("warm_processes")


def write_rows(path: Path) -> Path:
    """Texts of words of one class or of two, whose labels these are."""
    generator = np.random.default_rng(0)
    lines = []
    for row in range(240):
        labels = generator.permutation(LABELS)[: 1 + row % 2].tolist()
        words = [generator.choice(CLASS_WORDS[label]) for label in labels for _ in range(2)]
        lines.append(json.dumps({"text": f"{' '.join(words)} {row}", "labels": labels}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def system(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system after its first run."""
    folder = tmp_path_factory.mktemp("labels")
    content = manifest_content(tiny_encoder, write_rows(folder / "data.jsonl"))
    content |= {"name": "feelings", "task": "multi_label_text_classification"}
    content["training"] |= {"positive_weights": "balanced", "student": {"layers": [0], "epochs": 1}}
    content["conversion"] |= {"student": {"candidates": ["fused"], "max_metric_drop": 1.0}}
    content["gates"] |= {"min_micro_f1": 0.1, "min_label_f1": 0.1}
    manifest = folder / "feelings.yaml"
    manifest.write_text(yaml.safe_dump(content))
    system = System(manifest, Home(folder / "home"))
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return system


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def test_the_promoted_model_answers_with_the_thresholds_that_were_chosen_on_validation(
    system: System,
) -> None:
    thresholds = output(system, "convert-to-onnx/bundle/thresholds.json")
    assert set(thresholds) == set(LABELS)
    assert open_registry(system.home.store_uri).champion("feelings").version == "1"
    words = [CLASS_WORDS[label][0] for label in LABELS[:2]]
    done = system.gauntlet("predict", "--model", "feelings", "--json", " ".join(words * 2))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["thresholds"] == thresholds
    given = [label for label in LABELS if answer["probabilities"][label] >= thresholds[label]]
    assert sorted(answer["labels"]) == sorted(given)
    table = system.gauntlet("predict", "--model", "feelings", words[0])
    assert table.returncode == 0, table.stderr
    assert "labels" in table.stdout and "probabilities" in table.stdout


def test_the_scores_are_those_of_the_answers_and_the_page_shows_every_label(system: System) -> None:
    scores = output(system, "evaluate-model/scores")["challenger"]
    predictions = pd.read_parquet(system.steps() / "evaluate-model" / "predictions")
    truth, given = (
        predictions[[f"{name}_{label}" for label in LABELS]].to_numpy() for name in ("true", "given")
    )
    written = pd.read_parquet(system.steps() / "validate-data" / "splits" / "test.parquet")
    assert (truth == (label_sets(written) > 0)).all()
    for average in ("macro", "micro"):
        found = scores[f"{average}_f1"]
        assert found == pytest.approx(f1_score(truth, given, average=average, zero_division=0))
        assert found > 0.6, "words give the labels away"
    page = (system.home.run_folder(system.home.find_run("latest").run_id) / "report.html").read_text()
    for words in ("Labels together", "Labels of a row", "Threshold", "micro-F1", *LABELS):
        assert words in page


def test_every_candidate_is_compared_with_the_thresholds_and_a_student_with_its_own(system: System) -> None:
    rows = {row["name"]: row for row in output(system, "convert-to-onnx/candidates")["candidates"]}
    assert rows["plain"]["label_agreement"] == rows["fused"]["label_agreement"] == 1
    assert rows["student_fused"]["label_agreement"] == 1
    history = output(system, "train-model/history")
    best = history["epochs"][history["best_epoch"] - 1]["validation"]["macro_f1"]
    assert rows["plain"]["macro_f1"] == pytest.approx(best, abs=1e-6)


def test_a_champion_is_scored_with_its_own_thresholds(system: System, tmp_path: Path) -> None:
    steps = system.steps()
    names = ("scores", "predictions", "report")
    evaluate(
        EvaluationRun(
            settings=Evaluation(bootstrap_resamples=200),
            name="feelings",
            seed=1,
            registry_uri=system.home.store_uri,
            bundle=steps / "convert-to-onnx" / "bundle",
            splits=steps / "validate-data" / "splits",
            **{name: tmp_path / name for name in names},
        )
    )
    scores = json.loads((tmp_path / "scores").read_text())
    assert scores["champion"]["version"] == "1"
    assert scores["champion"]["macro_f1"] == scores["challenger"]["macro_f1"]
    assert scores["paired"]["macro_f1_difference"] == scores["paired"]["lower_bound"] == 0
    predictions = pd.read_parquet(tmp_path / "predictions")
    assert (predictions["champion_predicted"] == predictions["predicted"]).all()
