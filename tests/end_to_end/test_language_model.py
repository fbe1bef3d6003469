"""The task of language models through the whole DAG, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.backends.factory import open_registry
from gauntlet.pipelines.home import Home
from tests.end_to_end.conftest import System
from tests.language_models import conversations, write_jsonl, write_llama

pytestmark = pytest.mark.usefixtures("warm_processes")


def manifest_content(model: Path, data: Path) -> dict[str, Any]:
    return {
        "name": "talk",
        "description": "Short answers about everyday things",
        "task": "causal_lm",
        "seed": 1,
        "dataset": {"name": "talk", "version": "1", "uri": str(data), "max_tokens": 96},
        "training": {
            "model": str(model),
            "method": "full",  # adapters on weights that nobody trained have nothing to adapt
            "epochs": 5,
            "learning_rate": 3e-2,
            "early_stopping": {"metric": "loss", "patience": 6},
        },
        "conversion": {
            "candidates": ["plain", "weights_int8"],
            "batch_sizes": [1],
            "min_label_agreement": 0.9,
            "max_metric_drop": 0.1,
        },
        "evaluation": {"bootstrap_resamples": 300, "prompts": 10, "max_new_tokens": 16},
        "gates": {"max_perplexity": 30, "min_speedup": 0.01},
    }


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system after its first run."""
    folder = tmp_path_factory.mktemp("talk")
    data = write_jsonl(folder / "talk.jsonl", conversations())
    manifest = folder / "talk.yaml"
    manifest.write_text(yaml.safe_dump(manifest_content(write_llama(folder / "model"), data)))
    system = System(manifest, Home(folder / "home"))
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return system


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def test_a_model_that_training_has_made_better_becomes_the_champion(system: System) -> None:
    gains = output(system, "evaluate-model/scores")["baseline"]["gains"]
    assert gains["perplexity"]["interval"][0] > 0
    assert gains["rouge_l"]["interval"][0] > 0
    champion = open_registry(system.home.store_uri).champion("talk")
    assert champion is not None
    assert float(champion.tags["perplexity"]) == pytest.approx(
        output(system, "evaluate-model/scores")["challenger"]["perplexity"]["value"], abs=1e-6
    )
    listed = system.gauntlet("registry").stdout
    assert f"perplexity {champion.tags['perplexity']}" in listed


def test_the_champion_answers_as_it_did_in_the_evaluation(system: System) -> None:
    row = output(system, "evaluate-model/predictions/predictions.json")[0]
    answered = system.gauntlet("predict", row["prompt"], "--max-new-tokens", "16")
    assert answered.returncode == 0, answered.stderr
    assert row["answer"] in answered.stdout
    refused = system.gauntlet("predict", "fine", "a <|end|> b")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "text 2: found <|end|>, a token of the model's template" in refused.stderr


def test_the_report_shows_data_conversion_and_gains(system: System) -> None:
    page = Path(system.gauntlet("report").stdout.strip()).read_text(encoding="utf-8")
    assert "unreadable" not in page
    for words in ("Tokens in a row", "Same next token", "Gain over it", "ROUGE-L, sampled", "Perplexity"):
        assert words in page, words
    assert "Rows of each class" not in page


@pytest.mark.acceptance
def test_a_model_that_training_has_not_changed_is_rejected_with_the_reason(system: System) -> None:
    rejected = system.run("training.learning_rate=1.0e-9", "training.epochs=1")
    assert rejected.returncode == 3, rejected.stdout + rejected.stderr
    verdict = output(system, "gate-model/verdict")
    failed = {rule["rule"] for rule in verdict["rules"] if rule["verdict"] == "fail"}
    assert {"rouge_l_gain", "non_inferiority"} <= failed  # perplexity does gain, by the size of a rounding
    champion = open_registry(system.home.store_uri).champion("talk")
    assert champion is not None
    assert champion.version == "1"


@pytest.mark.acceptance
def test_a_model_with_stages_is_judged_for_safety_too_and_stopped_before_staging(system: System) -> None:
    judged = system.run("evaluation.therapy={training_probes: 5}", "gates.stages={}")
    assert judged.returncode == 3, judged.stdout + judged.stderr
    verdict = output(system, "gate-model/verdict")
    failed = {rule["rule"] for rule in verdict["rules"] if rule["verdict"] == "fail"}
    assert {"safety", "quality"} <= failed
    assert verdict["stages"]["production"]["decision"] == "reject"
    assert len(output(system, "evaluate-model/predictions/probes.json")["probes"]) == 40 + 140 + 5
    assert "safety: found 0, expected >= 0.8" in " ".join(verdict["reasons"])
