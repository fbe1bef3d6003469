from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.classification.manifest import ClassEarlyStopping
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.image_classification.training import load_task
from gauntlet.tasks.images.manifest import Augmentation
from gauntlet.tasks.images.training import RowsOnDevice
from gauntlet.trainer.device import make_deterministic
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import load_model, read_record
from gauntlet.trainer.splits import read_images
from tests.drawn_images import SHAPES, SIDE
from tests.image_backbones import small

MOVED = Augmentation(rotation=15, shift=0.1, shear=0.1, zoom=0.1, horizontal_flip=True)
CPU = torch.device("cpu")


@pytest.fixture
def section() -> ImageTraining:
    return ImageTraining(
        filters=(8, 16),
        units=32,
        dropout=0.1,
        head_dropout=0.1,
        epochs=8,
        batch_size=12,
        learning_rate=1e-2,
        augmentation=MOVED,
        early_stopping=ClassEarlyStopping(metric="accuracy", patience=10),
    )


def trained(section: ImageTraining, splits: Path, folder: Path) -> dict[str, Any]:
    run = TrainingRun(section, "drawn", "image_classification", 3, splits, folder, resume_dir="")
    return train(run)


def probabilities(checkpoint: Path, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return load_model(checkpoint)(torch.from_numpy(images)).double().softmax(dim=1).numpy()


@pytest.mark.parametrize(("arch", "units"), [("plain_cnn", 32), ("resnet", 0)])
def test_a_network_learns_shapes_and_its_checkpoint_scores_what_the_history_says(
    section: ImageTraining, image_splits: Path, tmp_path: Path, arch: str, units: int
) -> None:
    of_arch = section.model_copy(update={"arch": arch, "units": units})
    history = trained(of_arch, image_splits, tmp_path / "checkpoint")
    best = history["epochs"][history["best_epoch"] - 1]
    assert best["validation"]["accuracy"] >= 0.9
    validation = read_images(image_splits, "validation")
    scores = probabilities(tmp_path / "checkpoint", validation.images)
    labels, predicted = validation.labels, scores.argmax(axis=1)
    assert best["validation"]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert best["validation"]["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert best["validation"]["weighted_f1"] == pytest.approx(f1_score(labels, predicted, average="weighted"))
    assert best["validation"]["loss"] == pytest.approx(log_loss(labels, scores), rel=1e-4)
    assert history["confusion"] == confusion_matrix(labels, predicted).tolist()


def test_a_checkpoint_says_what_a_conversion_needs(
    section: ImageTraining, image_splits: Path, tmp_path: Path
) -> None:
    trained(section.model_copy(update={"epochs": 1}), image_splits, tmp_path / "checkpoint")
    record = read_record(tmp_path / "checkpoint")
    assert record.task == "image_classification"
    assert (record.labels, record.input_shape) == (SHAPES, (1, SIDE, SIDE))
    assert set(json.loads((tmp_path / "checkpoint" / "training.json").read_text())) == {
        *("task", "labels", "input_shape", "seed", "epoch", "data_sha256", "training_sha256")
    }
    images = read_images(image_splits, "train").images
    normalisation = load_model(tmp_path / "checkpoint").normalisation
    assert float(normalisation.mean) == pytest.approx(images.mean())
    assert float(normalisation.std) == pytest.approx(images.std())


def test_training_ends_when_accuracy_no_longer_gains(
    section: ImageTraining, image_splits: Path, tmp_path: Path
) -> None:
    stopping = ClassEarlyStopping(metric="accuracy", patience=2)
    patient = section.model_copy(update={"epochs": 60, "early_stopping": stopping})
    history = trained(patient, image_splits, tmp_path / "checkpoint")
    assert history["stopped"] == "early stopping"
    accuracies = [epoch["validation"]["accuracy"] for epoch in history["epochs"]]
    assert history["best_epoch"] == 1 + int(np.argmax(accuracies)) == len(accuracies) - 2


def test_an_image_moves_alike_in_whichever_batch_it_is(section: ImageTraining, image_splits: Path) -> None:
    task, other = (load_task(section, image_splits) for _ in range(2))
    rows = [3, 40, 7, 11]
    _, maps = task.training_batch(rows, (1, 2))
    for at, row in enumerate(rows):
        other.training_batch([0], (1, 5))
        assert torch.equal(other.training_batch([row], (1, 2))[1][0], maps[at])


def test_images_stay_on_the_device_that_a_batch_of_positions_is_on(image_splits: Path) -> None:
    """`meta` is the second device that every machine has."""
    split = read_images(image_splits, "train")
    rows = RowsOnDevice(split.images, split.labels)
    images, labels = rows.at(torch.tensor([3, 1]))
    assert np.array_equal(images.numpy(), split.images[[3, 1]])
    assert labels.tolist() == split.labels[[3, 1]].tolist()
    assert rows.at(torch.tensor([3, 1], device="meta"))[0].is_meta
    assert all(tensor.is_meta for tensor in rows._tensors)


def test_nothing_moves_in_validation(section: ImageTraining, image_splits: Path) -> None:
    make_deterministic(0)
    task = load_task(section, image_splits)
    replica = Replica(task, task.build_model(), section, CPU, World())
    still = load_task(section.model_copy(update={"augmentation": Augmentation()}), image_splits)
    scores = replica.validate(1)
    assert scores == Replica(still, replica._module, section, CPU, World()).validate(1)
    assert scores == replica.validate(1)


def test_cut_finer_the_rows_of_a_step_have_the_same_loss_where_no_batch_is_normalised(
    section: ImageTraining, image_splits: Path
) -> None:
    make_deterministic(0)
    task = load_task(section, image_splits)
    model = task.build_model().eval()
    with torch.no_grad():
        whole, *parts = (
            float(task.loss_sum(model, task.training_batch(rows, (1, 1)))[0])
            for rows in (range(12), range(4), range(4, 8), range(8, 12))
        )
    assert whole == pytest.approx(sum(parts), rel=1e-5)


def test_more_blocks_than_an_image_can_be_halved_is_one_message(
    section: ImageTraining, image_splits: Path
) -> None:
    deep = section.model_copy(update={"filters": (4,) * 5})
    with pytest.raises(UsageError, match=r"training.filters: found 5 blocks, expected at most 4 for images"):
        load_task(deep, image_splits)


def test_splits_of_another_task_are_one_message(section: ImageTraining, tiny_splits: Path) -> None:
    with pytest.raises(UsageError, match=r"train.npz: no such file, expected a folder written by"):
        load_task(section, tiny_splits)


def test_a_frozen_backbone_keeps_its_weights_through_training_and_in_the_checkpoint(
    image_splits: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    published = small().state_dict()
    save_file(dict(published), tmp_path / "small.safetensors")
    backbone = {"name": "tests.image_backbones:small", "weights": str(tmp_path / "small.safetensors")}
    section = ImageTraining.model_validate(
        {"backbone": backbone, "units": 16, "head_dropout": 0, "epochs": 3, "batch_size": 12}
    )
    trained(section, image_splits, tmp_path / "checkpoint")
    saved = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name, tensor in published.items():
        torch.testing.assert_close(saved[f"backbone.{name}"], tensor, rtol=0, atol=0)
    images = read_images(image_splits, "validation").images
    (tmp_path / "small.safetensors").unlink()  # a checkpoint needs the function, and not the file
    scores = probabilities(tmp_path / "checkpoint", images)
    assert scores.shape == (len(images), len(SHAPES))
    assert scores.std(axis=0).min() > 0


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"sampler": "balanced"}])
def test_classes_are_weighted_or_drawn_in_inverse_proportion_to_their_rows(
    section: ImageTraining, image_splits: Path, tmp_path: Path, settings: dict[str, str]
) -> None:
    task = load_task(section.model_copy(update=settings), image_splits)
    counts = np.bincount(task.train_labels)
    if "sampler" in settings:
        assert task.chances is not None
        drawn = [float(task.chances[task.train_labels == label].sum()) for label in range(len(counts))]
        assert drawn == pytest.approx([drawn[0]] * len(counts))
    else:
        expected = len(task.train_labels) / (len(counts) * counts)  # as in scikit-learn
        assert [task.train_weights[int(np.argmax(task.train_labels == at))] for at in range(3)] == (
            pytest.approx(expected.tolist())
        )


def test_a_weight_for_a_class_that_the_data_do_not_have_is_refused(
    section: ImageTraining, image_splits: Path
) -> None:
    with pytest.raises(UsageError, match=r"class_weights: found circle, expected some of .*upright"):
        load_task(section.model_copy(update={"class_weights": {"circle": 2.0}}), image_splits)
