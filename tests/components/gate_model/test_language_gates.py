from __future__ import annotations

import copy
from typing import Any

import pytest

from gauntlet.components.gate_model.rules import Documents, advice_of
from gauntlet.components.gate_model.rules import decide as decide_by
from gauntlet.contracts.verdict import Decision, RuleVerdict
from gauntlet.tasks.language.gates import RULES
from gauntlet.tasks.language.manifest import LanguageGates

GATES = LanguageGates(
    max_perplexity=20, min_rouge_l=0.1, min_speedup=1.0, max_model_mb=300, non_inferiority_margin=0.01
)


def figure(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "interval": [low, high], "lower_bound": low, "upper_bound": high}


def other(perplexity: float, gain: tuple[float, float], rouge_l_gain: tuple[float, float]) -> dict[str, Any]:
    return {
        "figures": {"perplexity": figure(perplexity, perplexity - 1, perplexity + 1)},
        "gains": {
            "perplexity": figure(sum(gain) / 2, *gain),
            "rouge_l": figure(sum(rouge_l_gain) / 2, *rouge_l_gain),
        },
    }


def documents() -> dict[str, Any]:
    return {
        "scores": {
            "challenger": {"perplexity": figure(15, 14, 16), "rouge_l": figure(0.2, 0.15, 0.25)},
            "baseline": other(25, (8, 12), (0.02, 0.06)),
            "rows": 60,
            "training_overlap": {"challenger": 0, "champion": 0, "clean_rows": 60, "summary": "None."},
        },
        "candidates": {
            "chosen": "weights_int8",
            "candidates": [{"name": "weights_int8", "size_mb": 200.0}],
            "chosen_speedup": {"1": 1.8},
            "objective_batch_size": 1,
        },
        "history": {"cost_usd": 0.5},
        "certificate": {
            "model_sha256": "ab",
            "precision": "int8",
            "next_token_agreement": 0.99,
            "perplexity_change": 0.004,
            "max_abs_difference": 0.3,
            "neighbours": {"rows": 16, "max_difference": 0.01, "label_changes": 0},
            "bounds": {
                "max_neighbour_difference": 0.05,
                "min_label_agreement": 0.97,
                "max_metric_drop": 0.01,
                "max_abs_logit_difference": 0.0001,
            },
        },
        "model_sha256": "ab",
        "bundle_fault": None,
    }


def decide(content: dict[str, Any], gates: LanguageGates = GATES) -> Decision:
    return decide_by(RULES, Documents(gates.model_dump(), **content))


def failed(content: dict[str, Any]) -> list[str]:
    decision = decide(content)
    assert decision.decision == ("reject" if decision.reasons else "promote")
    return [rule.rule for rule in decision.rules if rule.verdict == "fail"]


def test_a_model_that_is_better_than_its_beginning_is_promoted() -> None:
    decision = decide(documents())
    assert (decision.decision, decision.reasons) == ("promote", ())


@pytest.mark.parametrize(
    ("path", "value", "rules"),
    [
        (("scores", "challenger", "perplexity", "upper_bound"), 20.1, ["perplexity"]),
        (("scores", "challenger", "rouge_l", "lower_bound"), 0.09, ["rouge_l"]),
        (("scores", "baseline", "gains", "perplexity", "interval"), [-0.1, 9.0], ["perplexity_gain"]),
        (("scores", "baseline", "gains", "rouge_l", "interval"), [0.0, 0.1], ["rouge_l_gain"]),
        (("scores", "baseline", "gains", "rouge_l", "interval"), [float("nan"), 0.1], ["rouge_l_gain"]),
        (("scores", "baseline"), {}, ["perplexity_gain", "rouge_l_gain"]),
        (("candidates", "chosen_speedup"), {"1": 0.9}, ["speedup"]),
        (("certificate", "next_token_agreement"), 0.96, ["parity"]),
        (("certificate", "perplexity_change"), 0.02, ["metric_drop"]),
        (("certificate", "precision"), "fp32", ["parity"]),
        (("certificate", "neighbours", "max_difference"), 0.06, ["neighbours"]),
        (("certificate", "neighbours"), {}, ["neighbours"]),
        (("bundle_fault",), "model.onnx: missing", ["bundle"]),
        (("model_sha256",), "cd", ["certificate"]),
        (("candidates", "candidates"), [], ["model_size"]),
        (("history", "cost_usd"), None, ["cost"]),
    ],
)
def test_each_rule_rejects_by_itself(path: tuple[str, ...], value: object, rules: list[str]) -> None:
    content = copy.deepcopy(documents())
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    assert failed(content) == rules


@pytest.mark.parametrize(("gain", "expected"), [(-0.14, []), (-0.2, ["non_inferiority"])])
def test_perplexity_may_be_over_the_champions_by_the_margin(gain: float, expected: list[str]) -> None:
    content = documents()
    content["scores"]["champion"] = other(15, (gain, 1.0), (0.0, 0.1))
    assert failed(content) == expected  # a hundredth of 15 is 0.15


@pytest.mark.parametrize(
    ("challenger", "clean", "expected"),
    [(0, 30, []), (0, 29, ["clean_test_rows"]), (1, 59, ["training_overlap"])],
)
def test_the_champion_is_compared_on_prompts_that_no_model_was_trained_on(
    challenger: int, clean: int, expected: list[str]
) -> None:
    content = documents()
    content["scores"]["champion"] = other(15, (-0.1, 1.0), (0.0, 0.1))
    content["scores"]["training_overlap"] |= {"challenger": challenger, "clean_rows": clean}
    assert failed(content) == expected


@pytest.mark.parametrize(("gain", "expected"), [(-0.31, []), (-0.33, ["non_inferiority"])])
def test_without_a_margin_in_the_manifest_it_follows_from_the_conversations(
    gain: float, expected: list[str]
) -> None:
    """1.645 · 0.1 / √60 = 0.0212, of 15."""
    content = documents()
    content["scores"]["champion"] = other(15, (gain, 1.0), (0.0, 0.1)) | {"conversations": 60}
    free = GATES.model_copy(update={"non_inferiority_margin": None})
    decision = decide(content, free)
    assert [rule.rule for rule in decision.rules if rule.verdict == "fail"] == expected


def test_a_champion_that_cannot_be_asked_rejects() -> None:
    content = documents()
    content["scores"]["champion_error"] = "Champion talk version 3 cannot be run"
    assert failed(content) == ["comparable_champion"]


def test_a_model_without_a_bound_on_its_perplexity_is_rejected() -> None:
    decision = decide(documents(), GATES.model_copy(update={"max_perplexity": None}))
    assert decision.failed == ("perplexity",)
    assert "bound max_perplexity: found None, expected a number over 0" in decision.reasons[0]


def test_every_rule_says_what_to_do_when_it_fails() -> None:
    assert all(advice_of(RULES).values())


@pytest.mark.parametrize("value", [0.0, -1.0, None, "15", float("nan")])
def test_a_gain_over_a_champion_without_a_metric_is_not_known(value: object) -> None:
    content = documents()
    content["scores"]["champion"] = other(15, (0.1, 1.0), (0.0, 0.1))
    content["scores"]["champion"]["figures"]["perplexity"]["value"] = value
    assert failed(content) == ["non_inferiority"]
    content["scores"]["champion"]["figures"]["perplexity"]["value"] = 15
    content["scores"]["champion"]["gains"]["perplexity"]["lower_bound"] = value if value != 0 else None
    assert failed(content) == ["non_inferiority"]


def rule_of(decision: Decision, name: str) -> RuleVerdict:
    return next(rule for rule in decision.rules if rule.rule == name)


def test_without_a_margin_the_smallest_is_shown_while_there_is_no_champion() -> None:
    free = GATES.model_copy(update={"non_inferiority_margin": None})
    assert rule_of(decide(documents(), free), "non_inferiority").bound == -0.01


@pytest.mark.parametrize("conversations", [None, "60", 0])
def test_conversations_that_are_no_count_prove_nothing(conversations: object) -> None:
    content = documents()
    content["scores"]["champion"] = other(15, (0.1, 1.0), (0.0, 0.1)) | {"conversations": conversations}
    free = GATES.model_copy(update={"non_inferiority_margin": None})
    assert rule_of(decide(content, free), "non_inferiority").bound == -1.0


def test_too_few_conversations_are_told_from_a_worse_model() -> None:
    """199: the distance from 0.1, a tenth of 15, to its limit, 0.2, is to shrink to 0.11, squared."""
    content = documents()
    content["scores"]["champion"] = other(15, (-1.5, 4.5), (0.0, 0.1)) | {"conversations": 60}
    note = rule_of(decide(content), "non_inferiority").note
    assert note.endswith("60 were compared; if the difference is 0.1, about 199 would tell")


def test_a_quantized_model_is_held_to_the_tokens_that_pytorch_finds_likeliest() -> None:
    note = rule_of(decide(documents()), "parity").note
    assert note == "Tokens after which the likeliest next one is PyTorch's"
