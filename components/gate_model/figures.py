"""Where each figure of the gate lies in what the other steps wrote.

Nothing is checked here but the path to a figure: whether its value may be believed is for the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gauntlet.components.gate_model.rules import (
    Certificate,
    Comparison,
    Estimate,
    Figures,
    Overlap,
    UnusableChampion,
)
from gauntlet.components.gate_model.values import MISSING

CHAMPION_KEYS = ("champion", "paired", "champion_error")


def read_figures(
    scores: Mapping[str, Any],
    candidates: Mapping[str, Any],
    history: Mapping[str, Any],
    certificate: Mapping[str, Any],
    model_sha256: str | None,
    bundle_fault: object = MISSING,
) -> Figures:
    """Pick the figures out of evaluate-model's `scores`, convert-to-onnx's `candidates`, and `history`.

    `certificate` is the bundle's `parity.json`, `model_sha256` that of the model beside it, and
    `bundle_fault` what `gauntlet.serving.verification` found wrong with the bundle, or None.
    """
    chosen = chosen_candidate(candidates)
    batch_size = str(at(candidates, "objective_batch_size"))
    return Figures(
        macro_f1_lower_bound=at(scores, "challenger", "lower_bounds", "macro_f1"),
        accuracy_lower_bound=at(scores, "challenger", "lower_bounds", "accuracy"),
        macro_f1_upper_bound=_last(at(scores, "challenger", "intervals", "macro_f1")),
        validation_macro_f1=at(_kept_epoch(history), "validation", "macro_f1"),
        qwk_lower_bound=at(scores, "challenger", "grades", "qwk_lower_bound"),
        mae_upper_bound=at(scores, "challenger", "grades", "mae_upper_bound"),
        speedup=at(candidates, "chosen_speedup", batch_size),
        clock=at(candidates, "clock"),
        certificate=_certificate(certificate, model_sha256, bundle_fault),
        model_mb=at(chosen, "size_mb"),
        cost_usd=at(history, "cost_usd"),
        champion=_champion(scores),
        overlap=overlap_of(scores),
    )


def _certificate(
    certificate: Mapping[str, Any], model_sha256: str | None, bundle_fault: object
) -> Certificate:
    certified = at(certificate, "model_sha256")
    return Certificate(
        of_the_model=MISSING if certified is MISSING or model_sha256 is None else certified == model_sha256,
        precision=at(certificate, "precision"),
        max_abs_difference=at(certificate, "max_abs_difference"),
        label_agreement=at(certificate, "label_agreement"),
        metric_drop_bound=at(certificate, "metric_drop_bound"),
        bounds=at(certificate, "bounds"),
        neighbour_difference=at(certificate, "neighbours", "max_difference"),
        fault=bundle_fault,
    )


def _champion(scores: Mapping[str, Any]) -> Comparison | UnusableChampion | None:
    """Any word of a champion means that there is one: half a comparison must not pass for a first model."""
    if not any(key in scores for key in CHAMPION_KEYS):
        return None
    if "champion_error" in scores:
        return UnusableChampion(str(scores["champion_error"]))
    rows = _class_rows(scores)
    compared = sum(rows.values())

    def estimate(value: str, upper_bound: str) -> Estimate:
        return Estimate(at(scores, "paired", value), at(scores, "paired", upper_bound), compared)

    return Comparison(
        macro_f1_lower_bound=at(scores, "paired", "lower_bound"),
        class_f1_difference=at(scores, "paired", "class_f1_difference"),
        labels=at(scores, "labels"),
        qwk_lower_bound=at(scores, "paired", "qwk_lower_bound"),
        macro_f1=estimate("macro_f1_difference", "upper_bound"),
        qwk=estimate("qwk_difference", "qwk_upper_bound"),
        class_rows=rows,
        confidence=confidence_of(scores),
    )


def _class_rows(scores: Mapping[str, Any]) -> dict[str, int]:
    """Rows of each class that the champion was scored on; a figure that is no number counts none."""
    found = at(scores, "champion", "per_class")
    classes = found if isinstance(found, list) else []
    return {
        label: support
        for one in classes
        if isinstance(label := at(one, "label"), str) and type(support := at(one, "support")) is int
    }


def confidence_of(scores: Mapping[str, Any]) -> float:
    """Of the limits; 0.95, the default, where it is no number between 0.5 and 1."""
    found = scores.get("confidence")
    return found if isinstance(found, float) and 0.5 < found < 1 else 0.95


def overlap_of(scores: Mapping[str, Any]) -> Overlap:
    """The models' training rows among the test rows."""
    found = at(scores, "training_overlap")
    absent = at(found, "classes_without_clean_rows")
    return Overlap(
        challenger=at(found, "challenger"),
        test_rows=at(scores, "rows"),
        clean_rows=at(found, "clean_rows"),
        absent_classes=() if absent is MISSING else absent,
        summary=at(found, "summary"),
    )


def chosen_candidate(candidates: Mapping[str, Any]) -> object:
    """The row of the candidate that conversion chose."""
    rows, name = at(candidates, "candidates"), at(candidates, "chosen")
    if not isinstance(rows, list) or not isinstance(name, str):
        return MISSING
    found = [row for row in rows if at(row, "name") == name]
    return found[0] if len(found) == 1 else MISSING


def _kept_epoch(history: Mapping[str, Any]) -> object:
    epochs, best = at(history, "epochs"), at(history, "best_epoch")
    if not isinstance(epochs, list):
        return MISSING
    found = [epoch for epoch in epochs if at(epoch, "epoch") == best]
    return found[0] if len(found) == 1 else MISSING


def _last(values: object) -> object:
    return values[-1] if isinstance(values, list) and values else MISSING


def at(document: object, *keys: str) -> object:
    """What lies at the end of a path of keys, or `MISSING`."""
    for key in keys:
        if not isinstance(document, Mapping) or key not in document:
            return MISSING
        document = document[key]
    return document
