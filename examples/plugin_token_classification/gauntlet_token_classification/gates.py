"""The rules of the gate."""

from __future__ import annotations

from gauntlet.components.gate_model.rules import DIFFERENCE, FRACTION, Documents, Rule
from gauntlet.components.gate_model.shared_rules import (
    Comparison,
    against_champion,
    compared_rows,
    converted,
)
from gauntlet.manifests.gates import SMALLEST_MARGIN, default_margin


def _margin(found: Documents) -> float:
    rows = compared_rows(found)
    return default_margin([rows]) if rows else SMALLEST_MARGIN


RULES = (
    Rule(
        "entity_f1",
        ">=",
        "gates.min_entity_f1",
        FRACTION,
        "scores.challenger.lower_bounds.entity_f1",
        "Bootstrap lower limit of entity F1",
        advice="More sentences or longer training raise it; `gates.min_entity_f1` is the floor.",
    ),
    *converted(
        "certificate.label_agreement",
        "Words with the tag that PyTorch gives them",
        "certificate.metric_drop_bound",
        DIFFERENCE,
        "Bootstrap upper limit of the entity F1 that conversion lost",
    ),
    *against_champion(
        Comparison(
            what="entity F1 minus the champion's",
            domain=DIFFERENCE,
            value="scores.paired.entity_f1_difference",
            margin=_margin,
            scored="Scored on the same sentences",
        )
    ),
)
