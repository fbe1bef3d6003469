"""The gate of models that answer with a number: which model is promoted, and why another is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gauntlet.components.gate_model.rules import Documents, advice_of, decide
from gauntlet.contracts.verdict import Decision
from gauntlet.tasks.regression.gates import RULES
from gauntlet.tasks.regression.manifest import RegressionGates

CHALLENGER = {
    "mae": 0.5,
    "upper_bounds": {"mae": 0.55, "rmse": 0.8},
    "lower_bounds": {"r2": 0.6},
    "coverage_lower_bound": 0.87,
    "slices": [
        {"rows": 50, "mae": 0.4, "mae_upper_bound": 0.5},
        {"rows": 50, "mae": 0.6, "mae_upper_bound": 0.7},
    ],
}
CERTIFICATE = {
    "model_sha256": "a",
    "precision": "fp32",
    "target_std": 2.0,
    "max_abs_difference": 1e-5,
    "agreement": 1.0,
    "mae_rise_bound": 0.0,
    "neighbours": {"rows": 96, "max_difference": 0.0, "label_changes": 0},
    "bounds": {
        "max_abs_logit_difference": 1e-4,
        "min_label_agreement": 0.995,
        "max_metric_drop": 0.01,
        "max_neighbour_difference": 0.05,
    },
}
CANDIDATES = {
    "chosen": "plain",
    "chosen_speedup": {"1": 3.0},
    "objective_batch_size": 1,
    "candidates": [{"name": "plain", "size_mb": 10.0}],
}
CHAMPION = {
    "champion": {"version": "1", "rows": 400, "mae": 0.5, "error_std": 0.4},
    "paired": {"mae_reduction": 0.0, "lower_bound": -0.03, "upper_bound": 0.03},
}


def judged(
    challenger: dict[str, Any] | None = None,
    certificate: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **gates: Any,
) -> Decision:
    scores = {
        "rows": 400,
        "confidence": 0.95,
        "challenger": CHALLENGER | (challenger or {}),
        "training_overlap": {"challenger": 0, "champion": 0, "clean_rows": 400, "summary": "None."},
        **copy.deepcopy(more or {}),
    }
    section = RegressionGates.model_validate({"max_mae": 0.6, **gates})
    documents = Documents(
        gates=section.model_dump(),
        scores=scores,
        candidates=CANDIDATES,
        history={"cost_usd": 0.1},
        certificate=CERTIFICATE | (certificate or {}),
        model_sha256="a",
        bundle_fault=None,
    )
    return decide(RULES, documents)


def test_a_first_model_within_its_bounds_is_promoted() -> None:
    decision = judged(max_rmse=0.8, min_r2=0.6, max_slice_mae=0.7, min_interval_coverage=0.85)
    assert decision.decision == "promote", decision.reasons
    assert [(rule.rule, rule.note) for rule in decision.rules[:5]] == [
        ("mae", "Bootstrap upper limit of the mean absolute error"),
        ("rmse", "Bootstrap upper limit of the root mean squared error"),
        ("r2", "Bootstrap lower limit of R²"),
        (
            "slice_mae",
            "Largest bootstrap upper limit of the mean absolute error in a slice of the target",
        ),
        (
            "interval_coverage",
            "Bootstrap lower limit of the share of test rows whose number is in its interval",
        ),
    ]


def test_a_bound_that_the_manifest_does_not_set_is_not_in_the_table() -> None:
    assert not {"rmse", "r2", "slice_mae", "interval_coverage", "improvement"} & {
        rule.rule for rule in judged().rules
    }


@pytest.mark.parametrize(
    ("gates", "reason"),
    [
        ({"max_mae": 0.54}, "mae: found 0.55, expected <= 0.54"),
        ({"max_rmse": 0.79}, "rmse: found 0.8, expected <= 0.79"),
        ({"min_r2": 0.61}, "r2: found 0.6, expected >= 0.61"),
        ({"max_slice_mae": 0.69}, "slice_mae: found 0.7, expected <= 0.69"),
        ({"min_interval_coverage": 0.88}, "interval_coverage: found 0.87, expected >= 0.88"),
    ],
)
def test_each_bound_holds_for_the_confidence_limit(gates: dict[str, float], reason: str) -> None:
    decision = judged(**gates)
    assert decision.decision == "reject"
    assert decision.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("challenger", "gates"),
    [
        ({"upper_bounds": {}}, {}),
        ({"upper_bounds": {"mae": float("nan")}}, {}),
        ({"upper_bounds": {"mae": "0.1"}}, {}),
        ({"slices": []}, {"max_slice_mae": 1.0}),
        ({"slices": [{"mae_upper_bound": None}]}, {"max_slice_mae": 1.0}),
        ({"coverage_lower_bound": None}, {"min_interval_coverage": 0.5}),
        ({"lower_bounds": {"r2": 1.5}}, {"min_r2": 0.5}),
    ],
)
def test_a_figure_that_is_missing_or_impossible_rejects(
    challenger: dict[str, Any], gates: dict[str, float]
) -> None:
    assert judged(challenger, **gates).decision == "reject"


@pytest.mark.parametrize(
    ("certificate", "rule"),
    [
        ({"max_abs_difference": 3e-4}, "parity"),  # 1.5e-4 standard deviations
        ({"precision": "int8", "agreement": 0.99}, "parity"),
        ({"mae_rise_bound": 0.03}, "metric_drop"),
        ({"target_std": 0.0}, "metric_drop"),
        ({"neighbours": {"rows": 96, "max_difference": 0.06, "label_changes": 0}}, "neighbours"),
        ({"model_sha256": "b"}, "certificate"),
    ],
)
def test_conversion_is_judged_in_standard_deviations_of_the_target(
    certificate: dict[str, Any], rule: str
) -> None:
    decision = judged(certificate=certificate)
    assert decision.decision == "reject"
    assert rule in {one.rule for one in decision.rules if one.verdict == "fail"}


def test_the_default_margin_is_what_the_rows_can_show() -> None:
    decision = judged(more=CHAMPION)
    rule = next(one for one in decision.rules if one.rule == "non_inferiority")
    # z of 0.95 times 0.4 over the root of 400 rows, if errors correlate by 0.5.
    assert rule.bound == pytest.approx(-1.6449 * 0.4 / 20, rel=1e-4)
    assert rule.verdict == "pass" and decision.decision == "promote"


@pytest.mark.parametrize(
    ("champion", "margin"),
    [
        ({"mae": 0.5, "error_std": 0.0}, 0.005),  # a hundredth of the champion's error
        ({"mae": 0.5}, 0.0),
        ({"error_std": 0.4}, 0.0),
        ({"mae": 0.5, "error_std": None}, 0.0),
    ],
)
def test_the_default_margin_is_a_hundredth_of_the_error_or_nothing(
    champion: dict[str, Any], margin: float
) -> None:
    decision = judged(more=CHAMPION | {"champion": {"version": "1", **champion}})
    assert bound_of(decision, "non_inferiority") == pytest.approx(-margin)


def bound_of(decision: Decision, rule: str) -> Any:
    return next(one.bound for one in decision.rules if one.rule == rule)


@pytest.mark.parametrize(
    ("challenger", "certificate", "rule", "words"),
    [
        ({}, {"target_std": 0.0}, "metric_drop", "target_std: found 0.0"),
        ({}, {"mae_rise_bound": "much"}, "metric_drop", "found 'much'"),
        ({"slices": []}, {}, "slice_mae", "found nothing, expected a number of 0 or more"),
        ({"slices": 3}, {}, "slice_mae", "found nothing, expected a number of 0 or more"),
    ],
)
def test_the_note_says_which_figure_is_at_fault(
    challenger: dict[str, Any], certificate: dict[str, Any], rule: str, words: str
) -> None:
    found = next(one for one in judged(challenger, certificate, max_slice_mae=1.0).rules if one.rule == rule)
    assert (found.verdict, found.value) == ("fail", None)
    assert words in found.note


@pytest.mark.parametrize(
    ("paired", "gates", "rule"),
    [
        ({"mae_reduction": -0.05, "lower_bound": -0.08, "upper_bound": -0.04}, {}, "non_inferiority"),
        (
            {"mae_reduction": 0.02, "lower_bound": -0.01, "upper_bound": 0.05},
            {"min_improvement": 0.01},
            "improvement",
        ),
        ({}, {}, "non_inferiority"),
    ],
)
def test_a_model_with_larger_errors_than_the_champion_is_rejected(
    paired: dict[str, float], gates: dict[str, float], rule: str
) -> None:
    decision = judged(more=CHAMPION | {"paired": paired}, **gates)
    assert decision.decision == "reject"
    assert [one.rule for one in decision.rules if one.verdict == "fail"] == [rule]


def test_an_improvement_that_is_sure_passes() -> None:
    better = {"mae_reduction": 0.1, "lower_bound": 0.05, "upper_bound": 0.15}
    decision = judged(more=CHAMPION | {"paired": better}, min_improvement=0.05)
    assert decision.decision == "promote"
    found = next(one for one in decision.rules if one.rule == "improvement")
    assert (
        found.note == "Paired bootstrap lower limit of the champion's mean absolute error minus this model's"
    )
    assert judged(min_improvement=0.05).decision == "promote", "there is no champion yet"


def test_every_rule_of_the_kind_has_advice() -> None:
    assert all(advice_of(RULES).values())
