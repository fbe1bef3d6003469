"""Interrupted trainings, each in a process of its own that is really killed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.trainer.conftest import STEPS, STEPS_PER_EPOCH, Run, Trainings


@pytest.mark.parametrize("task", ["trainings", "image_trainings", "card_trainings", "language_trainings"])
def test_killed_at_random_steps_training_ends_in_the_same_bits(
    request: pytest.FixtureRequest, run: Run, task: str
) -> None:
    trainings: Trainings = request.getfixturevalue(task)
    draw = random.Random(6)
    # The first two fall into one epoch. A state is written after every fourth step.
    points = [6, 3, *(draw.randint(1, 5) for _ in range(4))]
    killed = run([trainings.attempt("resumed", "kill", at) for at in points])
    assert [end["code"] for end in killed] == [-signal.SIGKILL] * len(points)
    finished, undisturbed = run([trainings.attempt("resumed"), trainings.undisturbed()])
    assert (finished["code"], undisturbed["code"]) == (0, 0), finished["errors"] + undisturbed["errors"]
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


OWN_NETWORK = """
import torch
from torch import nn


class Dropped(nn.Module):
    def __init__(self, vocabulary_size, classes):
        super().__init__()
        self.table, self.dropout = nn.Embedding(vocabulary_size, 16), nn.Dropout(0.3)
        self.head = nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        return self.head(self.dropout(self.table(input_ids).mean(dim=1)))
"""


def test_a_network_of_the_users_own_resumes_in_the_same_bits(
    trainings: Trainings, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "own_network_to_resume.py").write_text(OWN_NETWORK)
    own = "training.network=own_network_to_resume:Dropped"
    attempts = [
        trainings.attempt("resumed", "kill", 6, own),
        trainings.attempt("resumed", "", 0, own),
        trainings.undisturbed(own),
    ]
    variables = {"environment": {"GAUNTLET_MODULES": str(tmp_path)}}
    killed, finished, undisturbed = run([attempt | variables for attempt in attempts])
    codes = killed["code"], finished["code"], undisturbed["code"]
    assert codes == (-signal.SIGKILL, 0, 0), finished["errors"] + undisturbed["errors"]
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


@pytest.mark.parametrize("at", [STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, STEPS_PER_EPOCH + 5])
def test_killed_about_the_end_of_a_phase_the_next_one_ends_in_the_same_bits(
    card_trainings: Trainings, run: Run, at: int
) -> None:
    killed, finished, undisturbed = run(
        [
            card_trainings.attempt("resumed", "kill", at),
            card_trainings.attempt("resumed"),
            card_trainings.undisturbed(),
        ]
    )
    assert (killed["code"], finished["code"], undisturbed["code"]) == (-signal.SIGKILL, 0, 0)
    assert card_trainings.outcome("resumed") == card_trainings.outcome("undisturbed")
    for phase in ("phase1_best", "phase2_best"):
        files = [card_trainings.folder / run / f"{phase}.safetensors" for run in ("resumed", "undisturbed")]
        assert files[0].read_bytes() == files[1].read_bytes()


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


@pytest.mark.parametrize("fault", ["kill-while-writing", "kill-before-manifest"])
def test_a_kill_while_a_state_is_written_costs_only_it(trainings: Trainings, run: Run, fault: str) -> None:
    killed, finished, undisturbed = run(
        [trainings.attempt("resumed", fault, 3), trainings.attempt("resumed"), trainings.undisturbed()]
    )
    assert (killed["code"], finished["code"], undisturbed["code"]) == (-signal.SIGKILL, 0, 0)
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


@pytest.mark.parametrize("at", [5, STEPS_PER_EPOCH, STEPS], ids=["within", "end of epoch", "last of all"])
def test_sigterm_ends_training_after_the_step_with_143(trainings: Trainings, run: Run, at: int) -> None:
    terminated, finished, undisturbed = run(
        [
            trainings.attempt("resumed", "terminate", at, "training.resume.every_steps=100"),
            trainings.attempt("resumed"),
            trainings.undisturbed(),
        ]
    )
    assert terminated["code"] == 143
    assert f"ended by SIGTERM after step {at}. Its state is in" in terminated["errors"]
    assert (finished["code"], undisturbed["code"]) == (0, 0)
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


def test_sigterm_without_a_place_for_states_says_so(trainings: Trainings, run: Run) -> None:
    (terminated,) = run([trainings.attempt("stopped", "terminate", 2, states="")])
    assert terminated["code"] == 143
    assert "No state was written: name a folder by --resume-dir" in terminated["errors"]
    assert not (trainings.folder / "stopped").exists()
