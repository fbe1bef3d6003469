"""A bundle as conversion leaves it, with a certificate of its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from gauntlet.serving.bundle import MODEL_FILE, PARITY_FILE, file_sha256, write_bundle
from tests.text_bundles import word_score_info, write_parts

CERTIFIED = {
    "precision": "fp32",
    "max_abs_difference": 1e-6,
    "label_agreement": 1.0,
    "metric_drop_bound": 0.0,
    "neighbours": {"rows": 96, "max_difference": 1e-6, "label_changes": 0},
    "bounds": {
        "max_abs_logit_difference": 1e-4,
        "min_label_agreement": 0.995,
        "max_metric_drop": 0.01,
        "max_neighbour_difference": 0.05,
    },
}


def write_certified_bundle(folder: Path, model: onnx.ModelProto | None = None) -> Path:
    """Write a bundle of `model`, or of one that adds up scores of words, to `folder / "bundle"`."""
    files = write_parts(folder / "parts")
    if model is not None:
        onnx.save(model, files[MODEL_FILE])
    certificate = CERTIFIED | {"model_sha256": file_sha256(files[MODEL_FILE])}
    files[PARITY_FILE].write_text(json.dumps(certificate), encoding="utf-8")
    write_bundle(folder / "bundle", replace(word_score_info(), labels=("joy", "fear")), files)
    return folder / "bundle"
