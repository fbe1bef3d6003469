"""The gate of models with several labels per text: which floor a label misses, and what the verdict says."""

from __future__ import annotations

from typing import Any

import pytest

from gauntlet.components.gate_model.rules import Documents, advice_of, judge
from gauntlet.contracts.verdict import RuleVerdict
from gauntlet.tasks.multi_label_text.gates import RULES
from gauntlet.tasks.multi_label_text.manifest import MultiLabelGates

LABELS = [
    {"label": "joy", "f1_lower_bound": 0.8, "recall_lower_bound": 0.7, "predicted": 40},
    {"label": "fear", "f1_lower_bound": 0.6, "recall_lower_bound": 0.5, "predicted": 9},
    {"label": "rage", "f1_lower_bound": 0.7, "recall_lower_bound": 0.9, "predicted": 1},
]


def judged(rule: str, labels: Any = LABELS, more: dict[str, Any] | None = None, **gates: Any) -> RuleVerdict:
    section = MultiLabelGates(min_macro_f1=0.1, **gates).model_dump(mode="json")
    challenger = {"per_class": labels, "lower_bounds": {"macro_f1": 0.7, "micro_f1": 0.75}}
    found = judge(
        next(one for one in RULES if one.name == rule),
        Documents(section, {"challenger": challenger, "confidence": 0.95, **(more or {})}),
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("rule", "gates", "verdict", "value", "bound", "label"),
    [
        ("label_f1", {"min_label_f1": 0.6}, "pass", 0.6, 0.6, "F1: fear"),
        ("label_f1", {"min_label_f1": 0.65}, "fail", 0.6, 0.65, "F1: fear"),
        ("label_recall", {"min_label_recall": 0.51}, "fail", 0.5, 0.51, "recall: fear"),
        # The label furthest below its own floor is named, not the one with the lowest figure.
        ("label_f1", {"min_label_f1": {"joy": 0.81, "fear": 0.6}}, "fail", 0.8, 0.81, "F1: joy"),
        ("label_recall", {"min_label_recall": {"rage": 0.95, "joy": 0.1}}, "fail", 0.9, 0.95, "recall: rage"),
        ("label_f1", {"min_label_f1": {"fear": 0.5, "joy": 0.75}}, "pass", 0.8, 0.75, "F1: joy"),
    ],
)
def test_a_floor_holds_for_the_lower_limit_of_each_label(
    rule: str, gates: dict[str, Any], verdict: str, value: float, bound: float, label: str
) -> None:
    found = judged(rule, **gates)
    assert (found.verdict, found.value, found.bound) == (verdict, value, bound)
    assert found.note == f"Bootstrap lower limit of a label's {label}"


def test_a_label_that_the_floors_do_not_name_has_none() -> None:
    found = judged("label_f1", [LABELS[0], {**LABELS[1], "f1_lower_bound": 0.0}], min_label_f1={"joy": 0.5})
    assert (found.verdict, found.value, found.bound) == ("pass", 0.0, 0.0)


def test_the_note_says_when_no_row_is_given_the_label() -> None:
    labels = [LABELS[0], {**LABELS[1], "predicted": 0}]
    found = judged("label_f1", labels, min_label_f1=0.1)
    assert found.note == "Bootstrap lower limit of a label's F1: fear; no test row reaches its threshold"
    as_low = {**LABELS[2], "f1_lower_bound": 0.6}
    assert judged("label_f1", [as_low, *labels], min_label_f1=0.1).note == found.note


@pytest.mark.parametrize(
    ("labels", "note", "bound"),
    [
        (None, "found no labels among the scores", 0.2),
        ([], "found no labels among the scores", 0.2),
        ({"label": "joy"}, "found no labels among the scores", 0.2),
        ([LABELS[0], "fear"], "found no labels among the scores", 0.2),
        ([LABELS[0], {"label": "fear"}], "label fear: ", 0.2),
        ([LABELS[0], {"label": "fear", "f1_lower_bound": 1.5}], "label fear: found 1.5", 0.2),
        ([LABELS[0], {"label": "fear", "f1_lower_bound": float("nan")}], "label fear: found nan", 0.2),
    ],
)
def test_scores_without_a_figure_of_each_label_are_refused(labels: Any, note: str, bound: float) -> None:
    found = judged("label_f1", labels, min_label_f1=bound)
    assert (found.verdict, found.value, found.bound) == ("fail", None, bound)
    assert found.note.startswith(f"Bootstrap lower limit of a label's F1: {note}")


def test_the_bound_of_a_fault_is_that_of_its_label() -> None:
    labels = [LABELS[0], {"label": "fear", "f1_lower_bound": None}]
    assert judged("label_f1", labels, min_label_f1={"fear": 0.3, "joy": 0.1}).bound == 0.3
    assert judged("label_f1", [], min_label_f1={"fear": 0.3}).bound == 0.0


def test_micro_f1_is_judged_by_its_lower_limit() -> None:
    assert judged("micro_f1", min_micro_f1=0.75).verdict == "pass"
    failed = judged("micro_f1", min_micro_f1=0.76)
    assert (failed.verdict, failed.value) == ("fail", 0.75)
    assert failed.note == "Bootstrap lower limit of micro-F1"


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        # ((0.01 + 0.02) / (0.01 + 0.01))² of 400 rows
        ({"clean_rows": 400}, "400 were compared; if the difference is 0.01, about 900 would tell"),
        ({}, "0 were compared; if the difference is 0.01, about 0 would tell"),
    ],
)
def test_a_model_that_may_be_worse_than_the_champion_is_rejected(overlap: dict[str, int], words: str) -> None:
    paired = {"macro_f1_difference": 0.01, "lower_bound": -0.02, "upper_bound": 0.04}
    compared = {"champion": {"version": "1"}, "training_overlap": overlap, "paired": paired}
    found = judged("non_inferiority", more=compared, non_inferiority_margin=0.01)
    assert (found.verdict, found.value) == ("fail", -0.02)
    assert found.note == (
        "Paired bootstrap lower limit of macro-F1 minus the champion's. Too few rows to tell: "
        f"the difference is between -0.02 and 0.04. {words}"
    )


def test_every_rule_of_the_kind_has_advice() -> None:
    advice = advice_of(RULES)
    assert all(advice.values())
    for figure in ("f1", "recall"):
        assert f"`gates.min_label_{figure}`" in advice[f"label_{figure}"]
