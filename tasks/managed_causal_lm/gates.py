"""The gate rules of a managed model: without perplexity, which Vertex AI does not give, and conversion."""

from __future__ import annotations

from gauntlet.components.gate_model.rules import Documents
from gauntlet.components.gate_model.shared_rules import BUNDLE, COST
from gauntlet.tasks.language.gates import ROUGE_L, ROUGE_L_GAIN, gains_over_champion, not_judged
from gauntlet.tasks.language.manifest import ROUGE_L_SPREAD
from gauntlet.tasks.therapy.stages import evidence_of, recheck, stage_rules, stages_reached

__all__ = ["RULES", "evidence_of", "recheck", "stages_reached"]


def _no_perplexity(found: Documents) -> str:
    reason = found.at("scores.not_measured.perplexity")
    return f"Not judged: {reason}. ROUGE-L must show what perplexity cannot"


def _not_converted(_: Documents) -> str:
    return "Not judged: nothing was converted, as Vertex AI serves the model that it tuned"


RULES = (
    not_judged("perplexity", _no_perplexity),
    ROUGE_L,
    not_judged("perplexity_gain", _no_perplexity),
    ROUGE_L_GAIN,
    *(
        not_judged(name, _not_converted)
        for name in ("speedup", "certificate", "parity", "neighbours", "metric_drop", "model_size")
    ),
    BUNDLE,
    COST,
    *gains_over_champion("rouge_l", "ROUGE-L", ROUGE_L_SPREAD),
    *stage_rules("gates.stages.staging"),
)
