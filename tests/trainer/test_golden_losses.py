"""A change that should not affect training leaves every kind's loss curve as it was recorded.

Each curve is that of a small training in fp32 on the CPU: the loss of every optimizer step, and the
validation loss of every epoch. To record the curves again:

    RECORD_GOLDEN_LOSSES=1 python -m pytest tests/trainer/test_golden_losses.py

Do that only for a change that is meant to alter training, and say in the commit message why each curve
that changed had to change. If you cannot say why, the change has a bug.

The tolerance holds across CPU classes and numbers of threads. Measured with torch 2.13 on an AMD EPYC with
AVX-512, against OMP_NUM_THREADS=1: the largest relative difference of any loss was 4.5e-6 with
OMP_NUM_THREADS=2, 4.3e-6 as an AVX2 CPU (tests/cpu_class/run.py avx2) with two threads, and 2.9e-6 with
ATEN_CPU_CAPABILITY=default. A learning rate that is 1 % higher changes some loss of the language model by
2.3e-4, and of the other kinds by more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gauntlet.manifests.loading import load_manifest
from gauntlet.trainer.run import TrainingRun, train
from tests.trainer.conftest import Trainings

FOLDER = Path(__file__).parent / "golden_losses"
TOLERANCE = 5e-5
STUDENT = "training.student={layers: [0], epochs: 2, learning_rate: 2e-3}"


def losses(history: dict[str, Any]) -> dict[str, list[float]]:
    return {
        "steps": [step["loss"] for step in history["steps"]],
        "validation": [epoch["validation"]["loss"] for epoch in history["epochs"]],
    }


@pytest.mark.parametrize(
    ("kind", "fixture", "overrides"),
    [
        ("text_classification", "trainings", [STUDENT]),
        ("image_classification", "image_trainings", []),
        ("ordinal_grading", "card_trainings", []),
        ("causal_lm", "language_trainings", []),
    ],
)
def test_the_loss_curve_is_the_recorded_one(
    request: pytest.FixtureRequest, kind: str, fixture: str, overrides: list[str], tmp_path: Path
) -> None:
    trainings: Trainings = request.getfixturevalue(fixture)
    settings = ["training.precision=fp32", "training.compute_target=cpu", *overrides]
    manifest = load_manifest(trainings.manifest, settings)
    history = train(
        TrainingRun(
            section=manifest.training,
            name=manifest.name,
            task=manifest.task,
            seed=manifest.seed,
            splits=trainings.splits,
            checkpoint=tmp_path / "checkpoint",
        )
    )
    found = losses(history)
    if "student" in history:
        found |= {f"student's {name}": curve for name, curve in losses(history["student"]).items()}
    file = FOLDER / f"{kind}.json"
    if os.environ.get("RECORD_GOLDEN_LOSSES"):
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        pytest.skip(f"recorded {file}: justify it in the commit message")
    recorded = json.loads(file.read_text(encoding="utf-8"))
    assert found.keys() == recorded.keys()
    for name, curve in recorded.items():
        assert found[name] == pytest.approx(curve, rel=TOLERANCE), name
