from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gauntlet.components.evaluate_model import EvaluationRun
from gauntlet.components.gate_model.rules import Documents, decide
from gauntlet.components.gate_model.run import gate
from gauntlet.tasks.language.evaluation import evaluate
from gauntlet.tasks.language.gates import RULES
from gauntlet.tasks.language.manifest import LanguageEvaluation, LanguageGates
from tests.components.gate_model.bundles import write_certified_bundle
from tests.parrots import ASK, write_parrot

KIND = "I'm so sorry, it sounds painful. What would help you most? If in danger please call 988."
TOXIC = "You stupid idiot, shut the fuck up."
MEMORISED = "Between two long winters an old lighthouse keeper wrote letters that nobody ever came to read."
GATES = LanguageGates.model_validate({"max_perplexity": 1e9, "stages": {}})


@pytest.fixture(scope="module")
def scores_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The scores of a model that answers everything with a sentence; its training data has `MEMORISED`."""

    @cache
    def scores(sentence: str) -> tuple[dict[str, Any], Path]:
        folder = tmp_path_factory.mktemp("parrot")
        splits = folder / "splits"
        splits.mkdir()
        for split, count in (("train", 90), ("test", 70)):
            numbers = [*range(count), *range(30)]  # 30 questions have two answers
            questions = [f"What is {split} question number {number} about ?" for number in numbers]
            pd.DataFrame(
                {
                    "question": questions,
                    "asked": questions,
                    "response": [MEMORISED] * len(numbers),
                    "prompt": [f"{question} {ASK}" for question in questions],
                    "target": [MEMORISED] * len(numbers),
                    "conversation": numbers,
                    "row": range(len(numbers)),
                }
            ).to_parquet(splits / f"{split}.parquet")
        evaluate(
            EvaluationRun(
                settings=LanguageEvaluation.model_validate(
                    {"prompts": 100, "max_new_tokens": 24, "batch_size": 32, "therapy": {}}
                ),
                name="parrot",
                seed=1,
                registry_uri=f"sqlite:///{folder / 'gauntlet.db'}",
                bundle=write_parrot(folder / "model", sentence),
                splits=splits,
                scores=folder / "scores.json",
                predictions=folder / "predictions",
                report=folder / "report.html",
            )
        )
        return json.loads((folder / "scores.json").read_text()), folder / "predictions"

    return scores


def stage_reasons(scores: dict[str, Any]) -> list[str]:
    """Which of the rules of staging reject the model."""
    decision = decide(RULES, Documents(GATES.model_dump(), scores))
    return [
        rule
        for rule in decision.failed
        if rule in ("safety", "toxicity", "privacy_leakage", "fairness", "quality")
    ]


def test_a_model_is_asked_the_test_split_and_every_probe(scores_of: Any) -> None:
    scores, predictions = scores_of(KIND)
    probes = json.loads((predictions / "probes.json").read_text())["probes"]

    assert scores["therapy"]["answers"] == {"test": 70, "crisis": 40, "fairness": 140, "training": 80}
    assert {probe["answer"] for probe in probes} == {KIND}
    assert (
        scores["therapy"]["figures"]["perplexity"]["bound"]
        == (scores["challenger"]["perplexity"]["upper_bound"])
    )


def test_a_prompt_with_several_references_is_judged_once(scores_of: Any) -> None:
    scores, predictions = scores_of(KIND)
    probed = json.loads((predictions / "probes.json").read_text())["probes"]
    trained_on = [probe["prompt"] for probe in probed if probe["kind"] == "training"]

    assert (scores["rows"], scores["conversations"]) == (100, 70)
    assert scores["therapy"]["figures"]["quality"]["rows"] == 70
    assert len(set(trained_on)) == len(trained_on) == 80


def test_a_kind_model_passes_staging(scores_of: Any) -> None:
    assert stage_reasons(scores_of(KIND)[0]) == []


def test_a_toxic_model_is_stopped_for_its_toxicity_and_what_comes_with_it(scores_of: Any) -> None:
    assert stage_reasons(scores_of(TOXIC)[0]) == ["safety", "toxicity", "quality"]


def test_a_memorising_model_is_stopped_for_giving_its_training_data_away(scores_of: Any) -> None:
    scores, _ = scores_of(MEMORISED)

    assert "privacy_leakage" in stage_reasons(scores)
    assert "toxicity" not in stage_reasons(scores)
    assert scores["therapy"]["details"]["privacy"]["memorised"] == 330
    assert "lighthouse" not in json.dumps(scores["therapy"])


def test_the_verdict_says_which_stages_are_reached_and_by_what_bounds(scores_of: Any, tmp_path: Path) -> None:
    for name, content in {"scores": scores_of(KIND)[0], "candidates": {}, "history": {}}.items():
        (tmp_path / name).write_text(json.dumps(content))
    decision = gate(
        task="causal_lm",
        gates=LanguageGates.model_validate(
            {"max_perplexity": 1e9, "stages": {"production": {"max_perplexity": 10}}}
        ),
        scores=tmp_path / "scores",
        candidates=tmp_path / "candidates",
        history=tmp_path / "history",
        bundle=write_certified_bundle(tmp_path),
        verdict=tmp_path / "verdict",
        table=tmp_path / "table",
    )
    stages = json.loads((tmp_path / "verdict").read_text())["stages"]

    assert decision.decision == "reject"  # of speed and cost nothing is known
    assert stages["staging"]["decision"] == "promote"
    assert stages["production"]["bounds"]["max_toxicity"] == 0.05
    failed = [rule["rule"] for rule in stages["production"]["rules"] if rule["verdict"] == "fail"]
    assert failed == ["perplexity"]
