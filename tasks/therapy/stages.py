"""The rules of the promotion stages: pure functions of what the evaluation of conversations found.

gate-model judges by them, and `gauntlet promote` again by the evidence that a version was registered with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from gauntlet.components.gate_model.rules import Decision, Operator, Verdict, decision_by, judge
from gauntlet.components.gate_model.values import FRACTION, MISSING, POSITIVE, Domain
from gauntlet.manifests.metrics import NOT_MEASURED
from gauntlet.tasks.therapy.manifest import STAGES, Production, Stage, StageName, Stages, Staging

LOWER, UPPER = "Bootstrap lower limit of", "Bootstrap upper limit of"
RULES: tuple[tuple[str, str, Literal[">=", "<="], Domain, str], ...] = (
    ("safety", "min_safety", ">=", FRACTION, f"{LOWER} the safety of answers to crisis messages"),
    ("toxicity", "max_toxicity", "<=", FRACTION, f"{UPPER} the share of toxic answers"),
    ("crisis_content", "max_crisis_content", "<=", FRACTION, f"{UPPER} the share that bring a crisis up"),
    (
        "privacy_leakage",
        "max_privacy_leakage",
        "<=",
        FRACTION,
        f"{UPPER} the share that give training data away",
    ),
    ("fairness", "min_fairness", ">=", FRACTION, f"{LOWER} fairness to the attribute treated worst"),
    ("quality", "min_quality", ">=", FRACTION, f"{LOWER} therapeutic quality"),
    ("perplexity", "max_perplexity", "<=", POSITIVE, f"{UPPER} perplexity"),
)
"""Each rule with its key in a stage."""


def judge_stage(stage: Stage, therapy: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Judge every rule that the stage has a bound for; `therapy` is of the evaluation's scores."""
    figures = therapy.get("figures")
    found: Mapping[str, Any] = figures if isinstance(figures, Mapping) else {}
    return tuple(
        not_measured(rule, operator, bound, found[rule][NOT_MEASURED])
        if NOT_MEASURED in found.get(rule, {})
        else judge(rule, found.get(rule, {}).get("bound", MISSING), operator, bound, domain, note)
        for rule, key, operator, domain, note in RULES
        if (bound := getattr(stage, key)) is not None
    )


def not_measured(rule: str, operator: Operator, bound: float, reason: object) -> Verdict:
    """A rule about a figure that there cannot be of this kind of model. Only perplexity may be missing so."""
    if rule != "perplexity":
        return Verdict(rule, bound, operator, None, "fail", f"found no figure: {reason}")
    return Verdict(rule, bound, operator, None, "not applicable", f"Not judged: {reason}")


def therapy_of(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the evaluators for conversations found; nothing fails every rule."""
    found = scores.get("therapy")
    return found if isinstance(found, Mapping) else {}


def stages_reached(stages: Stages, therapy: Mapping[str, Any]) -> dict[StageName, dict[str, Any]]:
    """Of each stage the decision about it, as JSON, with the bounds that it was made by."""
    return {
        name: asdict(decision_by(judge_stage(stage, therapy)))
        | {"bounds": stage.model_dump(exclude_none=True)}
        for name in STAGES
        for stage in [getattr(stages, name)]
    }


def evidence_of(verdict: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a version is promoted by later: bounds, figures, the evaluators and what they are worth.

    None when the verdict knows no stages.
    """
    if "stages" not in verdict:
        return None
    champion = scores.get("champion")
    return {
        "stages": {name: stage["bounds"] for name, stage in verdict["stages"].items()},
        "therapy": therapy_of(scores),
        "champion": None if champion is None else champion["version"],
    }


def recheck(evidence: Mapping[str, Any], to: StageName) -> Decision:
    """Judge the recorded figures once more, by the recorded bounds."""
    from gauntlet.tasks.therapy.validation import EVALUATORS

    kind = Staging if to == "staging" else Production
    therapy = evidence.get("therapy", {})
    theirs = therapy.get("evaluators")
    note = f"Judged by the evaluators of today, {_versions(EVALUATORS)}; found {_versions(theirs)}"
    current = Verdict("evaluators", True, "is", theirs == EVALUATORS, "pass", note)
    if theirs != EVALUATORS:
        current = Verdict("evaluators", True, "is", False, "fail", f"{note}. Run the pipeline again")
    return decision_by((current, *judge_stage(kind.model_validate(evidence["stages"][to]), therapy)))


def _versions(evaluators: object) -> str:
    if not isinstance(evaluators, Mapping):
        return "none"
    return " ".join(f"{name} {version}" for name, version in evaluators.items())
