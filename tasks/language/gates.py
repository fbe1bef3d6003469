"""The rules for a language model: pure functions of what the other steps wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gauntlet.components.gate_model.figures import at, chosen_candidate, confidence_of, overlap_of
from gauntlet.components.gate_model.rules import (
    NEIGHBOURS,
    NO_CHAMPION,
    NOT_COMPARED,
    Decision,
    Estimate,
    Verdict,
    decision_by,
    judge,
    judge_bundle,
    judge_certificate,
    judge_clean_rows,
    judge_difference,
    judge_training_overlap,
    speedup_words,
)
from gauntlet.components.gate_model.values import (
    CHANGE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    POSITIVE,
    Domain,
    number_or_fault,
)
from gauntlet.manifests.gates import SMALLEST_MARGIN
from gauntlet.manifests.metrics import NOT_MEASURED
from gauntlet.tasks.language.manifest import (
    PERPLEXITY_SPREAD,
    ROUGE_L_SPREAD,
    LanguageGates,
    default_gain_margin,
)
from gauntlet.tasks.therapy.stages import judge_stage, therapy_of


@dataclass(frozen=True)
class Documents:
    """evaluate-model's `scores`, convert-to-onnx's `candidates`, training's `history`, and the certificate.

    `model_sha256` is that of the model beside the certificate, where the bundle names it. `bundle_fault` is
    what `serving/verification.py` found wrong with the bundle, or None. `managed`: the bundle holds no model,
    as a vendor serves it.
    """

    scores: Mapping[str, Any]
    candidates: Mapping[str, Any]
    history: Mapping[str, Any]
    certificate: Mapping[str, Any]
    model_sha256: str | None
    bundle_fault: object = MISSING
    managed: bool = False


def decide_language_model(gates: LanguageGates, found: Documents) -> Decision:
    """Judge every rule; none is skipped because another has failed."""
    stages = gates.stages
    return decision_by(
        (
            *(_managed_quality if found.managed else _quality)(gates, found.scores),
            *(_managed_service if found.managed else _shipped)(gates, found),
            judge_training_overlap(overlap_of(found.scores)),
            *_against_champion(gates, found.scores, "rouge_l" if found.managed else "perplexity"),
            *(judge_stage(stages.staging, therapy_of(found.scores)) if stages is not None else ()),
        )
    )


def _quality(gates: LanguageGates, scores: Mapping[str, Any]) -> tuple[Verdict, ...]:
    return (
        _perplexity(gates.max_perplexity, scores),
        _rouge_l(gates, scores),
        _gain("perplexity_gain", at(scores, "baseline", "gains", "perplexity", "interval"), "perplexity"),
        _gain("rouge_l_gain", at(scores, "baseline", "gains", "rouge_l", "interval"), "ROUGE-L"),
    )


def _perplexity(bound: float | None, scores: Mapping[str, Any]) -> Verdict:
    note = "Bootstrap upper limit of perplexity"
    if bound is None:
        return Verdict(
            "perplexity", True, "is", None, "fail", f"{note}: found no bound, gates.max_perplexity"
        )
    value = at(scores, "challenger", "perplexity", "upper_bound")
    return judge("perplexity", value, "<=", bound, POSITIVE, note)


def _rouge_l(gates: LanguageGates, scores: Mapping[str, Any]) -> Verdict:
    value = at(scores, "challenger", "rouge_l", "lower_bound")
    return judge("rouge_l", value, ">=", gates.min_rouge_l, FRACTION, "Bootstrap lower limit of ROUGE-L")


def _managed_quality(gates: LanguageGates, scores: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """The rules of a managed model, which has no perplexity: only ROUGE-L shows that tuning has helped."""
    reason = at(scores, NOT_MEASURED, "perplexity")
    note = f"Not judged: {reason}. ROUGE-L must show what perplexity cannot"
    return (
        Verdict("perplexity", True, "is", None, "not applicable", note),
        _rouge_l(gates, scores),
        Verdict("perplexity_gain", True, "is", None, "not applicable", note),
        _gain("rouge_l_gain", at(scores, "baseline", "gains", "rouge_l", "interval"), "ROUGE-L"),
    )


def _managed_service(gates: LanguageGates, found: Documents) -> tuple[Verdict, ...]:
    """Nothing was converted, so nothing of a conversion can be judged; what it cost can."""
    note = "Not judged: nothing was converted, as Vertex AI serves the model that it tuned"
    unjudged = ("speedup", "certificate", "parity", "neighbours", "metric_drop", "model_size")
    return (
        *(Verdict(rule, True, "is", None, "not applicable", note) for rule in unjudged),
        judge_bundle(found.bundle_fault),
        _cost(gates, found),
    )


def _cost(gates: LanguageGates, found: Documents) -> Verdict:
    cost = at(found.history, "cost_usd")
    return judge("cost", cost, "<=", gates.max_cost_usd, NOT_NEGATIVE, "Training cost in USD")


def _gain(rule: str, interval: object, figure: str) -> Verdict:
    """Pass when the model is better than the one it began from, and the interval excludes that it is not."""
    note = f"Paired bootstrap lower end of the gain in {figure} over the baseline"
    lower = number_or_fault(interval[0] if isinstance(interval, list) and interval else MISSING, CHANGE)
    if isinstance(lower, str):
        return Verdict(rule, 0.0, ">", None, "fail", f"{note}: {lower}")
    return Verdict(rule, 0.0, ">", lower, "pass" if lower > 0 else "fail", note)


def _shipped(gates: LanguageGates, found: Documents) -> tuple[Verdict, ...]:
    """Speed, size and cost, and how closely the shipped file follows PyTorch."""
    size = str(at(found.candidates, "objective_batch_size"))
    certificate, certified = found.certificate, at(found.certificate, "model_sha256")
    known = certified is not MISSING and found.model_sha256 is not None
    speedup, clock = at(found.candidates, "chosen_speedup", size), at(found.candidates, "clock")
    model_mb = at(chosen_candidate(found.candidates), "size_mb")
    return (
        judge("speedup", speedup, ">=", gates.min_speedup, POSITIVE, speedup_words(clock)),
        judge_certificate(certified == found.model_sha256 if known else MISSING),
        judge_bundle(found.bundle_fault),
        _parity(certificate),
        _bounded(
            "neighbours",
            certificate,
            at(certificate, "neighbours", "max_difference"),
            "max_neighbour_difference",
            NEIGHBOURS,
            "<=",
            FRACTION,
        ),
        _bounded(
            "metric_drop",
            certificate,
            at(certificate, "perplexity_change"),
            "max_metric_drop",
            "Share by which conversion raised perplexity",
            "<=",
            CHANGE,
        ),
        judge("model_size", model_mb, "<=", gates.max_model_mb, POSITIVE, "Model size in MB"),
        _cost(gates, found),
    )


def _parity(certificate: Mapping[str, Any]) -> Verdict:
    if certificate.get("precision") == "fp32":
        note = "Largest difference of a logit from PyTorch's"
        difference = at(certificate, "max_abs_difference")
        return _bounded(
            "parity", certificate, difference, "max_abs_logit_difference", note, "<=", NOT_NEGATIVE
        )
    note = "Tokens after which the likeliest next one is PyTorch's"
    agreement = at(certificate, "next_token_agreement")
    return _bounded("parity", certificate, agreement, "min_label_agreement", note, ">=", FRACTION)


def _bounded(
    rule: str,
    certificate: Mapping[str, Any],
    figure: object,
    bound_key: str,
    note: str,
    operator: Any,
    domain: Domain,
) -> Verdict:
    """Judge a figure of the certificate by the bound that conversion held it to."""
    bound = number_or_fault(at(certificate, "bounds", bound_key), domain)
    if isinstance(bound, str):
        return Verdict(rule, True, "is", None, "fail", f"{note}: bound {bound_key}: {bound}")
    return judge(rule, figure, operator, bound, domain, note)


def _against_champion(
    gates: LanguageGates, scores: Mapping[str, Any], figure: str
) -> tuple[Verdict, Verdict, Verdict]:
    overlap, margin = overlap_of(scores), gates.non_inferiority_margin
    if "champion_error" in scores or "champion" not in scores:
        comparable = Verdict("comparable_champion", True, "is", None, "not applicable", NO_CHAMPION)
        note = NO_CHAMPION
        if "champion_error" in scores:
            reason = str(scores["champion_error"])
            comparable = Verdict("comparable_champion", True, "is", False, "fail", reason)
            note = NOT_COMPARED
        shown = 0.0 - (SMALLEST_MARGIN if margin is None else margin)
        return (
            comparable,
            judge_clean_rows(gates, overlap, note),
            Verdict("non_inferiority", shown, ">=", None, "not applicable", note),
        )
    theirs = number_or_fault(at(scores, "champion", "figures", figure, "value"), POSITIVE)

    def share(key: str) -> object:
        gain = number_or_fault(at(scores, "champion", "gains", figure, key), CHANGE)
        return gain / theirs if isinstance(gain, float) and isinstance(theirs, float) else MISSING

    found = at(scores, "champion", "conversations")
    conversations = found if isinstance(found, int) else 0
    spread, name = PERPLEXITY_SPREAD, "perplexity"
    if figure == "rouge_l":
        spread, name = ROUGE_L_SPREAD, "ROUGE-L"
    default = default_gain_margin(conversations, spread, confidence_of(scores))
    rest = Estimate(share("value"), share("upper_bound"), conversations)
    what = f"the gain in {name}, as a share of the champion's"
    return (
        Verdict("comparable_champion", True, "is", True, "pass", "Asked the same prompts"),
        judge_clean_rows(gates, overlap, None),
        judge_difference(share("lower_bound"), rest, margin, default, CHANGE, what),
    )
