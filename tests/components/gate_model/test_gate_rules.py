from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gauntlet.components.gate_model.rules import (
    Certificate,
    Comparison,
    Decision,
    Estimate,
    Figures,
    Overlap,
    UnusableChampion,
    decide,
)
from gauntlet.components.gate_model.values import MISSING
from gauntlet.tasks.classification.manifest import Gates
from gauntlet.tasks.ordinal_grading.manifest import GradingGates

GATES = Gates(
    min_macro_f1=0.80,
    min_accuracy=0.75,
    min_speedup=2.3,
    max_model_mb=100.0,
    non_inferiority_margin=0.01,
    max_class_f1_drop=0.05,
    max_cost_usd=10.0,
)
COMPARED = Comparison(
    macro_f1_lower_bound=0.002, class_f1_difference={"joy": 0.01, "fear": -0.02}, labels=["joy", "fear"]
)
CERTIFICATE = Certificate(
    of_the_model=True,
    precision="int8",
    max_abs_difference=0.2,
    label_agreement=0.997,
    metric_drop_bound=0.004,
    bounds={
        "max_abs_logit_difference": 1e-4,
        "min_label_agreement": 0.995,
        "max_metric_drop": 0.01,
        "max_neighbour_difference": 0.05,
    },
    neighbour_difference=0.001,
    fault=None,
)
GOOD = Figures(
    macro_f1_lower_bound=0.85,
    accuracy_lower_bound=0.86,
    macro_f1_upper_bound=0.9,
    validation_macro_f1=0.91,
    speedup=5.2,
    certificate=CERTIFICATE,
    model_mb=22.0,
    cost_usd=0.4,
    champion=COMPARED,
    overlap=Overlap(challenger=0, test_rows=150, clean_rows=150, summary="None of the 150 test rows was."),
)

# rule, field of Figures, a value just inside its bound, one just outside
OWN_FIGURES = [
    ("macro_f1", "macro_f1_lower_bound", 0.8001, 0.7999),
    ("accuracy", "accuracy_lower_bound", 0.7501, 0.7499),
    ("validation_gap", "validation_macro_f1", 0.9499, 0.9501),
    ("validation_gap", "macro_f1_upper_bound", 0.8601, 0.8599),
    ("speedup", "speedup", 2.31, 2.29),
    ("model_size", "model_mb", 99.9, 100.1),
    ("cost", "cost_usd", 9.99, 10.01),
]
COMPARED_FIGURES = [
    ("non_inferiority", "macro_f1_lower_bound", -0.0099, -0.0101),
    ("class_f1_drop", "class_f1_difference", {"joy": 0.3, "fear": -0.049}, {"joy": 0.3, "fear": -0.051}),
]
NO_NUMBERS = [math.nan, math.inf, -math.inf, None, MISSING, "0.9", True, [0.9], {}, 10**400]


def with_figure(field: str, value: Any) -> Figures:
    return replace(GOOD, **{field: value})


def with_comparison(field: str, value: Any) -> Figures:
    return replace(GOOD, champion=replace(COMPARED, **{field: value}))


def failing(decision: Decision) -> list[str]:
    return [rule.rule for rule in decision.rules if rule.verdict == "fail"]


def note_of(decision: Decision, rule: str) -> str:
    return next(verdict.note for verdict in decision.rules if verdict.rule == rule)


def test_good_figures_promote_and_every_rule_is_listed_as_passed() -> None:
    decision = decide(GATES, GOOD)
    assert (decision.decision, decision.reasons) == ("promote", ())
    assert {rule.rule: rule.verdict for rule in decision.rules} == dict.fromkeys(
        [
            "macro_f1",
            "accuracy",
            "validation_gap",
            "speedup",
            "certificate",
            "bundle",
            "parity",
            "neighbours",
            "metric_drop",
            "model_size",
            "cost",
            "training_overlap",
            "comparable_champion",
            "clean_test_rows",
            "non_inferiority",
            "class_f1_drop",
        ],
        "pass",
    )


@pytest.mark.parametrize(("rule", "field", "inside", "outside"), OWN_FIGURES)
def test_one_figure_past_its_bound_fails_its_own_rule_and_flips_the_decision(
    rule: str, field: str, inside: Any, outside: Any
) -> None:
    assert decide(GATES, with_figure(field, inside)).decision == "promote"
    rejected = decide(GATES, with_figure(field, outside))
    assert rejected.decision == "reject"
    assert failing(rejected) == [rule]
    assert [reason.split(":")[0] for reason in rejected.reasons] == [rule]


@pytest.mark.parametrize(("rule", "field", "inside", "outside"), COMPARED_FIGURES)
def test_one_comparison_past_its_bound_fails_its_own_rule_and_flips_the_decision(
    rule: str, field: str, inside: Any, outside: Any
) -> None:
    assert decide(GATES, with_comparison(field, inside)).decision == "promote"
    rejected = decide(GATES, with_comparison(field, outside))
    assert rejected.decision == "reject"
    assert failing(rejected) == [rule]


@pytest.mark.parametrize(
    ("figures", "gates"),
    [
        (with_figure("macro_f1_lower_bound", 0.8), GATES),
        (with_figure("speedup", 2.3), GATES),
        (with_figure("model_mb", 100.0), GATES),
        (with_comparison("macro_f1_lower_bound", -0.01), GATES),
        (with_comparison("class_f1_difference", {"joy": 0.75 - 0.80, "fear": 0.0}), GATES),
    ],
)
def test_a_figure_at_its_bound_passes_whatever_its_last_bit(figures: Figures, gates: Gates) -> None:
    assert decide(gates, figures).decision == "promote"


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(("rule", "field"), [row[:2] for row in OWN_FIGURES])
def test_a_figure_that_is_no_finite_number_fails_its_rule_and_says_what_was_found(
    rule: str, field: str, value: Any
) -> None:
    decision = decide(GATES, with_figure(field, value))
    assert failing(decision) == [rule]
    assert f"found {value!r}, expected a number" in decision.reasons[0]
    assert next(verdict.value for verdict in decision.rules if verdict.rule == rule) is None


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_a_paired_bound_that_is_no_finite_number_fails_non_inferiority(value: Any) -> None:
    assert failing(decide(GATES, with_comparison("macro_f1_lower_bound", value))) == ["non_inferiority"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_one_class_without_a_finite_difference_fails_the_class_rule_and_is_named(value: Any) -> None:
    decision = decide(GATES, with_comparison("class_f1_difference", {"joy": 0.1, "fear": value}))
    assert failing(decision) == ["class_f1_drop"]
    assert "class fear" in note_of(decision, "class_f1_drop")


@pytest.mark.parametrize("differences", [{}, {"joy": 0.1}, MISSING, None, [0.1, 0.1], 0.1])
def test_a_class_that_is_missing_from_the_differences_fails_the_class_rule(differences: Any) -> None:
    assert failing(decide(GATES, with_comparison("class_f1_difference", differences))) == ["class_f1_drop"]


@pytest.mark.parametrize("labels", [MISSING, None, [], "joy", [1, 2]])
def test_without_the_class_names_no_class_rule_can_pass(labels: Any) -> None:
    assert failing(decide(GATES, with_comparison("labels", labels))) == ["class_f1_drop"]


def certified(**figures: Any) -> Decision:
    return decide(GATES, replace(GOOD, certificate=replace(CERTIFICATE, **figures)))


@pytest.mark.parametrize("value", [math.nan, None, MISSING, 1, 1.0, "true", [True], False])
def test_a_certificate_is_of_the_model_only_where_that_is_true_itself(value: Any) -> None:
    assert failing(certified(of_the_model=value)) == ["certificate"]


@pytest.mark.parametrize(
    ("rule", "figures"),
    [
        ("parity", {"label_agreement": 0.9949}),
        ("parity", {"precision": "fp32", "max_abs_difference": 1.1e-4}),
        ("metric_drop", {"metric_drop_bound": 0.0101}),
        ("neighbours", {"neighbour_difference": 0.0501}),
        ("metric_drop", {"precision": "fp32", "max_abs_difference": 1e-5, "metric_drop_bound": 0.02}),
    ],
)
def test_a_certified_figure_past_the_bound_that_it_was_held_to_fails_its_rule(
    rule: str, figures: dict[str, Any]
) -> None:
    assert failing(certified(**figures)) == [rule]


def test_fp32_is_judged_by_its_logits_and_all_else_by_its_labels() -> None:
    exact = {"precision": "fp32", "max_abs_difference": 9e-5, "label_agreement": 0.5}
    assert certified(**exact).decision == "promote"
    assert certified(precision="int4", max_abs_difference=5.0).decision == "promote"


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("parity", "label_agreement"),
        ("metric_drop", "metric_drop_bound"),
        ("neighbours", "neighbour_difference"),
    ],
)
def test_a_certified_figure_that_is_no_number_fails_its_rule(rule: str, field: str, value: Any) -> None:
    assert failing(certified(**{field: value})) == [rule]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_bound_that_is_no_number_fails_its_rule(value: Any) -> None:
    bounds = {**CERTIFICATE.bounds, "min_label_agreement": value}  # type: ignore[dict-item]
    assert failing(certified(bounds=bounds)) == ["parity"]


@pytest.mark.parametrize("bounds", [MISSING, None, {}, [0.01]])
def test_without_bounds_nothing_is_proven(bounds: Any) -> None:
    assert failing(certified(bounds=bounds)) == ["parity", "neighbours", "metric_drop"]


def test_a_bundle_that_does_not_verify_is_rejected_with_what_was_found() -> None:
    decision = certified(fault="model.onnx: missing")
    assert failing(decision) == ["bundle"]
    assert decision.reasons == ("bundle: `gauntlet bundle verify` found: model.onnx: missing",)


@pytest.mark.parametrize("fault", [MISSING, True, 0, []])
def test_a_bundle_that_nobody_verified_is_rejected(fault: Any) -> None:
    assert failing(certified(fault=fault)) == ["bundle"]


@pytest.mark.parametrize(
    ("field", "impossible"),
    [
        ("macro_f1_lower_bound", 1.2),
        ("accuracy_lower_bound", 93.0),
        ("model_mb", 0.0),
        ("model_mb", -1.0),
        ("cost_usd", -0.01),
    ],
)
def test_a_figure_that_its_kind_cannot_have_fails_though_it_is_past_no_bound(
    field: str, impossible: float
) -> None:
    assert decide(GATES, with_figure(field, impossible)).decision == "reject"


def test_a_training_that_cost_nothing_is_believed() -> None:
    assert decide(GATES, with_figure("cost_usd", 0.0)).decision == "promote"


def test_without_a_champion_the_floors_alone_decide_and_the_other_rules_are_listed() -> None:
    decision = decide(GATES, with_figure("champion", None))
    assert decision.decision == "promote"
    assert [rule.rule for rule in decision.rules if rule.verdict == "not applicable"] == [
        "comparable_champion",
        "clean_test_rows",
        "non_inferiority",
        "class_f1_drop",
    ]
    assert all(rule.value is None for rule in decision.rules if rule.verdict == "not applicable")
    assert decide(GATES, replace(GOOD, champion=None, speedup=1.0)).decision == "reject"


def test_a_champion_that_could_not_be_scored_rejects_with_its_reason() -> None:
    broken = UnusableChampion("Champion emotion version 3 cannot be read: model.onnx: missing.")
    decision = decide(GATES, with_figure("champion", broken))
    assert decision.decision == "reject"
    assert failing(decision) == ["comparable_champion"]
    assert decision.reasons == (f"comparable_champion: {broken.reason}",)


def test_every_failing_rule_is_reported_together_with_figure_and_bound() -> None:
    decision = decide(GATES, replace(GOOD, macro_f1_lower_bound=0.71, speedup=1.5, cost_usd=math.nan))
    assert failing(decision) == ["macro_f1", "speedup", "cost"]
    assert decision.reasons == (
        "macro_f1: found 0.71, expected >= 0.8. Bootstrap lower limit of macro-F1",
        "speedup: found 1.5, expected >= 2.3. Times as fast as PyTorch",
        "cost: Training cost in USD: found nan, expected a number of 0 or more",
    )


def test_the_class_rule_reads_the_largest_drop_and_names_its_class() -> None:
    differences = {"joy": 0.2, "fear": -0.2, "anger": -0.1}
    champion = Comparison(0.05, differences, list(differences))
    rule = next(
        r for r in decide(GATES, with_figure("champion", champion)).rules if r.rule == "class_f1_drop"
    )
    assert (rule.value, rule.operator, rule.bound, rule.verdict) == (0.2, "<=", 0.05, "fail")
    assert rule.note.endswith(": fear")


def test_the_non_inferiority_bound_is_the_margin_below_zero() -> None:
    rule = next(rule for rule in decide(GATES, GOOD).rules if rule.rule == "non_inferiority")
    assert (rule.value, rule.operator, rule.bound) == (0.002, ">=", -0.01)


def with_overlap(**found: Any) -> Figures:
    return replace(GOOD, overlap=replace(GOOD.overlap, **found))


@pytest.mark.parametrize("value", [1, 150, *NO_NUMBERS], ids=lambda value: repr(value)[:12])
def test_a_model_that_was_trained_on_a_test_row_or_on_nobody_knows_what_is_rejected(value: Any) -> None:
    assert failing(decide(GATES, with_overlap(challenger=value))) == ["training_overlap"]


@pytest.mark.parametrize(
    ("test_rows", "clean_rows", "expected"),
    [
        (150, 30, []),
        (150, 29, ["clean_test_rows"]),
        (41, 13, ["clean_test_rows"]),
        (12, 12, []),  # a small test split, none of whose rows was seen
        (12, 11, ["clean_test_rows"]),
        (150, MISSING, ["clean_test_rows"]),
        (150, math.nan, ["clean_test_rows"]),
    ],
)
def test_a_comparison_needs_thirty_clean_rows_or_all_of_a_smaller_split(
    test_rows: Any, clean_rows: Any, expected: list[str]
) -> None:
    assert failing(decide(GATES, with_overlap(test_rows=test_rows, clean_rows=clean_rows))) == expected


def test_the_fewest_clean_rows_are_the_manifests() -> None:
    lower = GATES.model_copy(update={"min_clean_rows": 10})
    assert decide(lower, with_overlap(test_rows=41, clean_rows=13)).decision == "promote"


def test_a_rejection_for_too_few_clean_rows_says_how_many_the_champion_was_trained_on() -> None:
    words = "28 of 41 test rows were in the champion's training split; compared on the 13 clean rows."
    (reason,) = decide(GATES, with_overlap(test_rows=41, clean_rows=13, summary=words)).reasons
    assert reason == f"clean_test_rows: found 13, expected >= 30. {words}"


def test_a_class_without_a_clean_row_rejects_though_there_are_enough_in_all() -> None:
    (reason,) = decide(GATES, with_overlap(clean_rows=90, absent_classes=["fear"])).reasons
    assert reason.endswith("No clean row of fear")


def compared(lower: float, value: float, upper: float, **other: Any) -> Figures:
    return with_figure(
        "champion",
        replace(
            COMPARED,
            macro_f1_lower_bound=lower,
            macro_f1=Estimate(value, upper, 41),
            class_rows={"joy": 21, "fear": 20},
            **other,
        ),
    )


@pytest.mark.parametrize(
    ("lower", "value", "upper", "words"),
    [
        (-0.15, -0.08, -0.02, "It is worse: the upper limit is -0.02"),
        (-0.056, -0.025, 0.0, "Too few rows to tell: the difference is between -0.056 and 0"),
        (-0.056, 0.006, 0.05, "41 were compared; if the difference is 0.006, about 616 would tell"),
    ],
)
def test_a_rejected_challenger_is_worse_or_the_rows_are_too_few_to_tell(
    lower: float, value: float, upper: float, words: str
) -> None:
    """616: the distance from 0.006 to its limit, 0.062, is to shrink to 0.016, so by 3.875 squared."""
    decision = decide(GATES, compared(lower, value, upper))
    assert failing(decision) == ["non_inferiority"]
    assert words in note_of(decision, "non_inferiority")


FREE = GATES.model_copy(update={"non_inferiority_margin": None, "max_class_f1_drop": None})


@pytest.mark.parametrize(("lower", "expected"), [(-0.081, []), (-0.082, ["non_inferiority"])])
def test_without_a_margin_in_the_manifest_it_follows_from_the_compared_rows(
    lower: float, expected: list[str]
) -> None:
    """1.645 √(0.1 / 41) = 0.0812."""
    decision = decide(FREE, compared(lower, 0.0, 0.08))
    assert failing(decision) == expected
    assert "the margin follows from the size of the test split" in note_of(decision, "non_inferiority")


@pytest.mark.parametrize(("drop", "expected"), [(0.116, []), (0.117, ["class_f1_drop"])])
def test_without_a_bound_in_the_manifest_each_class_is_judged_by_its_rows(
    drop: float, expected: list[str]
) -> None:
    """1.645 √(0.1 / 20) = 0.1163."""
    differences = {"joy": -0.11, "fear": -drop}
    decision = decide(FREE, compared(0.0, 0.0, 0.0, class_f1_difference=differences))
    assert failing(decision) == expected
    assert note_of(decision, "class_f1_drop").endswith("fear; the bound follows from its 20 rows")


def test_large_test_splits_keep_the_smallest_margins() -> None:
    rows = {"joy": 20_000, "fear": 20_000}
    large = with_figure("champion", replace(COMPARED, class_rows=rows))
    bounds = {rule.rule: rule.bound for rule in decide(FREE, large).rules}
    assert (bounds["non_inferiority"], bounds["class_f1_drop"]) == (-0.01, 0.05)


GRADER = GradingGates(**GATES.model_dump(), min_qwk=0.6, max_mae=0.8)
GRADED = replace(
    GOOD,
    qwk_lower_bound=0.7,
    mae_upper_bound=0.5,
    champion=replace(COMPARED, macro_f1_lower_bound=-0.5, qwk_lower_bound=0.001),
)


@pytest.mark.parametrize(
    ("rule", "field", "inside", "outside"),
    [("qwk", "qwk_lower_bound", 0.6001, 0.5999), ("mae", "mae_upper_bound", 0.7999, 0.8001)],
)
def test_a_grader_is_held_to_its_kappa_and_its_error(
    rule: str, field: str, inside: float, outside: float
) -> None:
    assert decide(GRADER, replace(GRADED, **{field: inside})).decision == "promote"
    for value in (outside, math.nan, MISSING):
        decision = decide(GRADER, replace(GRADED, **{field: value}))
        assert decision.decision == "reject"
        assert [found.rule for found in decision.rules if found.verdict == "fail"] == [rule]


def test_a_grader_is_compared_with_its_champion_by_kappa_and_a_classifier_by_macro_f1() -> None:
    assert decide(GRADER, GRADED).decision == "promote"
    worse = replace(GRADED, champion=replace(GRADED.champion, qwk_lower_bound=-0.02))
    (reason,) = decide(GRADER, worse).reasons
    assert reason.startswith("non_inferiority: found -0.02")
    assert "QWK minus the champion's" in reason
    assert "non_inferiority" in decide(GATES, GRADED).reasons[0]
    assert not {"qwk", "mae"} & {rule.rule for rule in decide(GATES, GOOD).rules}
