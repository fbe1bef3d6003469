"""What a rule of the gate is, and how it is judged: a pure function of documents.

A kind's gates are a tuple of `Rule`s. A model is promoted when no rule fails. A figure that is missing, not
finite, of the wrong type or impossible fails its rule. A rule does not apply only if it says so itself
(`unless`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gauntlet.contracts.verdict import Decision, Operator, RuleVerdict

ROUNDING = 1e-9
"""0.80 - 0.75 is 0.050000000000000044: the last bit does not fail a figure that is at its bound."""


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = _Missing()
"""Stands for a figure that no step wrote; it reads as `nothing` in a message."""


@dataclass(frozen=True)
class Fault:
    """Why there is no figure, in place of one."""

    reason: str


@dataclass(frozen=True)
class No:
    """What a rule with the operator `is` found instead of yes: the note of the rule that fails."""

    reason: str


@dataclass(frozen=True)
class Domain:
    """The possible values of a figure, ends included; `words` names them in a message."""

    lowest: float
    highest: float
    words: str


FRACTION = Domain(0.0, 1.0, "a number from 0 to 1")
CHANGE = Domain(-math.inf, math.inf, "a finite number")
DIFFERENCE = Domain(-1.0, 1.0, "a number from -1 to 1")
POSITIVE = Domain(math.ulp(0.0), math.inf, "a number over 0")
NOT_NEGATIVE = Domain(0.0, math.inf, "a number of 0 or more")
YES = Domain(1, 1, "yes")


@dataclass(frozen=True)
class Documents:
    """What the gate judges: the section `gates`, and what the steps wrote, with figures of any type.

    Attributes:
        candidates: Empty if nothing was converted.
        certificate: The bundle's `parity.json`; empty if it has none.
        model_sha256: Of the model in the bundle, if it has one.
        bundle_fault: What `gauntlet bundle verify` found wrong with the bundle, or None.
    """

    gates: Mapping[str, Any]
    scores: Mapping[str, Any]
    candidates: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] = field(default_factory=dict)
    model_sha256: str | None = None
    bundle_fault: object = MISSING

    def at(self, path: str) -> object:
        """What a path such as `scores.challenger.lower_bounds.macro_f1` leads to, or `MISSING`."""
        name, *keys = path.split(".")
        found: object = getattr(self, name)
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                return MISSING
            found = found[key]
        return found


Read = Callable[[Documents], object]


@dataclass(frozen=True)
class Rule:
    """`figure operator bound` must hold.

    Attributes:
        operator: `is` compares with yes.
        bound: A path in `Documents` (`gates.min_macro_f1`), the bound itself, or a function that finds it.
        domain: The possible values of figure and bound.
        figure: A path in `Documents`, or a function. It may return a `Fault`, and for `is` a `No`.
        advice: What to do when the rule fails, for the report; backquotes mark code.
        unless: Why the rule does not apply, or None if it does.
        when: Whether the rule is in the table at all.
        explain: Adds to the verdict what the figure alone does not show.
    """

    name: str
    operator: Operator
    bound: str | float | Read
    domain: Domain
    figure: str | Read
    note: str | Callable[[Documents], str]
    advice: str = ""
    unless: Callable[[Documents], str | None] = lambda _: None
    when: Callable[[Documents], bool] = lambda _: True
    explain: Callable[[RuleVerdict, Documents], RuleVerdict] | None = None


def decide(rules: Iterable[Rule], documents: Documents) -> Decision:
    """Judge every rule; none is skipped because another has failed."""
    judged = tuple(judge(rule, documents) for rule in rules if rule.when(documents))
    reasons = tuple(_reason(rule) for rule in judged if rule.verdict == "fail")
    return Decision(decision="reject" if reasons else "promote", reasons=reasons, rules=judged)


def judge(rule: Rule, documents: Documents) -> RuleVerdict:
    """Pass when the figure is a number of the rule's domain on the right side of the bound, or at it."""
    bound: Any = read(rule.bound, documents)
    if (reason := rule.unless(documents)) is not None:
        return _verdict(rule, None if bound is MISSING else bound, None, "not applicable", reason)
    note = rule.note if isinstance(rule.note, str) else rule.note(documents)
    found = read(rule.figure, documents)
    judged = _fact(rule, found, note) if rule.operator == "is" else _figure(rule, bound, found, note)
    return judged if rule.explain is None else rule.explain(judged, documents)


def number_or_fault(value: object, domain: Domain) -> float | str:
    """The value as a float, or what is wrong with it. A bool or a text is no number."""
    if isinstance(value, Fault):
        return value.reason
    fault = f"found {value!r}, expected {domain.words}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return fault
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1.8e308, which JSON allows
        return fault
    if not math.isfinite(number) or not domain.lowest <= number <= domain.highest:
        return fault
    return number


def end_of(interval: object, place: Literal[0, 1]) -> object:
    """The lower or the upper end of an interval, or `MISSING` where it is not a list of two."""
    return interval[place] if isinstance(interval, list) and len(interval) == 2 else MISSING


def advice_of(rules: Iterable[Rule]) -> dict[str, str]:
    """What to do about each rule that fails, by its name; the first rule of a name counts."""
    return {rule.name: rule.advice for rule in reversed(tuple(rules))}


def read(source: str | float | Read, documents: Documents) -> object:
    """What a path or a function finds in the documents; a number is the figure itself."""
    if isinstance(source, str):
        return documents.at(source)
    return source(documents) if callable(source) else source


def _fact(rule: Rule, found: object, note: str) -> RuleVerdict:
    if found is True:
        return _verdict(rule, True, True, "pass", note)
    if isinstance(found, No):
        return _verdict(rule, True, False, "fail", found.reason)
    return _verdict(rule, True, None, "fail", f"{note}: found {found!r}")


def _figure(rule: Rule, bound: Any, found: object, note: str) -> RuleVerdict:
    limit, number = number_or_fault(bound, rule.domain), number_or_fault(found, rule.domain)
    if isinstance(limit, str):
        name = str(rule.bound).rpartition(".")[2]
        return RuleVerdict(
            rule=rule.name,
            bound=True,
            operator="is",
            value=None,
            verdict="fail",
            note=f"{note}: bound {name}: {limit}",
        )
    if isinstance(number, str):
        return _verdict(rule, bound, None, "fail", f"{note}: {number}")
    if rule.operator == ">":
        passes = number > limit
    else:
        passes = (limit - number if rule.operator == ">=" else number - limit) <= ROUNDING
    return _verdict(rule, bound, number, "pass" if passes else "fail", note)


def _verdict(rule: Rule, bound: Any, value: float | bool | None, verdict: Any, note: str) -> RuleVerdict:
    return RuleVerdict(
        rule=rule.name, bound=bound, operator=rule.operator, value=value, verdict=verdict, note=note
    )


def _reason(rule: RuleVerdict) -> str:
    if rule.value is None or isinstance(rule.value, bool):
        return f"{rule.rule}: {rule.note}"
    return f"{rule.rule}: found {rule.value:.4g}, expected {rule.operator} {rule.bound:g}. {rule.note}"
