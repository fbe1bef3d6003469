"""Interrupted trainings, each in a process of its own that is really killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import LABELS
from trainer.state_store import STAGING_NAME

EPOCHS = 3
STEPS_PER_EPOCH = 9  # 72 rows, batches of 8
STEPS = EPOCHS * STEPS_PER_EPOCH
TIMES = ("seconds", "examples_per_second", "cost_usd", "usage")


@dataclass(frozen=True)
class Trainings:
    """Trainings of one manifest that share a folder of training states."""

    manifest: Path
    splits: Path
    folder: Path

    def attempt(self, output: str, fault: str = "", at: int = 0, *overrides: str) -> dict[str, Any]:
        arguments = ["--manifest", str(self.manifest), "--splits", str(self.splits)]
        arguments += ["--output", str(self.folder / output), "--checkpoints", str(self.folder / "states")]
        arguments += [part for override in overrides for part in ("--set", override)]
        return {"arguments": arguments, "fault": fault, "at": at}

    def undisturbed(self) -> dict[str, Any]:
        attempt = self.attempt("undisturbed")
        attempt["arguments"][-1] = str(self.folder / "states-of-the-undisturbed")
        return attempt

    def states(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "states").iterdir())

    def outcome(self, output: str) -> tuple[str, dict[str, Any]]:
        """The sha256 of the final weights, and the history without what depends on the time of day."""
        weights = (self.folder / output / "model.safetensors").read_bytes()
        history = json.loads((self.folder / output / "history.json").read_text())
        for record in (history, *history["epochs"]):
            for key in TIMES:
                record.pop(key, None)
        return hashlib.sha256(weights).hexdigest(), history


@pytest.fixture
def trainings(tiny_encoder: Path, tiny_splits: Path, tmp_path: Path) -> Trainings:
    content = {
        "name": "tiny",
        "description": "Three classes",
        "task": "text_classification",
        "seed": 5,
        "dataset": {"name": "tiny", "version": "1", "uri": "data.csv", "labels": list(LABELS)},
        "training": {
            "encoder": str(tiny_encoder),
            "epochs": EPOCHS,
            "batch_size": 8,
            "gradient_accumulation": 2,
            "learning_rate": 2e-3,
            "dropout": 0.1,
            "schedule": "reduce_on_plateau",
            "early_stopping": {"metric": "macro_f1", "patience": 3},
            "checkpoints": {"every_steps": 4},
        },
        "gates": {"min_macro_f1": 0.5},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return Trainings(tmp_path / "tiny.yaml", tiny_splits, tmp_path)


Run = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Makes attempts one after the other, each in a process of its own, and says how they ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.interrupted"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def attempt_all(attempts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            ended = []
            for attempt in attempts:
                print(json.dumps(attempt), file=process.stdin, flush=True)
                ended.append(json.loads(process.stdout.readline()))
            return ended

        yield attempt_all


def test_killed_at_random_steps_training_ends_in_the_same_bits(trainings: Trainings, run: Run) -> None:
    draw = random.Random(6)
    # The first two fall into one epoch. A state is written after every fourth step.
    points = [6, 3, *(draw.randint(1, 5) for _ in range(4))]
    killed = run([trainings.attempt("resumed", "kill", at) for at in points])
    assert [end["code"] for end in killed] == [-signal.SIGKILL] * len(points)
    finished, undisturbed = run([trainings.attempt("resumed"), trainings.undisturbed()])
    assert (finished["code"], undisturbed["code"]) == (0, 0), finished["errors"] + undisturbed["errors"]
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


@pytest.mark.acceptance
def test_killed_at_twenty_random_steps_training_ends_in_the_same_bits(trainings: Trainings, run: Run) -> None:
    draw = random.Random(20)
    for number, at in enumerate(draw.randint(1, STEPS) for _ in range(20)):
        series = Trainings(trainings.manifest, trainings.splits, trainings.folder / str(number))
        again = draw.randint(1, 5)
        first, second, finished = run(
            [
                series.attempt("resumed", "kill", at),
                series.attempt("resumed", "kill", again),
                series.attempt("resumed"),
            ]
        )
        assert first["code"] == -signal.SIGKILL
        assert second["code"] in (-signal.SIGKILL, 0)
        assert finished["code"] == 0, finished["errors"]
        if number == 0:
            run([series.undisturbed()])
            expected = series.outcome("undisturbed")
        assert series.outcome("resumed") == expected


@pytest.mark.parametrize("fault", ["kill-while-writing", "kill-before-rename"])
def test_a_kill_while_a_state_is_written_costs_only_it(trainings: Trainings, run: Run, fault: str) -> None:
    killed, finished, undisturbed = run(
        [trainings.attempt("resumed", fault, 3), trainings.attempt("resumed"), trainings.undisturbed()]
    )
    assert (killed["code"], finished["code"], undisturbed["code"]) == (-signal.SIGKILL, 0, 0)
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")
    assert STAGING_NAME not in trainings.states()


@pytest.mark.parametrize("at", [5, STEPS_PER_EPOCH, STEPS], ids=["within", "end of epoch", "last of all"])
def test_sigterm_ends_training_after_the_step_with_143(trainings: Trainings, run: Run, at: int) -> None:
    terminated, finished, undisturbed = run(
        [
            trainings.attempt("resumed", "terminate", at, "training.checkpoints.every_steps=100"),
            trainings.attempt("resumed"),
            trainings.undisturbed(),
        ]
    )
    assert terminated["code"] == 143
    assert f"ended by SIGTERM after step {at}. Its state is in" in terminated["errors"]
    assert (finished["code"], undisturbed["code"]) == (0, 0)
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


def test_sigterm_without_a_place_for_states_says_so(trainings: Trainings, run: Run) -> None:
    attempt = trainings.attempt("stopped", "terminate", 2)
    attempt["arguments"][-1] = ""
    (terminated,) = run([attempt])
    assert terminated["code"] == 143
    assert "Nothing was written down: --checkpoints" in terminated["errors"]
    assert not (trainings.folder / "stopped").exists()
