"""What gate-model reads of a classifier that passes, and how a test changes it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from gauntlet.components.gate_model.rules import MISSING, Documents
from gauntlet.contracts.verdict import Decision
from gauntlet.tasks.classification.manifest import Gates

GATES = Gates(
    min_macro_f1=0.80,
    min_accuracy=0.75,
    min_speedup=2.3,
    max_model_mb=100.0,
    non_inferiority_margin=0.01,
    max_class_f1_drop=0.05,
    max_cost_usd=10.0,
)
SHA256 = "0" * 64
GOOD = Documents(
    gates=GATES.model_dump(),
    scores={
        "rows": 150,
        "labels": ["joy", "fear"],
        "confidence": 0.95,
        "challenger": {
            "macro_f1": 0.9,
            "lower_bounds": {"macro_f1": 0.85, "accuracy": 0.86},
            "intervals": {"macro_f1": [0.84, 0.9]},
        },
        "champion": {"macro_f1": 0.89, "version": "2"},
        "paired": {"lower_bound": 0.002, "class_f1_difference": {"joy": 0.01, "fear": -0.02}},
        "training_overlap": {
            "challenger": 0,
            "champion": 0,
            "clean_rows": 150,
            "summary": "None of the 150 test rows was.",
        },
    },
    candidates={
        "chosen": "int8",
        "chosen_speedup": {"1": 5.2, "32": 2.2},
        "objective_batch_size": 1,
        "candidates": [
            {"name": "plain", "admitted": False, "size_mb": 870.0},
            {"name": "int8", "admitted": True, "size_mb": 22.0},
        ],
    },
    history={
        "cost_usd": 0.4,
        "best_epoch": 2,
        "epochs": [
            {"epoch": 1, "validation": {"macro_f1": 0.99}},
            {"epoch": 2, "validation": {"macro_f1": 0.91}},
        ],
    },
    certificate={
        "model_sha256": SHA256,
        "precision": "int8",
        "max_abs_difference": 0.2,
        "label_agreement": 0.997,
        "metric_drop_bound": 0.004,
        "neighbours": {"rows": 96, "max_difference": 0.001, "label_changes": 0},
        "bounds": {
            "max_abs_logit_difference": 1e-4,
            "min_label_agreement": 0.995,
            "max_metric_drop": 0.01,
            "max_neighbour_difference": 0.05,
        },
    },
    model_sha256=SHA256,
    bundle_fault=None,
)


def changed(documents: Documents, figures: dict[str, Any]) -> Documents:
    """The same with other figures, by their paths; `MISSING` takes a figure away."""
    for path, value in figures.items():
        name, *keys = path.split(".")
        document = deepcopy(getattr(documents, name))
        if not keys:
            document = value
        inner = document
        for place, key in enumerate(keys):
            at: Any = int(key) if isinstance(inner, list) else key
            if place < len(keys) - 1:
                inner = inner[at] if isinstance(inner, list) else inner.setdefault(at, {})
            elif value is MISSING:
                inner.pop(at, None) if isinstance(inner, dict) else inner.pop(at)
            else:
                inner[at] = value
        documents = replace(documents, **{name: document})
    return documents


def failing(decision: Decision) -> list[str]:
    """The rules that failed, where the decision is what follows from them."""
    assert decision.decision == ("reject" if decision.failed else "promote")
    return list(decision.failed)


def note_of(decision: Decision, rule: str) -> str:
    """What the verdict says of a rule."""
    return next(verdict.note for verdict in decision.rules if verdict.rule == rule)
