"""The loss, metrics and student of a model with several labels, against torch, scipy and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit, rel_entr
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from gauntlet.contracts.data import STATISTICS_FILE, Statistics
from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.multi_label_text.manifest import MultiLabelTraining
from gauntlet.tasks.multi_label_text.thresholds import choose_thresholds
from gauntlet.tasks.multi_label_text.training import (
    MultiLabelTask,
    imitation_loss,
    load_task,
    positive_weights,
)
from gauntlet.tasks.texts.manifest import Student

NAMES = ("joy", "fear", "anger")
TARGETS = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    for split in SPLITS:
        columns = {"text": [f"{split} w{row}" for row in range(4)], "labels": TARGETS.tolist()}
        pq.write_table(pa.table(columns | {"row": list(range(4))}), tmp_path / f"{split}.parquet")
    statistics = Statistics(
        name="d", version="1", uri="/d", sha256="0" * 64, labels=NAMES, rows=dict.fromkeys(SPLITS, 4)
    )
    statistics.write(tmp_path / STATISTICS_FILE)
    return tmp_path


def task(encoder: Path, splits: Path, **keys: object) -> MultiLabelTask:
    return load_task(MultiLabelTraining(encoder=str(encoder), **keys), splits)


def test_the_loss_is_binary_cross_entropy_with_the_weights_of_positives(
    tiny_encoder: Path, splits: Path
) -> None:
    weights = {"fear": 3.0}
    loss = task(tiny_encoder, splits, positive_weights=weights).loss
    logits, targets = torch.randn(4, 3), torch.from_numpy(TARGETS)
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 3.0, 1.0]))(logits, targets)
    torch.testing.assert_close(loss(logits, targets), expected * 4)


def test_smoothing_moves_targets_towards_a_half(tiny_encoder: Path, splits: Path) -> None:
    logits, targets = torch.randn(4, 3), torch.from_numpy(TARGETS)
    found = task(tiny_encoder, splits, label_smoothing=0.2).loss(logits, targets)
    torch.testing.assert_close(found, nn.BCEWithLogitsLoss()(logits, targets * 0.8 + 0.1) * 4)


def test_balanced_weights_are_the_rows_without_a_label_over_those_with_it() -> None:
    section = MultiLabelTraining(positive_weights="balanced")
    weights = positive_weights(section, NAMES, TARGETS)
    assert weights is not None
    assert weights.tolist() == pytest.approx([1 / 3, 1.0, 1.0])  # no row has anger
    assert positive_weights(MultiLabelTraining(), NAMES, TARGETS) is None


def test_validation_metrics_are_scikit_learns_at_the_best_thresholds(
    tiny_encoder: Path, splits: Path
) -> None:
    logits = torch.tensor([[2.0, -3, -9], [0.1, -2, -9], [-0.5, -4, -9], [-1, -2.5, -9]])
    metrics = task(tiny_encoder, splits).metrics(logits)
    probabilities = expit(logits.numpy())
    given = probabilities >= choose_thresholds(probabilities, TARGETS)
    assert metrics["macro_f1"] == pytest.approx(f1_score(TARGETS, given, average="macro", zero_division=0))
    assert metrics["micro_f1"] == pytest.approx(f1_score(TARGETS, given, average="micro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(TARGETS, given))
    assert metrics["macro_f1"] == pytest.approx(2 / 3)  # joy and fear are told apart, anger has no row
    assert metrics["loss"] == pytest.approx(nn.BCEWithLogitsLoss()(logits, torch.from_numpy(TARGETS)).item())


def test_training_metrics_are_scikit_learns_at_a_half(tiny_encoder: Path, splits: Path) -> None:
    trained, logits = task(tiny_encoder, splits), torch.randn(4, 3)
    halves = [trained.tally(logits[rows], torch.from_numpy(TARGETS[rows])) for rows in ([0, 1], [2, 3])]
    found = trained.training_metrics((halves[0] + halves[1]).tolist())
    given = logits.numpy() > 0
    for average in ("macro", "micro"):
        expected = f1_score(TARGETS, given, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_student_loses_the_divergence_of_each_labels_softened_probability(temperature: float) -> None:
    ours, theirs = np.random.default_rng(0).normal(scale=2, size=(2, 5, 3))
    p, q = expit(theirs / temperature), expit(ours / temperature)
    expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(axis=1).sum() * temperature**2
    found = imitation_loss(torch.from_numpy(ours), torch.from_numpy(theirs), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_student_learns_from_labels_and_scores_by_their_weight(tiny_encoder: Path, splits: Path) -> None:
    student = Student(layers=(1,), teacher_weight=0.75, temperature=2.0)
    wanted = torch.randn(4, 3)
    section = MultiLabelTraining(encoder=str(tiny_encoder), student=student)
    trained = MultiLabelTask(section, splits, student, wanted)
    model = trained.build_model().eval()
    batch = trained.training_batch([0, 3], (0, 0))
    logits = model(batch[0], batch[1])
    labels = nn.BCEWithLogitsLoss()(logits, batch[2]) * 2
    expected = 0.75 * imitation_loss(logits, wanted[[0, 3]], 2.0) + 0.25 * labels
    torch.testing.assert_close(trained.loss_sum(model, batch)[0], expected)


def test_a_students_loss_weighs_the_labels_that_a_row_has(tiny_encoder: Path, splits: Path) -> None:
    outputs, wanted, targets = torch.randn(4, 3), torch.randn(4, 3), torch.from_numpy(TARGETS)
    found = task(tiny_encoder, splits, positive_weights={"fear": 3.0})
    weights = torch.tensor([[1.0, 1, 1], [1, 3, 1], [1, 1, 1], [1, 3, 1]])
    expected = imitation_loss(outputs, wanted, 2.0, weights)
    torch.testing.assert_close(found.imitation_loss(outputs, wanted, targets, 2.0), expected)
    assert not torch.isclose(expected, imitation_loss(outputs, wanted, 2.0))
