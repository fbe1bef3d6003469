"""Several ranks against one: processes that communicate through gloo, as GPUs do through NCCL."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from gauntlet.manifests.loading import load_manifest
from gauntlet.tasks.image_classification.training import load_task
from gauntlet.trainer.device import make_deterministic
from gauntlet.trainer.splits import read_images
from tests.trainer.conftest import STEPS, STEPS_PER_EPOCH, Run, Trainings

PLAIN = (
    "training.dropout=0",
    "training.gradient_accumulation=1",
    "training.schedule=linear",
    "training.precision=fp32",
)


def curves(trainings: Trainings, output: str) -> tuple[list[float], list[float]]:
    history = json.loads((trainings.folder / output / "history.json").read_text())
    scores = [
        epoch[split][key]
        for epoch in history["epochs"]
        for split in ("training", "validation")
        for key in ("loss", "macro_f1")
    ]
    return [step["loss"] for step in history["steps"]], scores


def succeed(run: Run, *attempts: dict) -> None:
    for ended in run(attempts):
        assert set(ended["codes"]) == {0}, ended["errors"]


# 72 rows: batches of 8 come out even, of 20 leave 12, of 71 leave one row, for which only one rank has work.
@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 4), (20, 5), (71, 1)])
def test_however_a_batch_is_cut_its_loss_is_the_same(
    trainings: Trainings, run: Run, batch_size: int, accumulation: int
) -> None:
    batch = (*PLAIN, f"training.batch_size={batch_size}")
    cut = f"training.gradient_accumulation={accumulation}"
    succeed(
        run,
        trainings.attempt("whole", "", 0, *batch, states=""),
        trainings.attempt("cut", "", 0, *batch, cut, states=""),
        trainings.attempt("ranks", "", 0, *batch, states="", ranks=2),
        trainings.attempt("cut-ranks", "", 0, *batch, cut, states="", ranks=2),
    )
    losses, scores = curves(trainings, "whole")
    for output in ("cut", "ranks", "cut-ranks"):
        other_losses, other_scores = curves(trainings, output)
        assert other_losses == pytest.approx(losses, abs=1e-6)
        assert other_scores == pytest.approx(scores, abs=1e-6)


def test_sharded_over_ranks_training_follows_the_curve_of_one_rank(trainings: Trainings, run: Run) -> None:
    sharded = (*PLAIN, "training.distribution=fsdp2")
    succeed(
        run,
        trainings.attempt("whole", "", 0, *PLAIN, states=""),
        trainings.attempt("sharded", "", 0, *sharded, states="", ranks=2),
    )
    for one, other in zip(curves(trainings, "whole"), curves(trainings, "sharded"), strict=True):
        assert other == pytest.approx(one, abs=1e-6)
    one, other = (load_file(trainings.folder / name / "model.safetensors") for name in ("whole", "sharded"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


@pytest.mark.parametrize(
    ("task", "distribution"), [("trainings", "ddp"), ("trainings", "fsdp2"), ("image_trainings", "ddp")]
)
def test_ranks_that_are_killed_go_on_to_the_same_bits(
    request: pytest.FixtureRequest, run: Run, task: str, distribution: str
) -> None:
    trainings: Trainings = request.getfixturevalue(task)
    setting = f"training.distribution={distribution}"
    killed, *finished = run(
        [
            trainings.attempt("resumed", "kill", 6, setting, ranks=2),
            trainings.attempt("resumed", "", 0, setting, ranks=2),
            trainings.undisturbed(setting, ranks=2),
        ]
    )
    assert killed["codes"][1] == -signal.SIGKILL
    assert killed["codes"][0] not in (0, -signal.SIGKILL)  # it cannot go on alone
    assert [ended["codes"] for ended in finished] == [[0, 0], [0, 0]], finished
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


def test_shards_are_whole_in_the_state_after_an_epoch_that_was_not_the_best(
    trainings: Trainings, run: Run
) -> None:
    """After such an epoch nothing but the state asks for the weights, and FSDP2 has left some unsharded."""
    settings = ("training.distribution=fsdp2", "training.learning_rate=1e-6", "training.schedule=linear")
    terminated, *finished = run(
        [
            trainings.attempt("resumed", "terminate", 2 * STEPS_PER_EPOCH, *settings, ranks=2),
            trainings.attempt("resumed", "", 0, *settings, ranks=2),
            trainings.undisturbed(*settings, ranks=2),
        ]
    )
    assert terminated["codes"] == [143, 143]
    assert [ended["codes"] for ended in finished] == [[0, 0], [0, 0]], finished
    assert trainings.outcome("undisturbed")[1]["best_epoch"] == 1
    states = sorted((trainings.folder / "states-of-the-undisturbed").iterdir())
    one, other = (load_file(state / "optimizer.safetensors").keys() for state in (states[0], states[-1]))
    assert one == other
    last = (
        load_file(trainings.folder / name / states[-1].name / "model.safetensors")
        for name in ("states", states[-1].parent.name)
    )
    resumed, straight = last
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_sigterm_to_any_rank_ends_all_after_the_same_step(trainings: Trainings, run: Run) -> None:
    terminated, *finished = run(
        [
            trainings.attempt("resumed", "terminate", 5, "training.resume.every_steps=100", ranks=2),
            trainings.attempt("resumed", ranks=2),
            trainings.undisturbed(ranks=2),
        ]
    )
    assert terminated["codes"] == [143, 143]
    assert "ended by SIGTERM after step 5. Its state is in" in terminated["errors"]
    assert [ended["codes"] for ended in finished] == [[0, 0], [0, 0]], finished
    assert trainings.outcome("resumed") == trainings.outcome("undisturbed")


def test_another_number_of_ranks_cannot_go_on_in_the_same_bits_and_is_refused(
    trainings: Trainings, run: Run
) -> None:
    terminated, alone = run(
        [trainings.attempt("resumed", "terminate", 5, ranks=2), trainings.attempt("resumed")]
    )
    assert terminated["codes"] == [143, 143]
    assert alone["code"] == 2
    assert "the number of ranks was 2 and is 1" in alone["errors"]


def test_the_same_seed_gives_the_same_bits_on_as_many_ranks(trainings: Trainings, run: Run) -> None:
    succeed(run, *(trainings.attempt(output, states="", ranks=2) for output in ("first", "second")))
    assert trainings.outcome("first") == trainings.outcome("second")
    assert len(trainings.outcome("first")[1]["steps"]) == STEPS


def test_the_running_means_of_batch_normalisation_are_those_of_all_ranks_rows(
    image_trainings: Trainings, run: Run
) -> None:
    images = torch.from_numpy(read_images(image_trainings.splits, "train").images)
    one_step = (
        "training.epochs=1",
        f"training.batch_size={len(images)}",
        "training.gradient_accumulation=1",
        "training.augmentation={}",
        "training.precision=fp32",
    )
    succeed(run, image_trainings.attempt("ranks", "", 0, *one_step, states="", ranks=2))
    learned = load_file(image_trainings.folder / "ranks" / "model.safetensors")
    manifest = load_manifest(image_trainings.manifest, one_step)
    make_deterministic(manifest.seed)
    untrained = load_task(manifest.training, image_trainings.splits).build_model()
    with torch.no_grad():
        convolved = untrained.blocks[0][0][0](untrained.normalisation(images))
    momentum = 0.1
    assert torch.allclose(
        learned["blocks.0.0.1.running_mean"], momentum * convolved.mean(dim=(0, 2, 3)), atol=1e-6
    )
