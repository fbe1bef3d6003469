"""A reduced training of the shipped manifest on cards that it draws: minutes, by `make acceptance`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.manifests.loading import load_manifest
from gauntlet.tasks.ordinal_grading.data import read_card_split
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import load_model

MANIFEST = Path(__file__).parents[2] / "manifests" / "card_grading.yaml"
REDUCED = ("training.phase1_epochs=2", "training.phase2_epochs=8")

pytestmark = pytest.mark.acceptance


def test_ten_epochs_on_drawn_cards_give_a_kappa_of_06_on_cards_of_other_certificates(
    tmp_path: Path,
) -> None:
    manifest = load_manifest(MANIFEST, REDUCED)
    splits, checkpoint = tmp_path / "splits", tmp_path / "checkpoint"
    validate_data(manifest.task, manifest.dataset, splits, tmp_path / "checks", tmp_path / "report")
    train(TrainingRun(manifest.training, manifest.name, manifest.task, manifest.seed, splits, checkpoint))
    train_cards, test = (read_card_split(splits, name) for name in ("train", "test"))
    assert not set(train_cards.certificates) & set(test.certificates)
    sides = torch.from_numpy(test.images)
    with torch.no_grad():
        found = load_model(checkpoint)(sides[:, 0], sides[:, 1])
    predicted = found.logits.argmax(dim=1).numpy()
    assert cohen_kappa_score(test.labels, predicted, weights="quadratic") >= 0.6
    assert np.abs(found.centering.numpy() - test.centering).mean() < 2
