"""What a smoke run changes in a manifest, so that the whole DAG takes a minute or two on two CPUs.

Training is cut to an epoch of a small network, and what a hardly trained model may break in conversion is
loosened, so that every step is reached. The gates stay as they are: whatever they decide, they decide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.smoke import stand_ins
from gauntlet.tasks.language.manifest import LanguageEvaluation

CONVERSION = {
    "conversion.batch_sizes": [1],
    "conversion.max_abs_logit_difference": 0.01,
    "conversion.min_label_agreement": 0.0,
    "conversion.max_metric_drop": 1.0,
    "conversion.max_neighbour_difference": 1.0,
}
ONE_EPOCH = {"training.epochs": 1, "training.batch_size": 16, "training.gradient_accumulation": 1}

TINY: Mapping[str, Mapping[str, Any]] = {
    "text_classification": ONE_EPOCH
    | CONVERSION
    | {
        "training.max_length": 32,
        "dataset.max_tokens": 32,
        "conversion.candidates": ["plain", "fused"],
        "conversion.pytorch": ["eager"],
    },
    "image_classification": ONE_EPOCH
    | CONVERSION
    | {
        "training.filters": [8],
        "training.depth": 1,
        "training.units": 16,
        "conversion.candidates": ["plain", "int8_static"],
        "conversion.pytorch": ["eager"],
    },
    "ordinal_grading": CONVERSION
    | {
        "training.phase1_epochs": 1,
        "training.phase2_epochs": 1,
        "training.filters": [8, 8],
        "training.units": 16,
        "conversion.candidates": ["plain"],
        "conversion.pytorch": ["eager"],
    },
    "causal_lm": ONE_EPOCH
    | CONVERSION
    | {
        "training.target_modules": ["q_proj", "v_proj"],
        "conversion.candidates": ["plain"],
        "evaluation.prompts": 4,
        "evaluation.max_new_tokens": 8,
    },
}
"""By task: keys and what a smoke run sets them to, whatever the manifest says. See docs/smoke.md."""

FEWER_RESAMPLES = {"evaluation.bootstrap_resamples": 200}
FEWER_PROBES = {"evaluation.therapy.training_probes": 4}


def tiny_settings(manifest: Manifest, scratch: Path) -> tuple[dict[str, Any], str]:
    """Keys and values of a smoke run, and what its rows are; `scratch` gets what has to be drawn.

    Data that is at hand, in a package or on this machine, is used as it is. Other data is replaced by rows
    that are drawn, and so is a language model, by one of two layers with random weights.
    """
    settings = dict(TINY[manifest.task]) | FEWER_RESAMPLES
    evaluation = manifest.evaluation
    if isinstance(evaluation, LanguageEvaluation):
        model = str(stand_ins.write_language_model(scratch / "model"))
        settings |= {"training.model": model, "dataset.tokenizer": model}
        settings["dataset.checks.context_length"] = {"severity": "warn", "max_fraction": 1.0}
        settings |= FEWER_PROBES if evaluation.therapy is not None else {}
    replaced = stand_ins.dataset_for(manifest, scratch / "data")
    return replaced.settings | settings, replaced.rows  # a whole section before single keys of it


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `--set` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
