"""Rules that kinds share: what the bundle proves, what training cost, and the champion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gauntlet.components.gate_model.rules import (
    CHANGE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    POSITIVE,
    YES,
    Documents,
    Domain,
    No,
    Read,
    Rule,
    number_or_fault,
    read,
)
from gauntlet.contracts.verdict import RuleVerdict

NO_CHAMPION = "No champion is registered yet: the floors alone decide"
NOT_COMPARED = "The champion could not be scored: see comparable_champion"
CHAMPION_KEYS = ("champion", "paired", "champion_error")
"""Any of them in the scores means that there is a champion: half a comparison is not a first model."""


def _is_imported(found: Documents) -> bool:
    return isinstance(found.at("history.origin"), Mapping)


def _without_pytorch(found: Documents) -> str | None:
    """Why there is nothing to compare a graph with that was made elsewhere; None for any other model."""
    if found.at("history.origin.form") != "onnx":
        return None
    return "Not proved: the graph was made elsewhere, and there is no PyTorch model to compare it with"


def _bought_elsewhere(found: Documents) -> str | None:
    return "The model was trained elsewhere" if _is_imported(found) else None


def _trained_on_unknown_rows(found: Documents) -> str | None:
    """A model from elsewhere, of which nobody can say which test rows it was trained on."""
    known = found.at("scores.training_overlap.challenger")  # absent or null if it is not known
    if not _is_imported(found) or (known is not MISSING and known is not None):
        return None
    return (
        "Not proved: the model was trained elsewhere, so it is not known which test rows it was trained "
        "on. If there are any, its figures are too good"
    )


def _speedup_words(found: Documents) -> str:
    words = "Times as fast as PyTorch"
    busy = found.at("candidates.clock") == "cpu"
    return f"{words} by one thread's CPU time, because the machine was busy" if busy else words


def _model_mb(found: Documents) -> object:
    rows, name = found.at("candidates.candidates"), found.at("candidates.chosen")
    if not isinstance(rows, list) or not isinstance(name, str):
        return MISSING
    chosen = [row for row in rows if isinstance(row, dict) and row.get("name") == name]
    return chosen[0].get("size_mb", MISSING) if len(chosen) == 1 else MISSING


SPEEDUP = Rule(
    "speedup",
    ">=",
    "gates.min_speedup",
    POSITIVE,
    lambda found: found.at(f"candidates.chosen_speedup.{found.at('candidates.objective_batch_size')}"),
    _speedup_words,
    advice="Allow a faster candidate in `conversion.candidates`; `gates.min_speedup` is the floor.",
    unless=_without_pytorch,
)
MODEL_SIZE = Rule(
    "model_size",
    "<=",
    "gates.max_model_mb",
    POSITIVE,
    _model_mb,
    "Model size in MB",
    advice="Allow `int8_per_token` in `conversion.candidates`; `gates.max_model_mb` is the ceiling.",
)
COST = Rule(
    "cost",
    "<=",
    "gates.max_cost_usd",
    NOT_NEGATIVE,
    "history.cost_usd",
    "Training cost in USD",
    advice="Train fewer epochs or on a cheaper machine; `gates.max_cost_usd` is the ceiling.",
    unless=_bought_elsewhere,
)


def _is_of_the_model(found: Documents) -> object:
    certified = found.at("certificate.model_sha256")
    if certified is MISSING or found.model_sha256 is None:
        return MISSING
    return certified == found.model_sha256 or No("The parity certificate is of another model's file")


def _is_verified(found: Documents) -> object:
    fault = found.bundle_fault
    if fault is None:
        return True
    return No(f"`gauntlet bundle verify` found: {fault}") if isinstance(fault, str) else MISSING


def _is_fp32(found: Documents) -> bool:
    """Whether the bundled graph computes in full precision."""
    return found.at("certificate.precision") == "fp32"


CERTIFICATE = Rule(
    "certificate",
    "is",
    True,
    YES,
    _is_of_the_model,
    "The bundle's parity certificate is of the model that it holds",
    advice="The bundle holds another model than the one that was proven: run convert-to-onnx again.",
)
BUNDLE = Rule(
    "bundle",
    "is",
    True,
    YES,
    _is_verified,
    "`gauntlet bundle verify` accepts the bundle",
    advice="On this machine the bundle does not serve as it was proven; the rule's note says why. Run "
    "convert-to-onnx again.",
)
NEIGHBOURS = Rule(
    "neighbours",
    "<=",
    "certificate.bounds.max_neighbour_difference",
    FRACTION,
    "certificate.neighbours.max_difference",
    "Largest change of a row's probability with the rows and padding of its batch",
    advice="The other rows of a batch change a row's answer. With `int8_per_token` and the float candidates "
    "of `conversion.candidates` they do not; `conversion.max_neighbour_difference` is the bound.",
)
PARITY_ADVICE = "The report says under Conversion how far it differs; the bounds are keys of `conversion`."


def converted(
    agreement: str,
    agreement_note: str,
    drop: str | Read,
    drop_domain: Domain,
    drop_note: str,
    *,
    difference: str | Read = "certificate.max_abs_difference",
    difference_note: str = "Largest difference of a logit from PyTorch's",
    neighbours: Rule = NEIGHBOURS,
) -> tuple[Rule, ...]:
    """The rules about a model that was converted: its speed, its certificate, its size, and its cost.

    Full precision is judged by its largest `difference`, all else by how often its answers agree with
    PyTorch's. `agreement` and `drop` are the places of that share and of the loss in the kind's metric; the
    notes say what they are.
    """
    return (
        SPEEDUP,
        CERTIFICATE,
        BUNDLE,
        Rule(
            "parity",
            "<=",
            "certificate.bounds.max_abs_logit_difference",
            NOT_NEGATIVE,
            difference,
            difference_note,
            advice=PARITY_ADVICE,
            unless=_without_pytorch,
            when=_is_fp32,
        ),
        Rule(
            "parity",
            ">=",
            "certificate.bounds.min_label_agreement",
            FRACTION,
            agreement,
            agreement_note,
            advice=PARITY_ADVICE,
            unless=_without_pytorch,
            when=lambda found: not _is_fp32(found),
        ),
        neighbours,
        Rule(
            "metric_drop",
            "<=",
            "certificate.bounds.max_metric_drop",
            drop_domain,
            drop,
            drop_note,
            advice="Converting may have cost more than `conversion.max_metric_drop`. More validation rows "
            "narrow the doubt; a float candidate loses nothing.",
            unless=_without_pytorch,
        ),
        MODEL_SIZE,
        COST,
    )


def compared_rows(found: Documents) -> int:
    """How many test rows challenger and champion were compared on; 0 if that is not known."""
    rows = number_or_fault(found.at("scores.training_overlap.clean_rows"), NOT_NEGATIVE)
    return 0 if isinstance(rows, str) else int(rows)


@dataclass(frozen=True)
class Comparison:
    """How a kind compares the challenger with the champion. A figure is a path in `Documents`, or a function.

    Attributes:
        what: The difference in words; `domain` are its possible values.
        value, lower, upper: The difference and its confidence limits.
        margin: `non_inferiority_margin` where the manifest does not set it.
        rows: How many rows, or conversations, were compared.
        scored: What makes the two comparable.
    """

    what: str
    domain: Domain
    value: str | Read
    margin: Callable[[Documents], float]
    lower: str | Read = "scores.paired.lower_bound"
    upper: str | Read = "scores.paired.upper_bound"
    rows: Callable[[Documents], int] = compared_rows
    scored: str = "Scored on the same rows"


def has_champion(found: Documents) -> bool:
    """Whether a champion is registered, be it comparable or not."""
    return any(key in found.scores for key in CHAMPION_KEYS)


def not_compared(found: Documents) -> str | None:
    """Why there is no comparison, or None if there is one."""
    if not has_champion(found):
        return NO_CHAMPION
    return NOT_COMPARED if "champion_error" in found.scores else None


def confidence_of(found: Documents) -> float:
    """Of the limits; 0.95, the default, where it is no number between 0.5 and 1."""
    confidence = found.at("scores.confidence")
    return confidence if isinstance(confidence, float) and 0.5 < confidence < 1 else 0.95


def _fewest_clean_rows(found: Documents) -> object:
    rows, fewest = number_or_fault(found.at("scores.rows"), NOT_NEGATIVE), found.gates["min_clean_rows"]
    is_judged = not_compared(found) is None and isinstance(rows, float)
    return min(fewest, int(rows)) if is_judged else fewest


def _with_summary(judged: RuleVerdict, found: Documents) -> RuleVerdict:
    summary = found.at("scores.training_overlap.summary")
    is_said = judged.value is not None and isinstance(summary, str)
    return judged.model_copy(update={"note": summary}) if is_said else judged


def _with_summary_of_failure(judged: RuleVerdict, found: Documents) -> RuleVerdict:
    return judged if judged.verdict == "pass" else _with_summary(judged, found)


def _with_absent_classes(judged: RuleVerdict, found: Documents) -> RuleVerdict:
    judged = _with_summary(judged, found)
    absent = found.at("scores.training_overlap.classes_without_clean_rows")
    if judged.verdict != "pass" or absent is MISSING or not absent:
        return judged
    names = ", ".join(map(str, absent)) if isinstance(absent, list | tuple) else repr(absent)
    return judged.model_copy(update={"verdict": "fail", "note": f"{judged.note} No clean row of {names}"})


TRAINING_OVERLAP = Rule(
    "training_overlap",
    "<=",
    0,
    NOT_NEGATIVE,
    "scores.training_overlap.challenger",
    "Test rows that this model was trained on",
    advice="Rows of the test split, or near-duplicates of them, are in train too: set "
    "`dataset.checks.leakage.severity` to drop or fail.",
    unless=_trained_on_unknown_rows,
    explain=_with_summary_of_failure,
)
CLEAN_TEST_ROWS = Rule(
    "clean_test_rows",
    ">=",
    _fewest_clean_rows,
    NOT_NEGATIVE,
    "scores.training_overlap.clean_rows",
    "Test rows that neither model was trained on",
    advice="The champion was trained on many of these test rows, because its splits were drawn differently. "
    "Give the dataset more rows, or a test file that was never trained on; `gates.min_clean_rows` is the "
    "floor.",
    unless=not_compared,
    explain=_with_absent_classes,
)


def against_champion(compared: Comparison) -> tuple[Rule, ...]:
    """The rules about test rows that a model was trained on, and about the champion."""

    def bound(found: Documents) -> float:
        margin = found.gates["non_inferiority_margin"]
        return 0.0 - (compared.margin(found) if margin is None else margin)

    def explain(judged: RuleVerdict, found: Documents) -> RuleVerdict:
        note = judged.note
        if found.gates["non_inferiority_margin"] is None:
            note += "; the margin follows from the size of the test split"
        if judged.verdict == "fail" and judged.value is not None:
            note += f". {_shown_by(float(judged.value), compared, 0.0 - bound(found), found)}"
        return judged.model_copy(update={"note": note})

    return (
        TRAINING_OVERLAP,
        Rule(
            "comparable_champion",
            "is",
            True,
            YES,
            lambda found: (
                No(str(found.scores["champion_error"])) if "champion_error" in found.scores else True
            ),
            compared.scored,
            advice="Restore the champion's bundle, or make a version that works the champion with "
            "`gauntlet promote --version`.",
            unless=lambda found: None if has_champion(found) else NO_CHAMPION,
        ),
        CLEAN_TEST_ROWS,
        Rule(
            "non_inferiority",
            ">=",
            bound,
            compared.domain,
            compared.lower,
            f"Paired bootstrap lower limit of {compared.what}",
            advice="The rule says whether the model is worse than the champion or the test rows are too few "
            "to tell. More test rows narrow the doubt; `gates.non_inferiority_margin` is the bound.",
            unless=not_compared,
            explain=explain,
        ),
    )


def _shown_by(lower: float, compared: Comparison, margin: float, found: Documents) -> str:
    upper = number_or_fault(read(compared.upper, found), CHANGE)
    value = number_or_fault(read(compared.value, found), CHANGE)
    if isinstance(upper, str):
        return f"Its upper limit is not known: {upper}"
    if upper < -margin:
        return f"It is worse: the upper limit is {upper:.4g}"
    told = f"Too few rows to tell: the difference is between {lower:.4g} and {upper:.4g}"
    if isinstance(value, str) or value <= -margin:
        return told
    rows = compared.rows(found)
    needed = math.ceil(rows * ((value - lower) / (value + margin)) ** 2)
    return f"{told}. {rows:,} were compared; if the difference is {value:.4g}, about {needed:,} would tell"
