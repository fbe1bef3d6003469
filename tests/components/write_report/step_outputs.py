"""What the steps of a run write: realistic figures of the emotion system."""

from __future__ import annotations

import math
from typing import Any

LABELS = ["sadness", "joy", "love", "anger", "fear", "surprise"]
DATA_SHA256 = "d" * 64
BUNDLE_SHA256 = "b" * 64


def statistics() -> dict[str, Any]:
    counts = [4666, 5362, 1304, 2159, 1937, 572]
    share = {"train": 1.0, "validation": 0.125, "test": 0.125}
    class_counts = {
        split: {label: round(number * part) for label, number in zip(LABELS, counts, strict=True)}
        for split, part in share.items()
    }
    return {
        "name": "dair-ai/emotion",
        "version": "1.0.0",
        "commit_hash": "cab853a1dbdf4c42c2b3ef2173804746df8825fe",
        "uri": "hf://datasets/dair-ai/emotion/split",
        "labels": LABELS,
        "sha256": DATA_SHA256,
        "rows": {split: sum(numbers.values()) for split, numbers in class_counts.items()},
        "class_counts": class_counts,
        "words": 300_000,
        "top_words": {"the": 9_000},
        "text_length": {
            split: {
                "count": 16_000,
                "edges": [0, 100, 200],
                "counts": [9_000, 6_000, 1_000],
                "mean": 96.8 + at,
                "p5": 27,
                "p50": 86,
                "p95": 207,
                "max": 300 - 5 * at,
            }
            for at, split in enumerate(share)
        },
    }


def checks(failing: dict[str, int]) -> dict[str, Any]:
    affected = {"near_duplicates": ("warn", 31), "exact_duplicates": ("drop", 12)}
    severities = {"near_duplicates": "warn", "exact_duplicates": "drop"}
    names = [
        "encoding",
        "empty_values",
        "unknown_labels",
        "text_length",
        "conflicting_labels",
        "exact_duplicates",
        "near_duplicates",
        "leakage",
        "rows_per_class",
        "class_balance",
    ]
    rows = []
    for name in names:
        verdict_of, number = affected.get(name, ("pass", 0))
        if name in failing:
            verdict_of, number = "fail", failing[name]
        rows.append(
            {
                "check": name,
                "severity": severities.get(name, "fail"),
                "bound": 0.0,
                "rows_affected": number,
                "rows_dropped": number if verdict_of == "drop" else 0,
                "fraction": number / 20_000,
                "verdict": verdict_of,
                "found": f"{number} rows ({number / 20_000:.3%})",
                "expected": "at most 0.000% of the rows",
                "key": f"dataset.checks.{name}.max_fraction",
                "examples": []
                if not number
                else ["row 17: i feel so lost today", "row 402: i am feeling fine"],
            }
        )
    return {"passed": not failing, "checks": rows}


def history() -> dict[str, Any]:
    losses = [(0.71, 0.312), (0.24, 0.201), (0.15, 0.183), (0.11, 0.197)]
    metrics = [(0.842, 0.889, 0.888), (0.871, 0.917, 0.916), (0.8823, 0.9241, 0.924), (0.8797, 0.9222, 0.922)]
    return {
        "epochs": [
            {
                "epoch": at,
                "training": {"loss": loss[0]},
                "validation": {
                    "loss": loss[1],
                    "macro_f1": metric[0],
                    "weighted_f1": metric[1],
                    "accuracy": metric[2],
                },
                "examples_per_second": 412.0 + at,
                "seconds": 38.6,
            }
            for at, (loss, metric) in enumerate(zip(losses, metrics, strict=True), start=1)
        ],
        "steps": [
            {
                "step": step,
                "loss": 0.09 + 1.7 * math.exp(-step / 160) + 0.05 * math.sin(step * 1.7),
                "learning_rate": 1e-4 * min(step / 200, (2000 - step) / 1800),
            }
            for step in range(1, 2001)
        ],
        "best_epoch": 3,
        "stopped": "all epochs done",
        "seconds": 154.4,
        "device": "Intel Xeon, 2 threads, fp32",
        "machine": "n1-standard-4",
        "parameters": 22_715_526,
        "usd_per_hour": 0.19,
        "cost_usd": 0.00815,
        "max_hours": 4.0,
        "max_cost_usd": 10.0,
        "host": "workstation-7",
        "usage": {
            "seconds": 153.9,
            "rows": 63_996,
            "step_seconds": 150.2,
            "examples_per_second": 426.07,
            "cpu_utilisation": 0.874,
            "cpu_wait": 0.113,
            "peak_memory_gb": 1.624,
            "gpu_utilisation": None,
            "peak_gpu_memory_gb": None,
        },
    }


def candidates() -> dict[str, Any]:
    pytorch = {"1": (9.84, 12.1), "8": (31.2, 36.0), "32": (104.0, 118.0)}
    rows: list[dict[str, Any]] = []
    timings = {
        "plain": {"1": (4.11, 5.0), "8": (26.0, 29.9), "32": (94.5, 99.1)},
        "fused": {"1": (3.16, 3.6), "8": (24.0, 26.3), "32": (92.8, 101.0)},
        "int8": {"1": (1.89, 2.3), "8": (13.1, 15.4), "32": (47.3, 52.0)},
    }
    quality = {"plain": (86.9, 0.8823), "fused": (86.9, 0.8823), "int8": (22.9, 0.8812)}
    for name, latency in timings.items():
        size, macro_f1 = quality[name]
        rows.append(
            {
                "name": name,
                "admitted": name != "fused",
                "reason": "largest logit difference 3.1e-04 is over max_abs_logit_difference 1e-04"
                if name == "fused"
                else None,
                "size_mb": size,
                "precision": "int8" if "int8" in name else "fp32",
                "max_abs_difference": 2.1e-06 if name == "plain" else 3.1e-04 if name == "fused" else 0.21,
                "label_agreement": 0.9945 if "int8" in name else 1.0,
                "macro_f1": macro_f1,
                "metric_drop": 0.8823 - macro_f1,
                "metric_drop_interval": [-0.002, 0.004],
                "neighbours": {"rows": 96, "max_difference": 0.112 if "int8" in name else 0.0},
                "memory_mb": 3.0 * size,
                "latency_ms": {size: {"median": m, "p99": p} for size, (m, p) in latency.items()},
                "speedup": {size: pytorch[size][0] / m for size, (m, _) in latency.items()},
            }
        )
    return {
        "threads": 2,
        "processor": "Intel(R) Xeon(R) Platinum 8481C, AVX512-VNNI",
        "rows": 512,
        "pytorch": {
            "macro_f1": 0.8823,
            "latency_ms": {"eager": {size: {"median": m, "p99": p} for size, (m, p) in pytorch.items()}},
            "memory_mb": {"eager": 412.0},
            "absent": {"compiled": "there is no C++ compiler"},
        },
        "tokenizing_ms": {"1": {"median": 0.05, "p99": 0.06}},
        "pareto_front": ["plain", "int8"],
        "objective": "latency",
        "candidates": rows,
        "chosen": "int8",
        "chosen_speedup": {"1": 9.84 / 1.89},
        "objective_batch_size": 1,
    }


def bundle() -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "emotion",
        "task": "text_classification",
        "labels": LABELS,
        "inputs": [],
        "outputs": [],
        "max_length": 128,
        "opset": 17,
        "candidate": "int8",
        "precision": "int8",
        "quality": {"macro_f1": 0.8812},
        "latency_ms": {"1": 1.89},
        "speedup": {"1": 5.2},
        "lineage": {
            "manifest_sha256": "a" * 64,
            "data_sha256": DATA_SHA256,
            "git_commit": "9377eda0c2f4",
            "image": "gauntlet-python/components:0.1.0",
        },
        "files": {"model.onnx": "1" * 64, "tokenizer.json": "2" * 64, "parity.json": "3" * 64},
    }


def scored(shift: float) -> dict[str, Any]:
    """A model; `shift` is added to each of its figures but the confusion matrix."""
    confusion = [
        [563, 4, 1, 9, 6, 0],
        [6, 640, 21, 1, 1, 1],
        [2, 24, 136, 1, 0, 0],
        [9, 3, 0, 252, 6, 0],
        [7, 1, 0, 5, 218, 11],
        [0, 5, 0, 0, 14, 53],
    ]
    f1 = [0.962, 0.950, 0.848, 0.937, 0.895, 0.774]
    return {
        "accuracy": 0.931 + shift,
        "macro_f1": 0.8943 + shift,
        "weighted_f1": 0.9308 + shift,
        "per_class": [
            {
                "label": label,
                "precision": value - 0.008 + shift,
                "recall": value + 0.009 + shift,
                "f1": value + shift,
                "support": sum(row),
            }
            for label, value, row in zip(LABELS, f1, confusion, strict=True)
        ],
        "confusion": confusion,
        "intervals": {
            "macro_f1": [0.8751 + shift, 0.9117 + shift],
            "accuracy": [0.9195 + shift, 0.9415 + shift],
            "weighted_f1": [0.9192 + shift, 0.9417 + shift],
        },
        "lower_bounds": {"macro_f1": 0.8782 + shift, "accuracy": 0.9215 + shift},
    }


def scores(with_champion: bool, difference: float) -> dict[str, Any]:
    content: dict[str, Any] = {
        "rows": 2000,
        "labels": LABELS,
        "confidence": 0.95,
        "challenger": scored(0.0),
        "training_overlap": {
            "challenger": 0,
            "summary": "None of the 2000 test rows was in this model's own training split.",
        },
        "mistakes": [
            {"text": text, "label": label, "predicted": predicted, "confidence": confidence}
            for text, label, predicted, confidence in (
                ("i feel a little mellow today and that is all there is to it", "joy", "sadness", 0.991),
                ("i was so in awe that i could hardly feel my feet", "surprise", "fear", 0.984),
                ("i feel like i am being tender with people who never asked for it", "love", "joy", 0.972),
                ("i can t help feeling shaken up by how kind they were", "fear", "surprise", 0.958),
            )
        ],
    }
    if with_champion:
        spreads = [0.01, 0.011, 0.035, 0.02, 0.024, 0.06]
        content["champion"] = scored(-difference) | {"version": "2"}
        content["challenger_on_clean_rows"] = scored(0.0)
        content["training_overlap"] = {
            "challenger": 0,
            "champion": 120,
            "clean_rows": 1880,
            "summary": "120 of 2000 test rows were in the champion's training split; compared on the 1880 "
            "clean rows.",
        }
        content["paired"] = {
            "macro_f1_difference": difference,
            "lower_bound": difference - 0.012,
            "upper_bound": difference + 0.013,
            "class_f1_difference": dict.fromkeys(LABELS, difference),
            "class_f1_intervals": {
                label: [difference - width, difference + width]
                for label, width in zip(LABELS, spreads, strict=True)
            },
        }
    return content


def verdict(failing: tuple[str, ...], with_champion: bool) -> dict[str, Any]:
    rows: list[tuple[str, bool | float, str, bool | float | None, str]] = [
        ("macro_f1", 0.85, ">=", 0.8782, "Bootstrap lower limit of macro-F1 at confidence 0.95"),
        ("accuracy", 0.9, ">=", 0.9215, "Bootstrap lower limit of accuracy at confidence 0.95"),
        (
            "validation_gap",
            0.05,
            "<=",
            -0.012,
            "Macro-F1 lost between validation and test",
        ),
        ("speedup", 2.3, ">=", 1.4 if "speedup" in failing else 5.206, "Times as fast as PyTorch"),
        ("certificate", True, "is", True, "The bundle's parity certificate is of the model that it holds"),
        ("parity", 0.995, ">=", 0.9988, "Rows with the label that PyTorch gives them"),
        ("metric_drop", 0.01, "<=", 0.004, "Bootstrap upper limit of the macro-F1 that conversion lost"),
        ("model_size", 100.0, "<=", 22.9, "Size in MB"),
        ("cost", 10.0, "<=", 0.00815, "Cost of training in USD"),
    ]
    difference = -0.062 if "non_inferiority" in failing else 0.009
    against: list[tuple[str, bool | float, str, bool | float | None, str]] = [
        ("comparable_champion", True, "is", True, "The champion was scored on the same rows"),
        (
            "non_inferiority",
            -0.01,
            ">=",
            difference,
            "Paired bootstrap lower limit of macro-F1 minus the champion's",
        ),
        ("class_f1_drop", 0.05, "<=", -0.021, "Largest drop of a class's F1 against the champion: sadness"),
    ]
    if not with_champion:
        note = "No champion is registered yet: the floors alone decide."
        against = [(rule, bound, operator, None, note) for rule, bound, operator, _, _ in against]
    rules = [
        {
            "rule": rule,
            "bound": bound,
            "operator": operator,
            "value": value,
            "verdict": "fail" if rule in failing else "not applicable" if value is None else "pass",
            "note": note,
        }
        for rule, bound, operator, value, note in rows + against
    ]
    return {
        "decision": "reject" if failing else "promote",
        "reasons": [
            f"{rule['rule']}: found {rule['value']}, expected {rule['operator']} {rule['bound']}"
            for rule in rules
            if rule["verdict"] == "fail"
        ],
        "rules": rules,
    }
