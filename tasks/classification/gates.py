"""The gate rules of a classifier. A bound on a sampled metric holds for its bootstrap limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from gauntlet.components.gate_model.rules import (
    DIFFERENCE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    Documents,
    Fault,
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
from gauntlet.manifests.gates import (
    SMALLEST_CLASS_DROP,
    SMALLEST_MARGIN,
    default_class_drop,
    default_margin,
)

CLASS_DROP = "Largest drop of a class's F1 against the champion"


def _validation_gap(found: Documents) -> object:
    """Macro-F1 on the validation split minus the upper limit of the shipped graph's on the test split."""
    tested = end_of(found.at("scores.challenger.intervals.macro_f1"), 1)
    numbers = []
    for value in (_validated(found), tested):
        number = number_or_fault(value, FRACTION)
        if isinstance(number, str):
            return Fault(number)
        numbers.append(number)
    return numbers[0] - numbers[1]


def _validated(found: Documents) -> object:
    """Macro-F1 on the validation split at the epoch that training kept."""
    epochs, best = found.at("history.epochs"), found.at("history.best_epoch")
    if not isinstance(epochs, list):
        return MISSING
    kept = [epoch for epoch in epochs if isinstance(epoch, dict) and epoch.get("epoch") == best]
    return Documents({}, {}, history=kept[0]).at("history.validation.macro_f1") if len(kept) == 1 else MISSING


def class_rows(found: Documents) -> dict[str, int]:
    """Rows of each class that the champion was scored on; a count that is no number is left out."""
    rows = found.at("scores.champion.per_class")
    return {
        row["label"]: row["support"]
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("label"), str) and type(row.get("support")) is int
    }


def tested_margin(found: Documents) -> float:
    """The default margin if nothing is compared: it follows from the number of test rows."""
    rows = number_or_fault(found.at("scores.rows"), NOT_NEGATIVE)
    return SMALLEST_MARGIN if isinstance(rows, str) else default_margin([int(rows)])


def margin(found: Documents) -> float:
    """The default of `non_inferiority_margin`, by the rows of each class."""
    if not_compared(found) is not None:
        return tested_margin(found)
    return default_margin(class_rows(found).values(), confidence_of(found))


@dataclass(frozen=True)
class _Drop:
    """How much a class's F1 fell (below 0 if it rose), the bound, and the rule's note."""

    value: float | Fault
    bound: float
    note: str


def _worst_class(found: Documents) -> _Drop:
    """The class whose F1 falls most.

    If the manifest has no bound, each class has one that follows from its rows, and this is the class that
    exceeds its bound most.
    """
    given, labels = found.gates["max_class_f1_drop"], found.at("scores.labels")
    bound = SMALLEST_CLASS_DROP if given is None else given
    if not_compared(found) is not None:
        return _Drop(Fault("nothing was compared"), bound, CLASS_DROP)
    if not _are_names(labels):
        return _Drop(Fault(f"found labels {labels!r}, expected the class names"), bound, CLASS_DROP)
    drops: dict[str, float] = {}
    for label in labels:
        differences = found.at("scores.paired.class_f1_difference")
        difference = differences.get(label, MISSING) if isinstance(differences, dict) else MISSING
        number = number_or_fault(difference, DIFFERENCE)
        if isinstance(number, str):
            return _Drop(Fault(f"class {label}: {number}"), bound, CLASS_DROP)
        drops[label] = 0.0 - number
    if given is not None:
        worst = max(drops, key=drops.__getitem__)
        return _Drop(drops[worst], given, f"{CLASS_DROP}: {worst}")
    rows, confidence = class_rows(found), confidence_of(found)
    bounds = {label: default_class_drop(rows.get(label, 0), confidence) for label in labels}
    worst = max(drops, key=lambda label: drops[label] - bounds[label])
    note = f"{CLASS_DROP}: {worst}; the bound follows from its {rows.get(worst, 0)} rows"
    return _Drop(drops[worst], bounds[worst], note)


def _are_names(labels: object) -> TypeGuard[list[str]]:
    return isinstance(labels, list) and bool(labels) and all(isinstance(label, str) for label in labels)


MACRO_F1 = Rule(
    "macro_f1",
    ">=",
    "gates.min_macro_f1",
    FRACTION,
    "scores.challenger.lower_bounds.macro_f1",
    "Bootstrap lower limit of macro-F1",
    advice="More rows, cleaner labels or longer training raise it; `gates.min_macro_f1` is the floor.",
)
VALIDATION_GAP = Rule(
    "validation_gap",
    "<=",
    "gates.max_validation_gap",
    DIFFERENCE,
    _validation_gap,
    "Macro-F1 in training's validation minus its upper limit on the test split",
    advice="Are the test split's rows prepared, or distributed, otherwise than validation's? The report "
    "has both under Data; `gates.max_validation_gap` is the ceiling.",
)
QUALITY = (
    MACRO_F1,
    Rule(
        "accuracy",
        ">=",
        "gates.min_accuracy",
        FRACTION,
        "scores.challenger.lower_bounds.accuracy",
        "Bootstrap lower limit of accuracy",
        advice="More rows, cleaner labels or longer training raise it; `gates.min_accuracy` is the floor.",
    ),
    VALIDATION_GAP,
)
CONVERTED = converted(
    "certificate.label_agreement",
    "Rows with the label that PyTorch gives them",
    "certificate.metric_drop_bound",
    DIFFERENCE,
    "Bootstrap upper limit of the macro-F1 that conversion lost",
)
CLASS_F1_DROP = Rule(
    "class_f1_drop",
    "<=",
    lambda found: _worst_class(found).bound,
    DIFFERENCE,
    lambda found: _worst_class(found).value,
    lambda found: _worst_class(found).note,
    advice="A class got worse: the report shows it under Classes and among the mistakes; "
    "`gates.max_class_f1_drop` is the most allowed.",
    unless=not_compared,
)
RULES = (
    *QUALITY,
    *CONVERTED,
    *against_champion(
        Comparison(
            what="macro-F1 minus the champion's",
            domain=DIFFERENCE,
            value="scores.paired.macro_f1_difference",
            margin=margin,
            rows=lambda found: sum(class_rows(found).values()),
        )
    ),
    CLASS_F1_DROP,
)
