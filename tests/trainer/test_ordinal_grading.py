from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from gauntlet.tasks.images.manifest import Augmentation
from gauntlet.tasks.ordinal_grading.data import read_card_split
from gauntlet.tasks.ordinal_grading.manifest import GradeEarlyStopping, GradingTraining
from gauntlet.tasks.ordinal_grading.network import CardGrader, SideEncoder, worst_offset
from gauntlet.tasks.ordinal_grading.training import grader_config, load_task, mirrored
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import load_model, read_record
from tests.drawn_cards import HEIGHT, WIDTH


@pytest.fixture
def section() -> GradingTraining:
    return GradingTraining(
        filters=(8, 16),
        units=32,
        phase1_epochs=3,
        lr_phase1=1e-2,
        phase2_epochs=5,
        lr_phase2=5e-3,
        batch_size=10,
        early_stopping=GradeEarlyStopping(),
    )


def trained(
    section: GradingTraining, splits: Path, folder: Path, states: Path | None = None
) -> dict[str, Any]:
    uri = str(states) if states else ""
    return train(TrainingRun(section, "drawn", "ordinal_grading", 3, splits, folder, resume_dir=uri))


def test_a_grader_learns_a_bar_and_its_checkpoint_scores_what_the_history_says(
    section: GradingTraining, card_splits: Path, tmp_path: Path
) -> None:
    history = trained(section, card_splits, tmp_path / "checkpoint")
    best = history["epochs"][history["best_epoch"] - 1]
    assert best["epoch"] > section.phase1_epochs
    assert best["validation"]["qwk"] > 0.8
    cards = read_card_split(card_splits, "validation")
    with torch.no_grad():
        sides = torch.from_numpy(cards.images)
        found = load_model(tmp_path / "checkpoint")(sides[:, 0], sides[:, 1])
    predicted = found.logits.argmax(dim=1).numpy()
    kappa = cohen_kappa_score(cards.labels, predicted, weights="quadratic")
    assert best["validation"]["qwk"] == pytest.approx(kappa)
    assert best["validation"]["mae"] == pytest.approx(mean_absolute_error(cards.labels, predicted))
    known = np.isfinite(cards.centering)
    error = np.abs(found.centering.numpy() - cards.centering)[known].mean()
    assert best["validation"]["centering_error"] == pytest.approx(error, rel=1e-4)
    mean = (found.distribution * torch.arange(1, 11)).sum(dim=1)
    torch.testing.assert_close(found.expected_grade, mean)


def test_the_best_of_each_phase_and_every_fifth_epochs_state_are_kept(
    section: GradingTraining, card_splits: Path, tmp_path: Path
) -> None:
    history = trained(section, card_splits, tmp_path / "checkpoint", tmp_path / "states")
    (first,) = history["earlier_best"]
    assert first <= section.phase1_epochs < history["best_epoch"]
    last, *phases = (
        load_file(tmp_path / "checkpoint" / f"{name}.safetensors")
        for name in ("model", "phase1_best", "phase2_best")
    )
    assert all(torch.equal(last[name], phases[1][name]) for name in last)
    assert not all(torch.equal(last[name], phases[0][name]) for name in last)
    kept = {path.name for path in (tmp_path / "states").iterdir()}
    expected = {first + 1, history["best_epoch"] + 1, 6, len(history["epochs"]) + 1}
    assert {f"epoch-{number:04d}-batch-000000" for number in expected} <= kept


def test_the_front_counts_for_nothing_until_the_second_phase(
    section: GradingTraining, card_splits: Path
) -> None:
    task = load_task(section, card_splits)
    model = task.build_model().eval()
    with torch.no_grad():
        first, second = (
            task.outputs(model, task.validation_batch([0, 1], epoch))
            for epoch in (section.phase1_epochs, section.phase1_epochs + 1)
        )
    assert first[:, 10:12].isnan().all()
    assert second.isfinite().all()
    assert not torch.equal(first[:, :10], second[:, :10])
    torch.testing.assert_close(first[:, 12:], second[:, 12:])


@pytest.mark.parametrize(("share", "counts"), [(1.0, "back"), (0.0, "front")])
def test_lambda_fusion_is_the_backs_share_of_the_grade(
    section: GradingTraining, card_splits: Path, share: float, counts: str
) -> None:
    model = load_task(section.model_copy(update={"lambda_fusion": share}), card_splits).build_model().eval()
    one, other = torch.randint(0, 256, (2, 2, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pairs = {"back": ((one, one), (other, one)), "front": ((one, one), (one, other))}[counts]
        logits = [model(*pair).logits for pair in pairs]
        assert not torch.equal(model(one, other).logits, model(other, one).logits)
    assert torch.equal(*logits)


def test_encoders_of_their_own_differ_and_train_in_both_phases(
    section: GradingTraining, card_splits: Path, tmp_path: Path
) -> None:
    apart = section.model_copy(update={"shared_encoder": False, "phase1_epochs": 1, "phase2_epochs": 1})
    model = load_task(apart, card_splits).build_model()
    assert isinstance(model, CardGrader)
    own, shared = (
        sum(weights.numel() for weights in load_task(kind, card_splits).build_model().parameters())
        for kind in (apart, section)
    )
    assert own > 1.5 * shared
    assert len(trained(apart, card_splits, tmp_path / "checkpoint")["epochs"]) == 2


def test_a_mirror_turns_left_into_right_and_leaves_top_and_turns_alone() -> None:
    centering = torch.tensor([[[60.0, 45.0], [52.0, 50.0]]])
    flip, turn = torch.diag(torch.tensor([-1.0, 1.0])), torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    maps = torch.stack([torch.cat([half, torch.zeros(2, 1)], dim=1) for half in (flip, turn)])[None]
    assert mirrored(centering, maps).tolist() == [[[40.0, 45.0], [52.0, 50.0]]]


def test_a_side_moves_alike_in_whichever_batch_it_is(section: GradingTraining, card_splits: Path) -> None:
    moving = section.model_copy(update={"augmentation": Augmentation(rotation=9, horizontal_flip=True)})
    task, other = (load_task(moving, card_splits) for _ in range(2))
    *_, maps = task.training_batch([3, 40, 7], (1, 2))
    assert maps.shape == (3, 2, 2, 3)
    assert not torch.equal(maps[:, 0], maps[:, 1])
    for at, row in enumerate([3, 40, 7]):
        assert torch.equal(other.training_batch([row], (1, 2))[2][0], maps[at])


def test_early_stopping_ends_the_second_phase_and_never_the_first(
    section: GradingTraining, card_splits: Path, tmp_path: Path
) -> None:
    stalled = section.model_copy(
        update={
            "phase1_epochs": 4,
            "phase2_epochs": 9,
            "lr_phase1": 1e-9,
            "lr_phase2": 1e-9,
            "early_stopping": GradeEarlyStopping(metric="macro_f1", patience=1),
        }
    )
    history = trained(stalled, card_splits, tmp_path / "checkpoint")
    assert history["stopped"] == "early stopping"
    assert 4 < len(history["epochs"]) < 13
    assert history["best_epoch"] == len(history["epochs"]) - 1


def test_a_checkpoint_says_what_a_conversion_needs(
    section: GradingTraining, card_splits: Path, tmp_path: Path
) -> None:
    short = section.model_copy(update={"phase1_epochs": 1, "phase2_epochs": 1})
    trained(short, card_splits, tmp_path / "checkpoint")
    record = read_record(tmp_path / "checkpoint")
    assert (record.task, record.input_shape) == ("ordinal_grading", (3, HEIGHT, WIDTH))
    assert record.labels == tuple(map(str, range(1, 11)))
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert (config["lambda_fusion"], config["filters"]) == (0.7, [8, 16])


def test_the_worst_centering_counts_by_its_sides_share_of_the_grade() -> None:
    front, back = torch.tensor([[62.0, 50.0]]), torch.tensor([[50.0, 45.0]])
    assert worst_offset([front, back], [0.5, 0.5]).item() == pytest.approx(4)  # 12 points of the front
    assert worst_offset([front, back], [0.2, 0.8]).item() == pytest.approx(
        5 / 3
    )  # a quarter of 12 is under 5
    assert worst_offset([front, back], [0.0, 1.0]).item() == pytest.approx(5 / 3)
    assert worst_offset([back], [1.0]).item() == pytest.approx(5 / 3)


def test_wear_counts_alike_wherever_it_is_and_twice_where_it_is_twice(section: GradingTraining) -> None:
    torch.manual_seed(1)
    encoder = SideEncoder(grader_config(section, (3, 128, 96), 10)).eval()
    encoder.dense = torch.nn.Sequential()
    whole = torch.zeros(1, 3, 128, 96)
    here, there, both = whole.clone(), whole.clone(), whole.clone()
    for scratched, places in ((here, [40]), (there, [72]), (both, [40, 72])):
        for place in places:
            scratched[:, :, place : place + 3, place - 20 : place - 10] = 2.0
    with torch.no_grad():
        new, *worn = (encoder(side) for side in (whole, here, there, both))
    first, second, together = (side - new for side in worn)
    assert first.abs().max() > 0.01
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together, first + second, rtol=1e-3, atol=1e-4)


def test_the_probabilities_of_the_grades_are_a_normal_curve(
    section: GradingTraining, card_splits: Path
) -> None:
    model = load_task(section, card_splits).build_model().eval()
    sides = torch.from_numpy(read_card_split(card_splits, "validation").images[:5])
    with torch.no_grad():
        logarithms = model(sides[:, 0], sides[:, 1]).distribution.log()
    bend = logarithms.diff(n=2, dim=1)  # of the logarithm of a normal curve the same everywhere
    assert (bend < 0).all()
    torch.testing.assert_close(bend, bend[:, :1].expand_as(bend), rtol=1e-3, atol=1e-3)
