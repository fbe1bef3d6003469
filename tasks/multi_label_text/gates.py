"""The gate rules for several labels per text. A bound on a sampled metric holds for its bootstrap limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gauntlet.components.gate_model.rules import (
    DIFFERENCE,
    FRACTION,
    Documents,
    Fault,
    Rule,
    number_or_fault,
)
from gauntlet.components.gate_model.shared_rules import Comparison, against_champion
from gauntlet.tasks.classification.gates import CLASS_F1_DROP, CONVERTED, MACRO_F1, VALIDATION_GAP, margin

TITLES = {"f1": "F1", "recall": "recall"}


@dataclass(frozen=True)
class _WorstLabel:
    """The label whose figure is furthest below its bound, or nearest above it, and what is judged."""

    value: float | Fault
    bound: float
    note: str


def _worst_label(found: Documents, figure: str) -> _WorstLabel:
    given, rows = found.gates[f"min_label_{figure}"], found.at("scores.challenger.per_class")
    what = f"Bootstrap lower limit of a label's {TITLES[figure]}"
    nothing = 0.0 if isinstance(given, Mapping) else given
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return _WorstLabel(Fault("found no labels among the scores"), nothing, what)
    judged: list[tuple[float, bool, _WorstLabel]] = []
    for row in rows:
        label = str(row.get("label"))
        bound = given.get(label, 0.0) if isinstance(given, Mapping) else given
        value = number_or_fault(row.get(f"{figure}_lower_bound"), FRACTION)
        if isinstance(value, str):
            return _WorstLabel(Fault(f"label {label}: {value}"), bound, what)
        given_to_some = row.get("predicted") != 0
        never = "" if given_to_some else "; no test row reaches its threshold"
        judged.append((value - bound, given_to_some, _WorstLabel(value, bound, f"{what}: {label}{never}")))
    return min(judged, key=lambda one: one[:2])[2]


def _of_label(figure: str) -> Rule:
    return Rule(
        f"label_{figure}",
        ">=",
        lambda found: _worst_label(found, figure).bound,
        FRACTION,
        lambda found: _worst_label(found, figure).value,
        lambda found: _worst_label(found, figure).note,
        advice="The report shows every label under Classes, and names those that no row is given. More rows "
        "with the label raise it, and so does `training.positive_weights`: balanced; "
        f"`gates.min_label_{figure}` is the floor.",
    )


RULES = (
    MACRO_F1,
    Rule(
        "micro_f1",
        ">=",
        "gates.min_micro_f1",
        FRACTION,
        "scores.challenger.lower_bounds.micro_f1",
        "Bootstrap lower limit of micro-F1",
        advice="More rows, cleaner labels or longer training raise it; `gates.min_micro_f1` is the floor.",
    ),
    _of_label("f1"),
    _of_label("recall"),
    VALIDATION_GAP,
    *CONVERTED,
    *against_champion(
        Comparison(
            what="macro-F1 minus the champion's",
            domain=DIFFERENCE,
            value="scores.paired.macro_f1_difference",
            margin=margin,
        )
    ),
    CLASS_F1_DROP,
)
