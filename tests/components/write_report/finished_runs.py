"""Runs as their steps leave them on disk, for the tests of the run report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from step_outputs import (
    BUNDLE_SHA256,
    DATA_SHA256,
    LABELS,
    bundle,
    candidates,
    checks,
    history,
    scores,
    statistics,
    verdict,
)

from gauntlet.contracts.verdict import Version

TASK = "text_classification"
FIRST_END = datetime(2026, 11, 21, 9, 0, 4, tzinfo=UTC).timestamp()
FIRST_SECONDS = 4
# kfp.local names a job after the local time at which it starts
JOB = f"emotion-{datetime.fromtimestamp(FIRST_END - FIRST_SECONDS):%Y-%m-%d-%H-%M-%S-%f}"
# When each step ended, in seconds after the end of validate-data.
ENDS = {
    "fingerprint-data": 1 - FIRST_SECONDS,
    "validate-data": 0,
    "train-model": 161,
    "convert-to-onnx": 203,
    "evaluate-model": 215,
    "gate-model": 215.4,
    "register-model": 218,
}

FolderOf = Callable[[str], Path]


def local(root: Path) -> FolderOf:
    """Where kfp.local lets each step write."""
    return lambda step: root / JOB / step


def promoted(folder_of: FolderOf, with_champion: bool = True) -> None:
    """Every step succeeded, the gate said promote."""
    validated(folder_of)
    trained(folder_of)
    converted(folder_of)
    evaluated(folder_of, with_champion)
    finish(folder_of("gate-model"), {"verdict": verdict(failing=(), with_champion=with_champion)})
    finish(folder_of("register-model"), {"version": version("3" if with_champion else "1")})


def version(number: str, **changes: Any) -> dict[str, Any]:
    """What register-model writes of a version of the emotion system."""
    given = {"registered": True, "aliases": ["champion"], "bundle_sha256": BUNDLE_SHA256, **changes}
    return Version(name="emotion", version=number, uri=f"models:/emotion/{number}", **given).as_json()


def rejected(folder_of: FolderOf) -> None:
    """The gate said reject; register-model was skipped."""
    validated(folder_of)
    trained(folder_of)
    converted(folder_of)
    evaluated(folder_of, with_champion=True, difference=-0.05)
    rules = verdict(failing=("non_inferiority", "speedup"), with_champion=True)
    finish(folder_of("gate-model"), {"verdict": rules})


def bad_data(folder_of: FolderOf) -> None:
    """validate-data refused the data, and left its checks."""
    fingerprinted(folder_of)
    folder = folder_of("validate-data")
    refused = checks(failing={"leakage": 14, "class_balance": 0}) | {"rejected": 14}
    settings: dict[str, dict[str, object]] = {
        "leakage": {
            "dataset.checks.leakage.severity": "drop",
            "dataset.checks.leakage.max_fraction": 0.001,
        },
        "class_balance": {"dataset.checks.class_balance.max_ratio": 50.0},
    }
    for check in refused["checks"]:
        check["settings"] = settings.get(check["check"], {})
    message = (
        "data/emotion.csv: 2 checks failed\n"
        "check          rows  example\n"
        "leakage          14  train row 17 is also test row 3\n"
        "class_balance     0  sadness has 4,600 rows, surprise 92: 50.0 is over max_ratio 20"
    )
    write(folder, "checks", refused)
    fail(folder, message, exit_code=4)


def died_in_training(folder_of: FolderOf) -> None:
    """train-model raised."""
    validated(folder_of)
    fail(folder_of("train-model"), "RuntimeError: CUDA error: device-side assert triggered", exit_code=1)


def killed_in_training(folder_of: FolderOf) -> None:
    """train-model was killed: its folder is there, with nothing that says why."""
    validated(folder_of)
    write(folder_of("train-model"), "history.tmp", {})


# --- the steps -------------------------------------------------------------------------------------


def fingerprinted(folder_of: FolderOf) -> None:
    files = {"data/emotion.csv": "md5Hash:mA8AYw=="}
    finish(folder_of("fingerprint-data"), {"sources": {"fingerprint": "f" * 64, "files": files}})


def validated(folder_of: FolderOf) -> None:
    fingerprinted(folder_of)
    finish(folder_of("validate-data"), {"splits/statistics.json": statistics(), "checks": checks({})})


def trained(folder_of: FolderOf) -> None:
    training = {
        "task": "text_classification",
        "labels": LABELS,
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "max_length": 128,
        "seed": 7,
        "epoch": 3,
        "data_sha256": DATA_SHA256,
        "training_sha256": "7" * 64,
    }
    finish(folder_of("train-model"), {"history": history(), "checkpoint/training.json": training})


def converted(folder_of: FolderOf) -> None:
    finish(folder_of("convert-to-onnx"), {"candidates": candidates(), "bundle/bundle.json": bundle()})


def evaluated(folder_of: FolderOf, with_champion: bool, difference: float = 0.021) -> None:
    finish(folder_of("evaluate-model"), {"scores": scores(with_champion, difference)})


def finish(folder: Path, outputs: dict[str, Any]) -> None:
    """Write a step's outputs and the file that KFP ends a step with."""
    for name, content in outputs.items():
        write(folder, name, content)
    write(folder, "executor_output.json", {})


def fail(folder: Path, message: str, exit_code: int) -> None:
    write(folder, "error.json", {"message": message, "exit_code": exit_code})


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    step = folder.name.split("_")[0]
    os.utime(path, (FIRST_END + ENDS[step],) * 2)
