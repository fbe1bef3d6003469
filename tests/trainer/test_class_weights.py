"""Classes of different sizes: weights in the loss, and rows drawn evenly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.loading import load_manifest
from gauntlet.tasks.classification.manifest import ClassTraining
from gauntlet.tasks.classification.training import balanced_chances, class_weights, row_weights
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.training import TextClassification, distillation_loss, load_task
from gauntlet.trainer.batching import training_batches
from gauntlet.trainer.device import make_deterministic
from gauntlet.trainer.loop import fit
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica
from gauntlet.trainer.states import StateStore
from tests.conftest import LABELS

SAMPLE = Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml"


@pytest.fixture
def uneven_splits(tiny_splits: Path) -> Path:
    """24, 12 and 6 training rows of the three classes."""
    frame = pd.read_parquet(tiny_splits / "train.parquet")
    kept = [frame[frame["label"] == label].head(24 // 2**label) for label in range(3)]
    pd.concat(kept, ignore_index=True).to_parquet(tiny_splits / "train.parquet")
    return tiny_splits


@pytest.fixture
def section(tiny_encoder: Path) -> Callable[..., TextTraining]:
    def made(**settings: Any) -> TextTraining:
        content = {"encoder": str(tiny_encoder), "epochs": 2, "batch_size": 8, "max_length": 16}
        content |= {"learning_rate": 3e-3, "dropout": 0.1, "precision": "fp32"}
        return TextTraining.model_validate(content | settings)

    return made


def test_balanced_weights_are_inverse_to_the_rows_of_a_class_and_their_mean_over_rows_is_1() -> None:
    labels = np.array([0] * 24 + [1] * 12 + [2] * 6)
    weights = class_weights(ClassTraining(class_weights="balanced"), LABELS, labels)
    assert weights is not None
    assert weights.tolist() == pytest.approx([42 / (3 * 24), 42 / (3 * 12), 42 / (3 * 6)])
    assert np.mean(row_weights(weights, labels)) == pytest.approx(1)
    given = class_weights(ClassTraining(class_weights={LABELS[1]: 2.5}), LABELS, labels)
    assert given is not None and given.tolist() == [1.0, 2.5, 1.0]
    assert class_weights(ClassTraining(), LABELS, labels) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_s_loss_is_the_weighted_mean_that_torch_gives(
    uneven_splits: Path, section: Callable[..., TextTraining], smoothing: float
) -> None:
    task = TextClassification(section(class_weights="balanced", label_smoothing=smoothing), uneven_splits)
    model = task.build_model().eval()
    rows = [0, 1, 24, 30, 36, 41]
    ids, mask, labels = task.training_batch(rows, (0, 1))
    with torch.no_grad():
        loss, _ = task.loss_sum(model, (ids, mask, labels))
        expected = functional.cross_entropy(
            model(ids, mask), labels, torch.tensor([42 / 72, 42 / 36, 42 / 18]), label_smoothing=smoothing
        )
    assert float(loss) / sum(task.train_weights[row] for row in rows) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_an_imitated_row_counts_as_much_as_its_label() -> None:
    ours, theirs = torch.randn(3, 4), torch.randn(3, 4)
    one_by_one = [distillation_loss(ours[[row]], theirs[[row]], 2.0) for row in range(3)]
    weighed = distillation_loss(ours, theirs, 2.0, torch.tensor([1.0, 2.0, 0.5]))
    assert float(weighed) == pytest.approx(float(one_by_one[0] + 2 * one_by_one[1] + 0.5 * one_by_one[2]))


def test_a_student_s_loss_weighs_rows_by_their_class(
    uneven_splits: Path, section: Callable[..., TextTraining]
) -> None:
    task = TextClassification(section(class_weights="balanced"), uneven_splits)
    outputs, wanted, labels = torch.randn(3, 3), torch.randn(3, 3), torch.tensor([2, 0, 1])
    expected = distillation_loss(outputs, wanted, 2.0, torch.tensor([42 / 18, 42 / 72, 42 / 36]))
    torch.testing.assert_close(task.imitation_loss(outputs, wanted, labels, 2.0), expected)
    assert not torch.isclose(expected, distillation_loss(outputs, wanted, 2.0))


def test_a_balanced_sampler_draws_every_class_as_often() -> None:
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    chances = balanced_chances(ClassTraining(sampler="balanced"), labels)
    drawn = [
        row for epoch in range(5) for b in training_batches([1] * 1000, 50, 3, epoch, chances) for row in b
    ]
    assert np.bincount(labels[drawn]) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert balanced_chances(ClassTraining(), labels) is None


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"sampler": "balanced"}])
def test_training_that_was_interrupted_ends_in_the_same_bits(
    uneven_splits: Path, section: Callable[..., TextTraining], tmp_path: Path, settings: dict[str, str]
) -> None:
    wanted = section(**settings)

    def train(steps: int | None) -> dict[str, torch.Tensor]:
        make_deterministic(3)
        task = load_task(wanted, uneven_splits)
        replica = Replica(task, task.build_model(), wanted, torch.device("cpu"), World())
        states = StateStore(str(tmp_path / "states"), {}, wanted.resume) if steps else None
        looks = iter(range(1000))
        stop = (lambda: next(looks) == steps) if steps else (lambda: False)
        fit(replica, wanted, 3, lambda *_: None, Untracked(), states, stop)
        return replica.weights()

    undisturbed = train(None)
    with pytest.raises(Exception, match="ended by SIGTERM after step"):
        train(3)
    resumed = train(10**6)
    assert all(torch.equal(tensor, undisturbed[name]) for name, tensor in resumed.items())
    plain = section()
    task = load_task(plain, uneven_splits)
    assert task.sampling_chances is None and set(task.train_weights) == {1}


class Untracked:
    def log_metrics(self, metrics: Any, step: int) -> None: ...


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.class_weights={joy: 2, acount: 3}", "found acount, expected some of dataset.labels"),
        ("training.class_weights=even", "none, balanced, or a positive number for each label"),
        ("training.class_weights={joy: 0}", "none, balanced, or a positive number for each label"),
        ("training.class_weights={joy: .inf}", "none, balanced, or a positive number for each label"),
        ("training.class_weights=balanced", "twice"),
    ],
)
def test_weights_that_mean_nothing_are_one_fault(override: str, words: str) -> None:
    with pytest.raises(ManifestError) as raised:
        load_manifest(SAMPLE, [override, *(["training.sampler=balanced"] if words == "twice" else [])])
    (fault,) = raised.value.faults
    assert words in fault.expected


def test_weights_by_label_survive_as_a_parameter_of_the_pipeline() -> None:
    from gauntlet.manifests.schema import as_parameter, section_of

    manifest = load_manifest(SAMPLE, ["training.class_weights={joy: 2}"])
    section = section_of("text_classification", "training", as_parameter(manifest.training))
    assert isinstance(section, ClassTraining) and section.class_weights == {"joy": 2.0}
