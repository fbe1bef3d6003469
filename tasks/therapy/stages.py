"""Promotion stages: the bounds that a conversation model has to meet for staging and for production.

gate-model applies them, and `gauntlet promote` again to the evidence that a version was registered with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gauntlet.components.gate_model.rules import (
    FRACTION,
    MISSING,
    POSITIVE,
    YES,
    Documents,
    Domain,
    No,
    Rule,
    decide,
)
from gauntlet.contracts.scores import NOT_MEASURED
from gauntlet.contracts.verdict import STAGES, Decision, Operator, StageDecision, StageName
from gauntlet.tasks.therapy.manifest import Production, Stage, Staging

LOWER, UPPER = "Bootstrap lower limit of", "Bootstrap upper limit of"
FIGURES: tuple[tuple[str, Operator, str, Domain, str], ...] = (
    ("safety", ">=", "min_safety", FRACTION, f"{LOWER} the safety of answers to crisis messages"),
    ("toxicity", "<=", "max_toxicity", FRACTION, f"{UPPER} the share of toxic answers"),
    ("crisis_content", "<=", "max_crisis_content", FRACTION, f"{UPPER} the share that bring a crisis up"),
    (
        "privacy_leakage",
        "<=",
        "max_privacy_leakage",
        FRACTION,
        f"{UPPER} the share that give training data away",
    ),
    ("fairness", ">=", "min_fairness", FRACTION, f"{LOWER} fairness to the attribute treated worst"),
    ("quality", ">=", "min_quality", FRACTION, f"{LOWER} therapeutic quality"),
    ("perplexity", "<=", "max_perplexity", POSITIVE, f"{UPPER} perplexity"),
)
"""Each rule with its key in a stage."""


def stage_rules(stage: str) -> tuple[Rule, ...]:
    """The rules that a stage has a bound for; `stage` is its path in `Documents`."""
    return tuple(
        Rule(
            name,
            operator,
            f"{stage}.{key}",
            domain,
            f"scores.therapy.figures.{name}.bound",
            note,
            advice="Evaluate-model's scores name the answers (`flagged`); the bound is "
            f"`gates.stages.staging.{key}`.",
            unless=_without_perplexity if name == "perplexity" else lambda _: None,
            when=lambda found, bound=f"{stage}.{key}": found.at(bound) not in (None, MISSING),  # type: ignore[misc]
        )
        for name, operator, key, domain, note in FIGURES
    )


def _without_perplexity(found: Documents) -> str | None:
    """Only perplexity may be missing: a model behind an API has none."""
    reason = found.at(f"scores.therapy.figures.perplexity.{NOT_MEASURED}")
    return None if reason is MISSING else f"Not judged: {reason}"


STAGE_RULES = stage_rules("gates")


def judge_stage(stage: Stage, therapy: object) -> Decision:
    """Judge every rule that the stage has a bound for; `therapy` is that of the evaluation's scores."""
    return decide(STAGE_RULES, Documents(stage.model_dump(), {"therapy": therapy}))


def stages_reached(stages: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, StageDecision]:
    """The decision about each stage of the section `gates.stages`."""
    return {
        name: StageDecision(
            **dict(judge_stage(stage, scores.get("therapy"))), bounds=stage.model_dump(exclude_none=True)
        )
        for name in STAGES
        for stage in [_of(name, stages[name])]
    }


def evidence_of(verdict: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a version is promoted by later: bounds, figures, champion; None without stages."""
    if "stages" not in verdict:
        return None
    champion, therapy = scores.get("champion"), scores.get("therapy")
    return {
        "stages": {name: stage["bounds"] for name, stage in verdict["stages"].items()},
        "therapy": therapy if isinstance(therapy, Mapping) else {},
        "champion": None if champion is None else champion["version"],
    }


def recheck(evidence: Mapping[str, Any], to: StageName) -> Decision:
    """Judge the recorded figures again, by the recorded bounds."""
    stage = _of(to, evidence["stages"][to])
    found = Documents(stage.model_dump(), {"therapy": evidence.get("therapy")})
    return decide((CURRENT_EVALUATORS, *STAGE_RULES), found)


def _of(name: str, bounds: Mapping[str, Any]) -> Stage:
    return (Staging if name == "staging" else Production).model_validate(bounds)


def _are_current(found: Documents) -> object:
    from gauntlet.tasks.therapy.validation import EVALUATORS

    is_current = found.at("scores.therapy.evaluators") == EVALUATORS
    return is_current or No(f"{_evaluators_note(found)}. Run the pipeline again")


def _evaluators_note(found: Documents) -> str:
    from gauntlet.tasks.therapy.validation import EVALUATORS

    theirs = found.at("scores.therapy.evaluators")
    return f"Judged by the evaluators of today, {_versions(EVALUATORS)}; found {_versions(theirs)}"


def _versions(evaluators: object) -> str:
    if not isinstance(evaluators, Mapping):
        return "none"
    return " ".join(f"{name} {version}" for name, version in evaluators.items())


CURRENT_EVALUATORS = Rule("evaluators", "is", True, YES, _are_current, _evaluators_note)
