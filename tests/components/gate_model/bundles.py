"""A bundle as conversion leaves it, with a certificate of its model."""

from __future__ import annotations

import json
from pathlib import Path

from serving.bundle import MODEL_FILE, PARITY_FILE, TOKENIZER_FILE, BundleInfo, file_sha256, write_bundle

CERTIFIED = {
    "precision": "fp32",
    "max_abs_difference": 1e-6,
    "label_agreement": 1.0,
    "metric_drop_bound": 0.0,
    "bounds": {"max_abs_logit_difference": 1e-4, "min_label_agreement": 0.995, "max_metric_drop": 0.01},
}


def write_certified_bundle(folder: Path) -> Path:
    files = {name: folder / f"source-{name}" for name in (MODEL_FILE, TOKENIZER_FILE, PARITY_FILE)}
    files[MODEL_FILE].write_bytes(b"a graph")
    files[TOKENIZER_FILE].write_text("{}", encoding="utf-8")
    certificate = CERTIFIED | {"model_sha256": file_sha256(files[MODEL_FILE])}
    files[PARITY_FILE].write_text(json.dumps(certificate), encoding="utf-8")
    info = BundleInfo(
        name="moods",
        task="text_classification",
        labels=("joy", "fear"),
        inputs=(),
        outputs=(),
        max_length=32,
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(folder / "bundle", info, files)
    return folder / "bundle"
