from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from gauntlet.components.gate_model.rules import (
    CHANGE,
    DIFFERENCE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    POSITIVE,
    Documents,
    Domain,
    advice_of,
    decide,
    number_or_fault,
)
from gauntlet.contracts.verdict import Decision, RuleVerdict
from gauntlet.tasks.classification.gates import RULES
from gauntlet.tasks.ordinal_grading.gates import QWK_DIFFERENCE
from gauntlet.tasks.ordinal_grading.gates import RULES as GRADING_RULES
from gauntlet.tasks.ordinal_grading.manifest import GradingGates
from tests.components.gate_model.documents import GATES, GOOD, SHA256, changed, failing, note_of

MACRO_F1 = "scores.challenger.lower_bounds.macro_f1"
PAIRED = "scores.paired.lower_bound"
CLASSES = "scores.paired.class_f1_difference"
OVERLAP = "scores.training_overlap"

# rule, path of its figure, a value just inside its bound, one just outside
OWN_FIGURES = [
    ("macro_f1", MACRO_F1, 0.8001, 0.7999),
    ("accuracy", "scores.challenger.lower_bounds.accuracy", 0.7501, 0.7499),
    ("validation_gap", "history.epochs.1.validation.macro_f1", 0.9499, 0.9501),
    ("validation_gap", "scores.challenger.intervals.macro_f1.1", 0.8601, 0.8599),
    ("speedup", "candidates.chosen_speedup.1", 2.31, 2.29),
    ("model_size", "candidates.candidates.1.size_mb", 99.9, 100.1),
    ("cost", "history.cost_usd", 9.99, 10.01),
]
COMPARED_FIGURES = [
    ("non_inferiority", PAIRED, -0.0099, -0.0101),
    ("class_f1_drop", CLASSES, {"joy": 0.3, "fear": -0.049}, {"joy": 0.3, "fear": -0.051}),
]
NO_NUMBERS = [math.nan, math.inf, -math.inf, None, MISSING, "0.9", True, [0.9], {}, 10**400]


def judged(figures: dict[str, Any], documents: Documents = GOOD) -> Decision:
    return decide(RULES, changed(documents, figures))


def test_good_figures_promote_and_every_rule_is_listed_as_passed() -> None:
    decision = judged({})
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


@pytest.mark.parametrize(("rule", "path", "inside", "outside"), [*OWN_FIGURES, *COMPARED_FIGURES])
def test_one_figure_past_its_bound_fails_its_own_rule_and_flips_the_decision(
    rule: str, path: str, inside: Any, outside: Any
) -> None:
    assert judged({path: inside}).decision == "promote"
    rejected = judged({path: outside})
    assert rejected.decision == "reject"
    assert failing(rejected) == [rule]
    assert [reason.split(":")[0] for reason in rejected.reasons] == [rule]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (MACRO_F1, 0.8),
        ("candidates.chosen_speedup.1", 2.3),
        ("candidates.candidates.1.size_mb", 100.0),
        (PAIRED, -0.01),
        (CLASSES, {"joy": 0.75 - 0.80, "fear": 0.0}),
    ],
)
def test_a_figure_at_its_bound_passes_whatever_its_last_bit(path: str, value: Any) -> None:
    assert judged({path: value}).decision == "promote"


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(("rule", "path"), [row[:2] for row in OWN_FIGURES])
def test_a_figure_that_is_no_finite_number_fails_its_rule_and_says_what_was_found(
    rule: str, path: str, value: Any
) -> None:
    decision = judged({path: value})
    assert failing(decision) == [rule]
    assert f"found {value!r}, expected a number" in decision.reasons[0]
    assert next(verdict.value for verdict in decision.rules if verdict.rule == rule) is None


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_a_paired_bound_that_is_no_finite_number_fails_non_inferiority(value: Any) -> None:
    assert failing(judged({PAIRED: value})) == ["non_inferiority"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:12])
def test_one_class_without_a_finite_difference_fails_the_class_rule_and_is_named(value: Any) -> None:
    decision = judged({f"{CLASSES}.fear": value})
    assert failing(decision) == ["class_f1_drop"]
    assert "class fear" in note_of(decision, "class_f1_drop")


@pytest.mark.parametrize("differences", [{}, {"joy": 0.1}, MISSING, None, [0.1, 0.1], 0.1])
def test_a_class_that_is_missing_from_the_differences_fails_the_class_rule(differences: Any) -> None:
    assert failing(judged({CLASSES: differences})) == ["class_f1_drop"]


@pytest.mark.parametrize("labels", [MISSING, None, [], "joy", [1, 2]])
def test_without_the_class_names_no_class_rule_can_pass(labels: Any) -> None:
    assert failing(judged({"scores.labels": labels})) == ["class_f1_drop"]


def certified(**figures: Any) -> Decision:
    return judged({f"certificate.{name}": value for name, value in figures.items()})


@pytest.mark.parametrize("value", [math.nan, None, MISSING, 1, "1" * 64, [SHA256], True])
def test_a_certificate_is_of_the_model_only_where_the_hashes_are_the_same(value: Any) -> None:
    assert failing(certified(model_sha256=value)) == ["certificate"]


def test_a_bundle_that_names_no_model_has_none_that_is_certified() -> None:
    assert failing(judged({"model_sha256": None})) == ["certificate"]
    assert failing(judged({"model_sha256": None, "certificate.model_sha256": None})) == ["certificate"]


@pytest.mark.parametrize(
    ("rule", "figures"),
    [
        ("parity", {"label_agreement": 0.9949}),
        ("parity", {"precision": "fp32", "max_abs_difference": 1.1e-4}),
        ("metric_drop", {"metric_drop_bound": 0.0101}),
        ("neighbours", {"neighbours": {"max_difference": 0.0501}}),
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
    ("rule", "path"),
    [
        ("parity", "label_agreement"),
        ("metric_drop", "metric_drop_bound"),
        ("neighbours", "neighbours.max_difference"),
    ],
)
def test_a_certified_figure_that_is_no_number_fails_its_rule(rule: str, path: str, value: Any) -> None:
    assert failing(certified(**{path: value})) == [rule]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_bound_that_is_no_number_fails_its_rule(value: Any) -> None:
    decision = certified(**{"bounds.min_label_agreement": value})
    assert failing(decision) == ["parity"]
    assert f"bound min_label_agreement: found {value!r}, expected a number" in decision.reasons[0]


@pytest.mark.parametrize("bounds", [MISSING, None, {}, [0.01]])
def test_without_bounds_nothing_is_proven(bounds: Any) -> None:
    assert failing(certified(bounds=bounds)) == ["parity", "neighbours", "metric_drop"]


def test_a_bundle_that_does_not_verify_is_rejected_with_what_was_found() -> None:
    decision = judged({"bundle_fault": "model.onnx: missing"})
    assert failing(decision) == ["bundle"]
    assert decision.reasons == ("bundle: `gauntlet bundle verify` found: model.onnx: missing",)


@pytest.mark.parametrize("fault", [MISSING, True, 0, []])
def test_a_bundle_that_nobody_verified_is_rejected(fault: Any) -> None:
    assert failing(judged({"bundle_fault": fault})) == ["bundle"]


@pytest.mark.parametrize(
    ("path", "impossible"),
    [
        (MACRO_F1, 1.2),
        ("scores.challenger.lower_bounds.accuracy", 93.0),
        ("candidates.candidates.1.size_mb", 0.0),
        ("candidates.candidates.1.size_mb", -1.0),
        ("history.cost_usd", -0.01),
    ],
)
def test_a_figure_that_its_kind_cannot_have_fails_though_it_is_past_no_bound(
    path: str, impossible: float
) -> None:
    assert judged({path: impossible}).decision == "reject"


def test_a_training_that_cost_nothing_is_believed() -> None:
    assert judged({"history.cost_usd": 0.0}).decision == "promote"


NO_CHAMPION = {"scores.champion": MISSING, "scores.paired": MISSING}


def test_without_a_champion_the_floors_alone_decide_and_the_other_rules_are_listed() -> None:
    decision = judged(NO_CHAMPION)
    assert decision.decision == "promote"
    assert [rule.rule for rule in decision.rules if rule.verdict == "not applicable"] == [
        "comparable_champion",
        "clean_test_rows",
        "non_inferiority",
        "class_f1_drop",
    ]
    assert all(rule.value is None for rule in decision.rules if rule.verdict == "not applicable")
    assert judged({**NO_CHAMPION, "candidates.chosen_speedup.1": 1.0}).decision == "reject"


@pytest.mark.parametrize("key", ["champion", "paired"])
def test_half_a_comparison_is_not_taken_for_a_first_model(key: str) -> None:
    assert "non_inferiority" in failing(judged({**NO_CHAMPION, f"scores.{key}": None}))


def test_a_champion_that_could_not_be_scored_rejects_with_its_reason() -> None:
    reason = "Champion emotion version 3 cannot be read: model.onnx: missing."
    decision = judged({"scores.champion_error": reason})
    assert decision.decision == "reject"
    assert failing(decision) == ["comparable_champion"]
    assert decision.reasons == (f"comparable_champion: {reason}",)


def test_every_failing_rule_is_reported_together_with_figure_and_bound() -> None:
    decision = judged({MACRO_F1: 0.71, "candidates.chosen_speedup.1": 1.5, "history.cost_usd": math.nan})
    assert failing(decision) == ["macro_f1", "speedup", "cost"]
    assert decision.reasons == (
        "macro_f1: found 0.71, expected >= 0.8. Bootstrap lower limit of macro-F1",
        "speedup: found 1.5, expected >= 2.3. Times as fast as PyTorch",
        "cost: Training cost in USD: found nan, expected a number of 0 or more",
    )


def test_the_class_rule_reads_the_largest_drop_and_names_its_class() -> None:
    differences = {"joy": 0.2, "fear": -0.2, "anger": -0.1}
    decision = judged({CLASSES: differences, "scores.labels": list(differences)})
    rule = next(rule for rule in decision.rules if rule.rule == "class_f1_drop")
    assert (rule.value, rule.operator, rule.bound, rule.verdict) == (0.2, "<=", 0.05, "fail")
    assert rule.note.endswith(": fear")


def test_the_non_inferiority_bound_is_the_margin_below_zero() -> None:
    rule = next(rule for rule in judged({}).rules if rule.rule == "non_inferiority")
    assert (rule.value, rule.operator, rule.bound) == (0.002, ">=", -0.01)


@pytest.mark.parametrize("value", [1, 150, *NO_NUMBERS], ids=lambda value: repr(value)[:12])
def test_a_model_that_was_trained_on_a_test_row_or_on_nobody_knows_what_is_rejected(value: Any) -> None:
    assert failing(judged({f"{OVERLAP}.challenger": value})) == ["training_overlap"]


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
    assert failing(judged({"scores.rows": test_rows, f"{OVERLAP}.clean_rows": clean_rows})) == expected


def test_the_fewest_clean_rows_are_the_manifests() -> None:
    fewer = {"gates.min_clean_rows": 10, "scores.rows": 41, f"{OVERLAP}.clean_rows": 13}
    assert judged(fewer).decision == "promote"


def test_a_rejection_for_too_few_clean_rows_says_how_many_the_champion_was_trained_on() -> None:
    words = "28 of 41 test rows were in the champion's training split; compared on the 13 clean rows."
    (reason,) = judged({"scores.rows": 41, f"{OVERLAP}.clean_rows": 13, f"{OVERLAP}.summary": words}).reasons
    assert reason == f"clean_test_rows: found 13, expected >= 30. {words}"


def test_a_class_without_a_clean_row_rejects_though_there_are_enough_in_all() -> None:
    (reason,) = judged(
        {f"{OVERLAP}.clean_rows": 90, f"{OVERLAP}.classes_without_clean_rows": ["fear"]}
    ).reasons
    assert reason.endswith("No clean row of fear")
    both = {f"{OVERLAP}.clean_rows": 90, f"{OVERLAP}.classes_without_clean_rows": ["fear", "joy"]}
    assert judged(both).reasons[0].endswith("No clean row of fear, joy")


def compared(lower: float, value: float, upper: float) -> dict[str, Any]:
    return {
        PAIRED: lower,
        "scores.paired.macro_f1_difference": value,
        "scores.paired.upper_bound": upper,
        "scores.champion.per_class": [{"label": "joy", "support": 21}, {"label": "fear", "support": 20}],
    }


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
    decision = judged(compared(lower, value, upper))
    assert failing(decision) == ["non_inferiority"]
    assert words in note_of(decision, "non_inferiority")


FREE = changed(GOOD, {"gates.non_inferiority_margin": None, "gates.max_class_f1_drop": None})


@pytest.mark.parametrize(("lower", "expected"), [(-0.081, []), (-0.082, ["non_inferiority"])])
def test_without_a_margin_in_the_manifest_it_follows_from_the_compared_rows(
    lower: float, expected: list[str]
) -> None:
    """1.645 √(0.1 / 41) = 0.0812."""
    decision = judged(compared(lower, 0.0, 0.08), FREE)
    assert failing(decision) == expected
    assert "the margin follows from the size of the test split" in note_of(decision, "non_inferiority")


@pytest.mark.parametrize(("drop", "expected"), [(0.116, []), (0.117, ["class_f1_drop"])])
def test_without_a_bound_in_the_manifest_each_class_is_judged_by_its_rows(
    drop: float, expected: list[str]
) -> None:
    """1.645 √(0.1 / 20) = 0.1163."""
    differences = {"joy": -0.11, "fear": -drop}
    decision = judged({**compared(0.0, 0.0, 0.0), CLASSES: differences}, FREE)
    assert failing(decision) == expected
    assert note_of(decision, "class_f1_drop").endswith("fear; the bound follows from its 20 rows")


def test_large_test_splits_keep_the_smallest_margins() -> None:
    rows = [{"label": "joy", "support": 20_000}, {"label": "fear", "support": 20_000}]
    decision = judged({"scores.champion.per_class": rows}, FREE)
    bounds = {rule.rule: rule.bound for rule in decision.rules}
    assert (bounds["non_inferiority"], bounds["class_f1_drop"]) == (-0.01, 0.05)


GRADER = GradingGates(**GATES.model_dump(), min_qwk=0.6, max_mae=0.8)
GRADED = changed(
    GOOD,
    {
        "gates": GRADER.model_dump(),
        "scores.challenger.grades": {"qwk_lower_bound": 0.7, "mae_upper_bound": 0.5},
        PAIRED: -0.5,
        "scores.paired.qwk_lower_bound": 0.001,
    },
)


@pytest.mark.parametrize(
    ("rule", "figure", "inside", "outside"),
    [("qwk", "qwk_lower_bound", 0.6001, 0.5999), ("mae", "mae_upper_bound", 0.7999, 0.8001)],
)
def test_a_grader_is_held_to_its_kappa_and_its_error(
    rule: str, figure: str, inside: float, outside: float
) -> None:
    path = f"scores.challenger.grades.{figure}"
    assert decide(GRADING_RULES, changed(GRADED, {path: inside})).decision == "promote"
    for value in (outside, math.nan, MISSING):
        assert failing(decide(GRADING_RULES, changed(GRADED, {path: value}))) == [rule]


def test_a_grader_is_compared_with_its_champion_by_kappa_and_a_classifier_by_macro_f1() -> None:
    assert decide(GRADING_RULES, GRADED).decision == "promote"
    (reason,) = decide(GRADING_RULES, changed(GRADED, {"scores.paired.qwk_lower_bound": -0.02})).reasons
    assert reason.startswith("non_inferiority: found -0.02")
    assert "QWK minus the champion's" in reason
    assert "non_inferiority" in decide(RULES, GRADED).reasons[0]
    assert not {"qwk", "mae"} & {rule.rule for rule in judged({}).rules}


@pytest.mark.parametrize("rules", [RULES, GRADING_RULES])
def test_every_rule_says_what_to_do_when_it_fails(rules: Any) -> None:
    assert all(advice_of(rules).values())


@pytest.mark.parametrize(
    ("domain", "words", "lowest", "highest"),
    [
        (FRACTION, "a number from 0 to 1", 0.0, 1.0),
        (DIFFERENCE, "a number from -1 to 1", -1.0, 1.0),
        (QWK_DIFFERENCE, "a number from -2 to 2", -2.0, 2.0),
        (CHANGE, "a finite number", -sys.float_info.max, sys.float_info.max),
        (POSITIVE, "a number over 0", math.ulp(0.0), sys.float_info.max),
        (NOT_NEGATIVE, "a number of 0 or more", 0.0, sys.float_info.max),
    ],
)
def test_a_figure_is_believed_between_the_ends_of_its_domain(
    domain: Domain, words: str, lowest: float, highest: float
) -> None:
    assert (number_or_fault(lowest, domain), number_or_fault(highest, domain)) == (lowest, highest)
    for outside in (math.nextafter(lowest, -math.inf), math.nextafter(highest, math.inf)):
        assert number_or_fault(outside, domain) == f"found {outside!r}, expected {words}"
    assert number_or_fault(MISSING, domain) == f"found nothing, expected {words}"


def rule_of(decision: Decision, name: str) -> RuleVerdict:
    return next(rule for rule in decision.rules if rule.rule == name)


def test_a_certificate_of_another_file_or_of_none_says_so() -> None:
    other = rule_of(certified(model_sha256="1" * 64), "certificate")
    assert (other.bound, other.operator, other.value) == (True, "is", False)
    assert other.note == "The parity certificate is of another model's file"
    none = rule_of(certified(model_sha256=MISSING), "certificate")
    assert (none.bound, none.operator, none.value) == (True, "is", None)
    assert none.note.endswith("of the model that it holds: found nothing")


def test_a_rule_without_a_usable_bound_shows_none() -> None:
    rule = rule_of(certified(bounds={}), "neighbours")
    assert (rule.bound, rule.operator, rule.value) == (True, "is", None)


@pytest.mark.parametrize(("clock", "words"), [("cpu", "by one thread's CPU time"), ("wall", "as PyTorch")])
def test_the_rule_on_speed_says_what_it_was_timed_by(clock: str, words: str) -> None:
    assert note_of(judged({"candidates.clock": clock}), "speedup").find(words) >= 0


@pytest.mark.parametrize(
    "figures",
    [
        {"candidates.candidates": None},
        {"candidates.chosen": 1},
        {"candidates.chosen": "int4"},
        {"candidates.candidates": [{"name": "int8", "size_mb": 22.0}] * 2},
        {"candidates.candidates": ["int8"]},
    ],
)
def test_without_one_row_of_the_chosen_candidate_its_size_is_not_known(figures: dict[str, Any]) -> None:
    assert judged(figures).reasons == (
        "model_size: Model size in MB: found nothing, expected a number over 0",
    )


@pytest.mark.parametrize(("confidence", "margin"), [(0.9, 0.0633), (0.95, 0.0812), (0.51, 0.01)])
def test_the_default_margin_is_of_the_evaluations_confidence(confidence: Any, margin: float) -> None:
    """z √(0.1 / 41), but at least 0.01."""
    figures = {**compared(0.0, 0.0, 0.0), "scores.confidence": confidence}
    assert rule_of(judged(figures, FREE), "non_inferiority").bound == pytest.approx(-margin, abs=1e-4)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 0.3, 1.2, 1, "0.9", None, MISSING, math.nan])
def test_a_confidence_that_cannot_be_is_taken_for_the_default(confidence: Any) -> None:
    figures = {**compared(0.0, 0.0, 0.0), "scores.confidence": confidence}
    assert rule_of(judged(figures, FREE), "non_inferiority").bound == pytest.approx(-0.0812, abs=1e-4)


def test_a_count_that_is_missing_is_not_explained_by_the_summary() -> None:
    decision = judged({f"{OVERLAP}.clean_rows": MISSING})
    assert decision.reasons[0].endswith(
        "neither model was trained on: found nothing, expected a number of 0 or more"
    )
    assert (
        note_of(judged({f"{OVERLAP}.summary": 3}), "clean_test_rows")
        == "Test rows that neither model was trained on"
    )


def test_a_difference_without_an_upper_limit_says_so() -> None:
    figures = {**compared(-0.15, -0.08, 0.0), "scores.paired.upper_bound": MISSING}
    note = note_of(judged(figures), "non_inferiority")
    assert note.endswith("Its upper limit is not known: found nothing, expected a finite number")


def test_a_margin_by_the_rows_is_said_once() -> None:
    note = note_of(judged(compared(0.0, 0.0, 0.0), FREE), "non_inferiority")
    limit = "Paired bootstrap lower limit of macro-F1 minus the champion's"
    assert note == f"{limit}; the margin follows from the size of the test split"


def test_a_difference_at_the_margin_needs_rows_without_end_so_none_are_named() -> None:
    note = note_of(judged(compared(-0.056, -0.01, 0.02)), "non_inferiority")
    assert note.endswith("Too few rows to tell: the difference is between -0.056 and 0.02")


@pytest.mark.parametrize(
    "figures",
    [
        {"history.epochs": None},
        {"history.epochs": []},
        {"history.epochs": ["2"]},
        {"history.best_epoch": MISSING},
        {"history.epochs": [{"epoch": 2, "validation": {"macro_f1": 0.91}}] * 2},
        {"history.epochs.1.validation": MISSING},
        {"scores.challenger.intervals.macro_f1": [0.84]},
        {"scores.challenger.intervals": MISSING},
    ],
)
def test_without_one_kept_epoch_and_an_interval_the_gap_to_validation_is_not_known(
    figures: dict[str, Any],
) -> None:
    note = "Macro-F1 in training's validation minus its upper limit on the test split"
    found = "found nothing, expected a number from 0 to 1"
    assert judged(figures).reasons == (f"validation_gap: {note}: {found}",)


@pytest.mark.parametrize(("rows", "margin"), [(150, 0.0425), (MISSING, 0.01), ("150", 0.01)])
@pytest.mark.parametrize("rules", [RULES, GRADING_RULES])
def test_without_a_champion_the_margin_that_is_shown_is_of_the_test_rows(
    rules: Any, rows: Any, margin: float
) -> None:
    """1.645 √(0.1 / 150) = 0.0425."""
    first = changed(FREE, {**NO_CHAMPION, "scores.rows": rows, "scores.challenger.grades": {}})
    first = changed(first, {"gates.min_qwk": 0.1, "gates.max_mae": 1.0})
    rule = rule_of(decide(rules, first), "non_inferiority")
    assert (rule.verdict, rule.bound) == ("not applicable", pytest.approx(-margin, abs=1e-4))


def test_a_class_is_worst_by_how_far_it_exceeds_its_own_bound() -> None:
    """Bounds: 0.05 of 200 rows, 0.1163 of 20."""
    rows = [{"label": "joy", "support": 200}, {"label": "fear", "support": 20}]
    drops = {CLASSES: {"joy": -0.12, "fear": -0.13}, "scores.champion.per_class": rows}
    assert note_of(judged(drops, FREE), "class_f1_drop").endswith(
        ": joy; the bound follows from its 200 rows"
    )


def test_rows_of_classes_that_are_no_counts_are_left_out() -> None:
    rows = [
        "fear",
        {"label": 1, "support": 9},
        {"label": "fear", "support": True},
        {"label": "joy", "support": 20},
    ]
    drops = {CLASSES: {"joy": 0.0, "fear": 0.0}, "scores.champion.per_class": rows}
    decision = judged(drops, FREE)
    assert note_of(decision, "class_f1_drop").endswith(": joy; the bound follows from its 20 rows")
    alone = judged({**drops, "scores.labels": ["fear"]}, FREE)
    assert note_of(alone, "class_f1_drop").endswith(": fear; the bound follows from its 0 rows")
    assert rule_of(alone, "class_f1_drop").bound == 1.0
    assert rule_of(decision, "non_inferiority").bound == pytest.approx(-0.1163, abs=1e-4)


@pytest.mark.parametrize(("rules", "margin"), [(RULES, 0.1149), (GRADING_RULES, 0.0812)])
def test_the_margin_of_a_grader_is_of_all_rows_and_a_classifiers_of_its_classes(
    rules: Any, margin: float
) -> None:
    """1.645 √(0.1 / n): n is 41 rows, or 4 / (1/35 + 1/6) = 20.5 for the mean of two classes."""
    rows = [{"label": "joy", "support": 35}, {"label": "fear", "support": 6}]
    free = {"gates.non_inferiority_margin": None, "scores.champion.per_class": rows}
    rule = rule_of(decide(rules, changed(GRADED, free)), "non_inferiority")
    assert rule.bound == pytest.approx(-margin, abs=1e-4)


def test_a_quantized_model_is_held_to_the_labels_that_pytorch_gives() -> None:
    assert note_of(certified(), "parity") == "Rows with the label that PyTorch gives them"


ORIGIN = {"form": "checkpoint", "source": "gs://bucket/moods", "sha256": "1" * 64, "labels": []}
OF_PYTORCH = {
    "candidates.chosen_speedup": MISSING,
    "certificate.label_agreement": MISSING,
    "certificate.metric_drop_bound": MISSING,
    "certificate.bounds": {"max_neighbour_difference": 0.05},
}
"""What a graph from elsewhere has no figures of."""


@pytest.mark.parametrize("unknown", [MISSING, None])
def test_a_model_from_elsewhere_is_judged_without_its_cost_and_its_training_rows(unknown: Any) -> None:
    figures = {"history.origin": ORIGIN, "history.cost_usd": MISSING, f"{OVERLAP}.challenger": unknown}
    decision = judged(figures)
    left_out = [rule.rule for rule in decision.rules if rule.verdict == "not applicable"]
    assert (decision.decision, left_out) == ("promote", ["cost", "training_overlap"])
    assert note_of(decision, "training_overlap").startswith("Not proved: the model was trained elsewhere")
    assert note_of(decision, "cost") == "The model was trained elsewhere"
    assert failing(judged({**figures, f"{OVERLAP}.challenger": 1})) == ["training_overlap"]
    assert failing(judged({**figures, **OF_PYTORCH}))[0] == "speedup"  # its PyTorch model is there
    for no_origin in (MISSING, None, "moods"):
        assert failing(judged({**figures, "history.origin": no_origin})) == ["cost", "training_overlap"]


def test_a_graph_from_elsewhere_is_judged_without_what_takes_a_pytorch_model() -> None:
    figures = {**OF_PYTORCH, "history.origin": {**ORIGIN, "form": "onnx"}}
    decision = judged(figures)
    left_out = [rule.rule for rule in decision.rules if rule.verdict == "not applicable"]
    assert (decision.decision, left_out) == ("promote", ["speedup", "parity", "metric_drop", "cost"])
    for rule in ("speedup", "parity", "metric_drop"):
        assert note_of(decision, rule).startswith("Not proved: the graph was made elsewhere")
    assert failing(judged({**figures, "certificate.neighbours.max_difference": 0.06})) == ["neighbours"]
    assert failing(judged({**figures, "certificate.model_sha256": "2" * 64})) == ["certificate"]
