"""The rules of the gate: pure functions from figures to a decision.

A model is promoted when no rule fails. Silence is never consent: a figure that is missing, NaN, infinite,
of the wrong type or outside what its kind can be fails its rule, with that as the reason. Only the rules
that compare with a champion may not apply, and only while no champion is registered; a champion that
could not be scored fails `comparable_champion`, and with it the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeGuard

from gauntlet.components.gate_model.values import (
    CHANGE,
    DIFFERENCE,
    FRACTION,
    MISSING,
    NOT_NEGATIVE,
    POSITIVE,
    QWK_DIFFERENCE,
    Domain,
    number_or_fault,
)
from gauntlet.manifests.gates import (
    SMALLEST_CLASS_DROP,
    SMALLEST_MARGIN,
    CommonGates,
    default_class_drop,
    default_margin,
)
from gauntlet.tasks.classification.manifest import Gates
from gauntlet.tasks.ordinal_grading.manifest import GradingGates

Operator = Literal[">=", ">", "<=", "is"]
Outcome = Literal["pass", "fail", "not applicable"]

# 0.80 - 0.75 is 0.050000000000000044: a figure at its bound does not fail by the last bit.
ROUNDING = 1e-9

NO_CHAMPION = "No champion is registered yet: the floors alone decide"
NEIGHBOURS = "Largest change of a row's probability with the rows and padding of its batch"
NOT_COMPARED = "The champion could not be scored: see comparable_champion"


@dataclass(frozen=True)
class Estimate:
    """A difference between challenger and champion, its upper limit, and the rows compared, as found."""

    value: object = MISSING
    upper_bound: object = MISSING
    rows: object = MISSING


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion, as the evaluation gives it: each figure of any type, or `MISSING`.

    Attributes:
        macro_f1_lower_bound: Paired bootstrap lower limit of the macro-F1 difference.
        class_f1_difference: F1 difference by label; every one of `labels` must be in it.
        labels: The class names of the evaluation.
        qwk_lower_bound: Paired bootstrap lower limit of a grader's QWK difference.
        macro_f1: The other figures of the macro-F1 difference.
        qwk: The same of the QWK difference.
        class_rows: Compared rows by label.
        confidence: Of the limits.
    """

    macro_f1_lower_bound: object
    class_f1_difference: object
    labels: object
    qwk_lower_bound: object = MISSING
    macro_f1: Estimate = field(default_factory=Estimate)
    qwk: Estimate = field(default_factory=Estimate)
    class_rows: Mapping[str, int] = field(default_factory=dict)
    confidence: float = 0.95


@dataclass(frozen=True)
class Overlap:
    """The models' training rows among the test rows, as found: each figure of any type, or `MISSING`.

    Attributes:
        challenger: Test rows that the challenger was trained on.
        test_rows: All test rows.
        clean_rows: Those that the two are compared on: no model was trained on them.
        absent_classes: Classes that have test rows and no clean ones.
        summary: All of this in words.
    """

    challenger: object = MISSING
    test_rows: object = MISSING
    clean_rows: object = MISSING
    absent_classes: object = ()
    summary: object = MISSING


@dataclass(frozen=True)
class Certificate:
    """The parity certificate of the bundle, as found: each figure of any type, or `MISSING`.

    Attributes:
        of_the_model: Whether it belongs to the file that ships.
        precision: What the weights are stored in: fp32 is judged by its logits, all else by its labels.
        bounds: What conversion held the candidate to.
        neighbour_difference: The largest change of a row's probability with the rows of its batch.
        fault: What `gauntlet.serving.verification` found wrong with the bundle; None where it found nothing.
    """

    of_the_model: object
    precision: object
    max_abs_difference: object
    label_agreement: object
    metric_drop_bound: object
    bounds: object
    neighbour_difference: object
    fault: object


@dataclass(frozen=True)
class UnusableChampion:
    """A champion is registered, but could not be scored, for `reason`."""

    reason: str


@dataclass(frozen=True)
class Figures:
    """What the gate judges, as found: each figure is of any type, or `MISSING`.

    Attributes:
        macro_f1_lower_bound: Bootstrap lower limit on the test split.
        accuracy_lower_bound: The same of the accuracy.
        macro_f1_upper_bound: Upper end of the bootstrap interval on the test split.
        validation_macro_f1: What training itself found on the validation split, at the epoch it kept.
        speedup: PyTorch's median latency over the chosen candidate's, at the objective batch size.
        certificate: How closely the shipped file follows PyTorch.
        model_mb: Size of the chosen candidate.
        cost_usd: What training cost.
        champion: The comparison with the champion, or None while there is none.
        qwk_lower_bound: Bootstrap lower limit of a grader's QWK.
        mae_upper_bound: Bootstrap upper limit of a grader's mean absolute error.
        overlap: Which test rows the models were trained on.
        clock: What the speed-up was timed by.
    """

    macro_f1_lower_bound: object
    accuracy_lower_bound: object
    macro_f1_upper_bound: object
    validation_macro_f1: object
    speedup: object
    certificate: Certificate
    model_mb: object
    cost_usd: object
    champion: Comparison | UnusableChampion | None
    qwk_lower_bound: object = MISSING
    mae_upper_bound: object = MISSING
    overlap: Overlap = field(default_factory=Overlap)
    clock: object = MISSING


@dataclass(frozen=True)
class Verdict:
    """A rule `value operator bound` and what came of it. `value` is None when no usable figure was found."""

    rule: str
    bound: float | bool
    operator: Operator
    value: float | bool | None
    verdict: Outcome
    note: str


@dataclass(frozen=True)
class Decision:
    """`promote` when no rule failed, else `reject`, with one sentence for each rule that did."""

    decision: Literal["promote", "reject"]
    reasons: tuple[str, ...]
    rules: tuple[Verdict, ...]


def decide(gates: Gates, figures: Figures) -> Decision:
    """Judge every rule for a classifier; none is skipped because another has failed."""
    return decision_by(
        (
            *_floors(gates, figures),
            judge_training_overlap(figures.overlap),
            *_against_champion(gates, figures.champion, figures.overlap),
        )
    )


def decision_by(rules: tuple[Verdict, ...]) -> Decision:
    """What follows from the rules' verdicts."""
    reasons = tuple(_reason(rule) for rule in rules if rule.verdict == "fail")
    return Decision("reject" if reasons else "promote", reasons, rules)


def judge(
    rule: str, value: object, operator: Literal[">=", "<="], bound: float, domain: Domain, note: str
) -> Verdict:
    """Pass when `value` is a number of `domain` on the right side of `bound`, or at it."""
    number = number_or_fault(value, domain)
    if isinstance(number, str):
        return Verdict(rule, bound, operator, None, "fail", f"{note}: {number}")
    excess = bound - number if operator == ">=" else number - bound
    return Verdict(rule, bound, operator, number, "pass" if excess <= ROUNDING else "fail", note)


def _floors(gates: Gates, figures: Figures) -> tuple[Verdict, ...]:
    return (
        judge(
            "macro_f1",
            figures.macro_f1_lower_bound,
            ">=",
            gates.min_macro_f1,
            FRACTION,
            "Bootstrap lower limit of macro-F1",
        ),
        judge(
            "accuracy",
            figures.accuracy_lower_bound,
            ">=",
            gates.min_accuracy,
            FRACTION,
            "Bootstrap lower limit of accuracy",
        ),
        _validation_gap(figures, gates.max_validation_gap),
        *_grades(gates, figures),
        judge("speedup", figures.speedup, ">=", gates.min_speedup, POSITIVE, speedup_words(figures.clock)),
        *_parity(figures.certificate),
        judge("model_size", figures.model_mb, "<=", gates.max_model_mb, POSITIVE, "Model size in MB"),
        judge("cost", figures.cost_usd, "<=", gates.max_cost_usd, NOT_NEGATIVE, "Training cost in USD"),
    )


def speedup_words(clock: object) -> str:
    """The speed-up in words; on a busy machine it is measured by another clock."""
    words = "Times as fast as PyTorch"
    return f"{words} by one thread's CPU time, because the machine was busy" if clock == "cpu" else words


def _grades(gates: Gates, figures: Figures) -> tuple[Verdict, ...]:
    if not isinstance(gates, GradingGates):
        return ()
    kappa = "Bootstrap lower limit of QWK"
    error = "Bootstrap upper limit of the mean absolute error in grades"
    return (
        judge("qwk", figures.qwk_lower_bound, ">=", gates.min_qwk, DIFFERENCE, kappa),
        judge("mae", figures.mae_upper_bound, "<=", gates.max_mae, NOT_NEGATIVE, error),
    )


def _validation_gap(figures: Figures, bound: float) -> Verdict:
    """Judge what is left of validation's macro-F1 when the shipped graph answers the test split."""
    rule, note = "validation_gap", "Macro-F1 in training's validation minus its upper limit on the test split"
    numbers = []
    for value in (figures.validation_macro_f1, figures.macro_f1_upper_bound):
        number = number_or_fault(value, FRACTION)
        if isinstance(number, str):
            return Verdict(rule, bound, "<=", None, "fail", f"{note}: {number}")
        numbers.append(number)
    return judge(rule, numbers[0] - numbers[1], "<=", bound, DIFFERENCE, note)


def _parity(certificate: Certificate) -> tuple[Verdict, ...]:
    bounds = certificate.bounds if isinstance(certificate.bounds, Mapping) else {}

    def bounded(
        rule: str, value: object, operator: Literal[">=", "<="], key: str, domain: Domain, note: str
    ) -> Verdict:
        bound = number_or_fault(bounds.get(key, MISSING), domain)
        if isinstance(bound, str):
            return Verdict(rule, True, "is", None, "fail", f"{note}: bound {key}: {bound}")
        return judge(rule, value, operator, bound, domain, note)

    if certificate.precision == "fp32":
        note = "Largest difference of a logit from PyTorch's"
        parity = bounded(
            "parity",
            certificate.max_abs_difference,
            "<=",
            "max_abs_logit_difference",
            NOT_NEGATIVE,
            note,
        )
    else:
        note = "Rows with the label that PyTorch gives them"
        parity = bounded("parity", certificate.label_agreement, ">=", "min_label_agreement", FRACTION, note)
    return (
        judge_certificate(certificate.of_the_model),
        judge_bundle(certificate.fault),
        parity,
        bounded(
            "neighbours",
            certificate.neighbour_difference,
            "<=",
            "max_neighbour_difference",
            FRACTION,
            NEIGHBOURS,
        ),
        bounded(
            "metric_drop",
            certificate.metric_drop_bound,
            "<=",
            "max_metric_drop",
            DIFFERENCE,
            "Bootstrap upper limit of the macro-F1 that conversion lost",
        ),
    )


def judge_bundle(fault: object) -> Verdict:
    """Judge whether the bundle passed the checks of `gauntlet bundle verify` on this machine."""
    rule, note = "bundle", "`gauntlet bundle verify` accepts the bundle"
    if fault is not None and not isinstance(fault, str):
        return Verdict(rule, True, "is", None, "fail", f"{note}: found {fault!r}")
    if fault is not None:
        return Verdict(rule, True, "is", False, "fail", f"`gauntlet bundle verify` found: {fault}")
    return Verdict(rule, True, "is", True, "pass", note)


def judge_certificate(of_the_model: object) -> Verdict:
    """Judge whether the certificate is of the file that ships."""
    rule, note = "certificate", "The bundle's parity certificate is of the model that it holds"
    if not isinstance(of_the_model, bool):
        return Verdict(rule, True, "is", None, "fail", f"{note}: found {of_the_model!r}")
    if not of_the_model:
        return Verdict(rule, True, "is", False, "fail", "The parity certificate is of another model's file")
    return Verdict(rule, True, "is", True, "pass", note)


def judge_training_overlap(overlap: Overlap) -> Verdict:
    """Judge how many test rows the challenger was trained on; more than none make its figures meaningless."""
    note = "Test rows that this model was trained on"
    verdict = judge("training_overlap", overlap.challenger, "<=", 0, NOT_NEGATIVE, note)
    return verdict if verdict.verdict == "pass" else replace(verdict, note=_with_summary(verdict, overlap))


def judge_clean_rows(gates: CommonGates, overlap: Overlap, not_compared: str | None) -> Verdict:
    """Judge whether enough test rows are left that no model was trained on.

    `not_compared` says why there is no comparison.
    """
    rule = "clean_test_rows"
    if not_compared is not None:
        return Verdict(rule, gates.min_clean_rows, ">=", None, "not applicable", not_compared)
    rows = number_or_fault(overlap.test_rows, NOT_NEGATIVE)
    bound = gates.min_clean_rows if isinstance(rows, str) else min(gates.min_clean_rows, int(rows))
    note = "Test rows that neither model was trained on"
    verdict = judge(rule, overlap.clean_rows, ">=", bound, NOT_NEGATIVE, note)
    verdict = replace(verdict, note=_with_summary(verdict, overlap))
    absent = overlap.absent_classes
    if verdict.verdict == "pass" and absent:
        names = ", ".join(map(str, absent)) if isinstance(absent, list | tuple) else repr(absent)
        return replace(verdict, verdict="fail", note=f"{verdict.note} No clean row of {names}")
    return verdict


def _with_summary(verdict: Verdict, overlap: Overlap) -> str:
    """The note of a rule that has a figure: evaluate-model's own words."""
    is_said = verdict.value is not None and isinstance(overlap.summary, str)
    return str(overlap.summary) if is_said else verdict.note


def judge_difference(
    lower_bound: object, rest: Estimate, margin: float | None, default: float, domain: Domain, what: str
) -> Verdict:
    """Judge the lower limit of challenger minus champion, and say what a failure shows.

    A failure shows that the challenger is worse only if the upper limit is below the margin too. Otherwise
    the rows are too few to tell.

    Args:
        lower_bound: The limit.
        rest: The other figures of the difference.
        margin: The manifest's, or None.
        default: The margin by the number of rows.
        domain: What the difference can be.
        what: The difference in words.
    """
    used = default if margin is None else margin
    note = f"Paired bootstrap lower limit of {what}"
    verdict = judge("non_inferiority", lower_bound, ">=", 0.0 - used, domain, note)
    if margin is None:
        verdict = replace(verdict, note=f"{verdict.note}; the margin follows from the size of the test split")
    if verdict.verdict == "pass" or verdict.value is None:
        return verdict
    return replace(verdict, note=f"{verdict.note}. {_shown_by(float(verdict.value), rest, used)}")


def _shown_by(lower: float, rest: Estimate, margin: float) -> str:
    """What a lower limit under the margin shows, in words."""
    upper, value = number_or_fault(rest.upper_bound, CHANGE), number_or_fault(rest.value, CHANGE)
    if isinstance(upper, str):
        return f"Its upper limit is not known: {upper}"
    if upper < -margin:
        return f"It is worse: the upper limit is {upper:.4g}"
    told = f"Too few rows to tell: the difference is between {lower:.4g} and {upper:.4g}"
    rows = rest.rows
    if isinstance(value, str) or not isinstance(rows, int) or value <= -margin or value <= lower:
        return told
    needed = math.ceil(rows * ((value - lower) / (value + margin)) ** 2)
    return f"{told}. {rows:,} were compared; if the difference is {value:.4g}, about {needed:,} would tell"


def _against_champion(
    gates: Gates, champion: Comparison | UnusableChampion | None, overlap: Overlap
) -> tuple[Verdict, Verdict, Verdict, Verdict]:
    if isinstance(champion, Comparison):
        rows, confidence = champion.class_rows, champion.confidence
        if isinstance(gates, GradingGates):
            compared = champion.qwk_lower_bound, champion.qwk
            default = default_margin([sum(rows.values())], confidence)
            domain, metric = QWK_DIFFERENCE, "QWK"
        else:
            compared = champion.macro_f1_lower_bound, champion.macro_f1
            default = default_margin(rows.values(), confidence)
            domain, metric = DIFFERENCE, "macro-F1"
        what = f"{metric} minus the champion's"
        return (
            Verdict("comparable_champion", True, "is", True, "pass", "Scored on the same rows"),
            judge_clean_rows(gates, overlap, None),
            judge_difference(*compared, gates.non_inferiority_margin, default, domain, what),
            _class_drop(champion, gates.max_class_f1_drop),
        )
    if champion is None:
        comparable = Verdict("comparable_champion", True, "is", None, "not applicable", NO_CHAMPION)
        note = NO_CHAMPION
    else:
        comparable = Verdict("comparable_champion", True, "is", False, "fail", champion.reason)
        note = NOT_COMPARED
    margin, drop = gates.non_inferiority_margin, gates.max_class_f1_drop
    tested = number_or_fault(overlap.test_rows, NOT_NEGATIVE)
    default = SMALLEST_MARGIN if isinstance(tested, str) else default_margin([int(tested)])
    shown = 0.0 - (default if margin is None else margin)
    return (
        comparable,
        judge_clean_rows(gates, overlap, note),
        Verdict("non_inferiority", shown, ">=", None, "not applicable", note),
        Verdict(
            "class_f1_drop",
            SMALLEST_CLASS_DROP if drop is None else drop,
            "<=",
            None,
            "not applicable",
            note,
        ),
    )


def _class_drop(champion: Comparison, given: float | None) -> Verdict:
    """Judge the largest fall of any class's F1; the value is below 0 when every class has gained.

    If the manifest sets no bound, the bound of each class follows from its rows, and the rule judges the
    class that exceeds its bound most.
    """
    rule, note = "class_f1_drop", "Largest drop of a class's F1 against the champion"
    labels, bound = champion.labels, SMALLEST_CLASS_DROP if given is None else given
    if not _are_names(labels):
        fault = f"{note}: found labels {labels!r}, expected the class names"
        return Verdict(rule, bound, "<=", None, "fail", fault)
    found = champion.class_f1_difference
    differences = found if isinstance(found, Mapping) else {}
    drops: dict[str, float] = {}
    for label in labels:
        number = number_or_fault(differences.get(label, MISSING), DIFFERENCE)
        if isinstance(number, str):
            return Verdict(rule, bound, "<=", None, "fail", f"{note}: class {label}: {number}")
        drops[label] = 0.0 - number
    if given is not None:
        worst = max(drops, key=drops.__getitem__)
        return judge(rule, drops[worst], "<=", given, DIFFERENCE, f"{note}: {worst}")
    rows = champion.class_rows
    bounds = {label: default_class_drop(rows.get(label, 0), champion.confidence) for label in labels}
    worst = max(drops, key=lambda label: drops[label] - bounds[label])
    note = f"{note}: {worst}; the bound follows from its {rows.get(worst, 0)} rows"
    return judge(rule, drops[worst], "<=", bounds[worst], DIFFERENCE, note)


def _are_names(labels: object) -> TypeGuard[list[str]]:
    return isinstance(labels, list) and bool(labels) and all(isinstance(label, str) for label in labels)


def _reason(rule: Verdict) -> str:
    if rule.value is None or isinstance(rule.value, bool):
        return f"{rule.rule}: {rule.note}"
    return f"{rule.rule}: found {rule.value:.4g}, expected {rule.operator} {rule.bound:g}. {rule.note}"
