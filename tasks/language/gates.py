"""The gate rules of a language model."""

from __future__ import annotations

from collections.abc import Callable

from gauntlet.components.gate_model.rules import (
    CHANGE,
    FRACTION,
    MISSING,
    POSITIVE,
    YES,
    Documents,
    Rule,
    end_of,
    number_or_fault,
)
from gauntlet.components.gate_model.shared_rules import (
    Comparison,
    against_champion,
    confidence_of,
    converted,
    not_compared,
)
from gauntlet.manifests.gates import SMALLEST_MARGIN
from gauntlet.tasks.language.manifest import PERPLEXITY_SPREAD, default_gain_margin
from gauntlet.tasks.therapy.stages import evidence_of, recheck, stage_rules, stages_reached

__all__ = ["RULES", "evidence_of", "recheck", "stages_reached"]


def gain(metric: str, title: str, advice: str) -> Rule:
    """The model is better than the one it began from, and the interval excludes that it is not."""

    def lower(found: Documents) -> object:
        return end_of(found.at(f"scores.baseline.gains.{metric}.interval"), 0)

    note = f"Paired bootstrap lower end of the gain in {title} over the baseline"
    return Rule(f"{metric}_gain", ">", 0.0, CHANGE, lower, note, advice)


def not_judged(name: str, reason: Callable[[Documents], str], advice: str = "") -> Rule:
    """A rule about something that models of the kind do not have, listed with the reason."""
    return Rule(name, "is", True, YES, lambda _: True, "", advice, unless=reason)


def gains_over_champion(metric: str, title: str, spread: float) -> tuple[Rule, ...]:
    """The rules about the champion. A gain counts as a share of the champion's metric."""

    def share(key: str) -> Callable[[Documents], object]:
        def read(found: Documents) -> object:
            theirs = number_or_fault(found.at(f"scores.champion.figures.{metric}.value"), POSITIVE)
            ours = number_or_fault(found.at(f"scores.champion.gains.{metric}.{key}"), CHANGE)
            return ours / theirs if isinstance(ours, float) and isinstance(theirs, float) else MISSING

        return read

    def conversations(found: Documents) -> int:
        compared = found.at("scores.champion.conversations")
        return compared if isinstance(compared, int) else 0

    def margin(found: Documents) -> float:
        if not_compared(found) is not None:
            return SMALLEST_MARGIN
        return default_gain_margin(conversations(found), spread, confidence_of(found))

    return against_champion(
        Comparison(
            what=f"the gain in {title}, as a share of the champion's",
            domain=CHANGE,
            lower=share("lower_bound"),
            value=share("value"),
            upper=share("upper_bound"),
            rows=conversations,
            margin=margin,
            scored="Asked the same prompts",
        )
    )


ROUGE_L = Rule(
    "rouge_l",
    ">=",
    "gates.min_rouge_l",
    FRACTION,
    "scores.challenger.rouge_l.lower_bound",
    "Bootstrap lower limit of ROUGE-L",
    advice="More rows or longer training raise it; `gates.min_rouge_l` is the floor.",
)
ROUGE_L_GAIN = gain(
    "rouge_l",
    "ROUGE-L",
    "Answers are not surely closer to the references than before training: more steps, or more "
    "`evaluation.prompts`, which narrow the doubt.",
)
RULES = (
    Rule(
        "perplexity",
        "<=",
        "gates.max_perplexity",
        POSITIVE,
        "scores.challenger.perplexity.upper_bound",
        "Bootstrap upper limit of perplexity",
        advice="More rows or longer training lower it; `gates.max_perplexity` is the ceiling.",
    ),
    ROUGE_L,
    gain(
        "perplexity",
        "perplexity",
        "Training has not surely helped: the answers in `predictions.json` show where. More steps, a higher "
        "learning rate, or more `evaluation.prompts`, which narrow the doubt.",
    ),
    ROUGE_L_GAIN,
    *converted(
        "certificate.next_token_agreement",
        "Tokens after which the likeliest next one is PyTorch's",
        "certificate.perplexity_change",
        CHANGE,
        "Share by which conversion raised perplexity",
    ),
    *gains_over_champion("perplexity", "perplexity", PERPLEXITY_SPREAD),
    *stage_rules("gates.stages.staging"),
)
