from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gauntlet.components.gate_model.rules import decide
from gauntlet.components.gate_model.run import gate, markdown, print_table
from gauntlet.contracts.verdict import Decision
from gauntlet.manifests.errors import GauntletError
from gauntlet.tasks.classification.gates import RULES
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.scorecard import ChampionFailure, ChampionPredictions, Scoring, assess
from tests.components.gate_model.bundles import write_certified_bundle
from tests.components.gate_model.documents import GATES, GOOD
from tests.text_bundles import scores_by_padding

NEITHER = np.zeros(200, dtype=bool)
SCORES: dict[str, Any] = {
    **GOOD.scores,
    "training_overlap": {
        "challenger": 0,
        "champion": 3,
        "clean_rows": 147,
        "summary": "3 of 150 test rows were.",
    },
}
CANDIDATES: dict[str, Any] = dict(GOOD.candidates)
HISTORY: dict[str, Any] = dict(GOOD.history)
CERTIFICATE: dict[str, Any] = dict(GOOD.certificate)


def without(document: dict[str, Any], *path: Any) -> dict[str, Any]:
    copy = deepcopy(document)
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


def judged(
    scores: Any = SCORES, candidates: Any = CANDIDATES, history: Any = HISTORY, certificate: Any = CERTIFICATE
) -> Decision:
    documents = replace(GOOD, scores=scores, candidates=candidates, history=history, certificate=certificate)
    return decide(RULES, documents)


def failing(**documents: Any) -> list[str]:
    return list(judged(**documents).failed)


def test_the_figures_are_those_of_the_chosen_candidate_at_the_objective_batch_size() -> None:
    assert failing() == []
    decision = judged(candidates=CANDIDATES | {"objective_batch_size": 32})
    values = {rule.rule: rule.value for rule in decision.rules}
    assert (values["speedup"], values["model_size"]) == (2.2, 22.0)
    assert decision.failed == ("speedup",)
    assert failing(candidates=CANDIDATES | {"chosen": "plain"}) == ["model_size"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (without(SCORES, "challenger", "lower_bounds", "macro_f1"), ["macro_f1"]),
        (without(SCORES, "challenger", "lower_bounds", "accuracy"), ["accuracy"]),
        (without(SCORES, "challenger", "intervals"), ["validation_gap"]),
        (without(SCORES, "challenger"), ["macro_f1", "accuracy", "validation_gap"]),
        (without(SCORES, "paired", "lower_bound"), ["non_inferiority"]),
        (without(SCORES, "paired", "class_f1_difference", "fear"), ["class_f1_drop"]),
        (without(SCORES, "labels"), ["class_f1_drop"]),
        (without(SCORES, "paired"), ["non_inferiority", "class_f1_drop"]),
        (without(without(SCORES, "paired"), "champion"), []),
        (without(SCORES, "training_overlap", "challenger"), ["training_overlap"]),
        (without(SCORES, "training_overlap", "clean_rows"), ["clean_test_rows"]),
        (without(SCORES, "training_overlap"), ["training_overlap", "clean_test_rows"]),
        (SCORES | {"champion_error": "cannot be read"}, ["comparable_champion"]),
    ],
)
def test_a_figure_missing_from_the_scores_fails_its_rule(scores: dict[str, Any], expected: list[str]) -> None:
    assert failing(scores=scores) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (without(CANDIDATES, "chosen_speedup", "1"), ["speedup"]),
        (without(CANDIDATES, "objective_batch_size"), ["speedup"]),
        (without(CANDIDATES, "chosen"), ["model_size"]),
        (without(CANDIDATES, "candidates", 1), ["model_size"]),
        (without(CANDIDATES, "candidates", 1, "size_mb"), ["model_size"]),
        ({}, ["speedup", "model_size"]),
    ],
)
def test_a_figure_missing_from_the_candidates_fails_its_rule(
    candidates: dict[str, Any], expected: list[str]
) -> None:
    assert failing(candidates=candidates) == expected


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (without(CERTIFICATE, "model_sha256"), ["certificate"]),
        (CERTIFICATE | {"model_sha256": "1" * 64}, ["certificate"]),
        (without(CERTIFICATE, "label_agreement"), ["parity"]),
        (without(CERTIFICATE, "metric_drop_bound"), ["metric_drop"]),
        (without(CERTIFICATE, "neighbours"), ["neighbours"]),
        (without(CERTIFICATE, "bounds"), ["parity", "neighbours", "metric_drop"]),
        ({}, ["certificate", "parity", "neighbours", "metric_drop"]),
    ],
)
def test_a_figure_missing_from_the_certificate_fails_its_rule(
    certificate: dict[str, Any], expected: list[str]
) -> None:
    assert failing(certificate=certificate) == expected


def test_the_validation_that_counts_is_the_kept_epochs() -> None:
    assert failing(history=HISTORY | {"best_epoch": 1}) == ["validation_gap"]  # 0.99 - 0.9 is over 0.05
    assert failing(history=HISTORY | {"best_epoch": 3}) == ["validation_gap"]


def test_figures_missing_from_the_history_fail_their_rules() -> None:
    assert failing(history={}) == ["validation_gap", "cost"]


def test_the_figures_are_where_evaluate_model_writes_them() -> None:
    labels = np.array([0, 1] * 100)
    worse = np.where(np.arange(200) < 8, 1 - labels, labels)
    settings = Evaluation(bootstrap_resamples=200)

    def failing_against(champion: ChampionPredictions | ChampionFailure | None) -> list[str]:
        scores = assess(labels, worse, champion, settings, 0, Scoring(("joy", "fear")), NEITHER)
        return failing(scores=json.loads(json.dumps(scores.as_json())))

    assert failing_against(None) == []
    assert failing_against(ChampionPredictions("1", worse, NEITHER)) == []
    assert failing_against(ChampionPredictions("1", labels, NEITHER)) == ["non_inferiority"]
    assert failing_against(ChampionPredictions("1", worse, ~NEITHER)) == ["comparable_champion"]
    most = np.arange(200) < 175
    assert failing_against(ChampionPredictions("1", worse, most)) == ["clean_test_rows"]
    assert failing_against(ChampionFailure("cannot be read")) == ["comparable_champion"]


def write_inputs(folder: Path, scores: dict[str, Any]) -> dict[str, Path]:
    documents = {"scores": scores, "candidates": CANDIDATES, "history": HISTORY}
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return {name: folder / name for name in documents} | {"bundle": write_certified_bundle(folder)}


def test_a_bundle_that_was_altered_stops_the_step(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, SCORES)
    (inputs["bundle"] / "parity.json").write_text("{}", encoding="utf-8")
    with pytest.raises(GauntletError, match=r"cannot be read: .*parity\.json: sha256 is"):
        gate("text_classification", GATES, **inputs, verdict=tmp_path / "verdict", table=tmp_path / "table")
    assert not (tmp_path / "verdict").exists()


def test_a_bundle_whose_rows_change_each_other_is_rejected(tmp_path: Path) -> None:
    """Its certificate says otherwise: only the verification of the file itself can tell."""
    inputs = write_inputs(tmp_path, SCORES)
    inputs["bundle"] = write_certified_bundle(tmp_path / "padded", scores_by_padding())
    decision = gate(
        "text_classification", GATES, **inputs, verdict=tmp_path / "verdict", table=tmp_path / "table"
    )
    assert [rule.rule for rule in decision.rules if rule.verdict == "fail"] == ["bundle"]
    assert "a row's probabilities change by 0.5" in decision.reasons[0]


def test_the_step_writes_verdict_and_table_and_prints_the_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = deepcopy(SCORES)
    scores["challenger"]["lower_bounds"]["macro_f1"] = float("nan")  # type: ignore[index]
    verdict, table = tmp_path / "out" / "verdict", tmp_path / "out" / "table"
    decision = gate(
        "text_classification", GATES, **write_inputs(tmp_path, scores), verdict=verdict, table=table
    )

    written = json.loads(verdict.read_text(encoding="utf-8"))
    assert decision.decision == written["decision"] == "reject"
    assert written["reasons"] == [
        "macro_f1: Bootstrap lower limit of macro-F1: found nan, expected a number from 0 to 1"
    ]
    assert written["rules"][0] == {
        "rule": "macro_f1",
        "bound": 0.8,
        "operator": ">=",
        "value": None,
        "verdict": "fail",
        "note": "Bootstrap lower limit of macro-F1: found nan, expected a number from 0 to 1",
    }
    assert len(written["rules"]) == 16
    assert "| speedup | 5.2 | >= 2.3 | pass |" in table.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "Gate: reject" in printed
    assert "\x1b[" not in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["table", "verdict"]


def test_text_of_the_data_breaks_neither_table() -> None:
    scores = deepcopy(SCORES) | {"champion_error": "a|b <b> [red]c[/red]\nd"}
    decision = judged(scores)
    row = next(line for line in markdown(decision).splitlines() if line.startswith("| comparable_champion"))
    assert row.endswith("| a\\|b &lt;b> [red]c[/red] d |")
    stream = io.StringIO()
    print_table(decision, Console(file=stream))
    assert "[red]c[/red]" in stream.getvalue()
