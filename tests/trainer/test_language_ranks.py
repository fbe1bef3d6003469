"""Adapters of a language model trained on one rank and on two, whose shares hold unlike numbers of tokens."""

from __future__ import annotations

import pytest

from tests.trainer.conftest import Run, Trainings

PLAIN = ("training.lora_dropout=0.0", "training.precision=fp32")  # each rank drops values of its own


@pytest.mark.parametrize("distribution", ["ddp", "fsdp2"])
def test_two_ranks_take_the_steps_of_one(language_trainings: Trainings, run: Run, distribution: str) -> None:
    spread = (*PLAIN, f"training.distribution={distribution}")
    one, two = run(
        [
            language_trainings.attempt("one", "", 0, *PLAIN, states="one-state"),
            language_trainings.attempt("two", "", 0, *spread, states="two-states", ranks=2),
        ]
    )
    assert (one["code"], two["code"]) == (0, 0), one["errors"] + two["errors"]
    histories = [language_trainings.outcome(name)[1] for name in ("one", "two")]
    alone, together = ([step["loss"] for step in history["steps"]] for history in histories)
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone[-1] < alone[0]


def test_states_of_adapters_hold_the_adapters_alone(language_trainings: Trainings, run: Run) -> None:
    (done,) = run([language_trainings.attempt("trained")])
    assert done["code"] == 0, done["errors"]
    states = list((language_trainings.folder / "states").rglob("model.safetensors"))
    whole = (language_trainings.folder / "trained/model.safetensors").stat().st_size
    assert states
    assert max(path.stat().st_size for path in states) < whole / 4
