"""The gate rules of a grader: those of a classifier, and how far off its grades are."""

from __future__ import annotations

from gauntlet.components.gate_model.rules import DIFFERENCE, NOT_NEGATIVE, Documents, Domain, Rule
from gauntlet.components.gate_model.shared_rules import (
    Comparison,
    against_champion,
    confidence_of,
    not_compared,
)
from gauntlet.manifests.gates import default_margin
from gauntlet.tasks.classification.gates import CLASS_F1_DROP, CONVERTED, QUALITY, class_rows, tested_margin

QWK_DIFFERENCE = Domain(-2.0, 2.0, "a number from -2 to 2")


def _margin(found: Documents) -> float:
    if not_compared(found) is not None:
        return tested_margin(found)
    return default_margin([sum(class_rows(found).values())], confidence_of(found))


RULES = (
    *QUALITY,
    Rule(
        "qwk",
        ">=",
        "gates.min_qwk",
        DIFFERENCE,
        "scores.challenger.grades.qwk_lower_bound",
        "Bootstrap lower limit of QWK",
        advice="More cards or longer training raise it; `gates.min_qwk` is the floor.",
    ),
    Rule(
        "mae",
        "<=",
        "gates.max_mae",
        NOT_NEGATIVE,
        "scores.challenger.grades.mae_upper_bound",
        "Bootstrap upper limit of the mean absolute error in grades",
        advice="More cards or longer training lower it; `gates.max_mae` is the most.",
    ),
    *CONVERTED,
    *against_champion(
        Comparison(
            what="QWK minus the champion's",
            domain=QWK_DIFFERENCE,
            value="scores.paired.qwk_difference",
            margin=_margin,
            lower="scores.paired.qwk_lower_bound",
            upper="scores.paired.qwk_upper_bound",
            rows=lambda found: sum(class_rows(found).values()),
        )
    ),
    CLASS_F1_DROP,
)
