from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from gauntlet.contracts.training import Epoch, TrainingHistory
from gauntlet.manifests.errors import GauntletError, Preempted
from gauntlet.manifests.training import Resources, Resume, Training
from gauntlet.tasks.classification.manifest import ClassEarlyStopping
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.training import TextClassification, load_task
from gauntlet.trainer.batching import MicroBatch
from gauntlet.trainer.device import make_deterministic
from gauntlet.trainer.loop import fit
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica, Tensors, build_optimizer
from gauntlet.trainer.schedule import learning_rate
from gauntlet.trainer.splits import read_split
from gauntlet.trainer.states import LoopState, StateStore
from gauntlet.trainer.task import Batch


class Recorder:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step) -> None:
        self.logged.append((step, dict(metrics)))

    def named(self, name: str) -> list[tuple[int, float]]:
        """A metric's values, each with its step or epoch."""
        return [(step, metrics[name]) for step, metrics in self.logged if name in metrics]


def train(
    section: Training, splits: Path, seed: int = 3
) -> tuple[TrainingHistory, Tensors, list[Epoch], Recorder]:
    replica = build_replica(section, splits, seed)
    kept: list[Epoch] = []
    tracker = Recorder()
    history = fit(replica, section, seed, lambda _, epoch: kept.append(epoch), tracker)
    return history, replica.weights(), kept, tracker


def build_replica(section: Training, splits: Path, seed: int = 3) -> Replica:
    make_deterministic(seed)
    task = load_task(section, splits)
    return Replica(task, task.build_model(), section, torch.device("cpu"), World())


@pytest.fixture
def section(tiny_encoder: Path) -> Training:
    return TextTraining(
        encoder=str(tiny_encoder),
        epochs=4,
        batch_size=8,
        learning_rate=3e-3,
        max_length=16,
        dropout=0.1,
        precision="fp32",
    )


def test_a_model_learns_classes_that_can_be_told_apart(section: Training, tiny_splits: Path) -> None:
    history, _, kept, tracker = train(section, tiny_splits)
    assert history.epochs[-1].training["loss"] < history.epochs[0].training["loss"] / 2
    assert max(epoch.validation["macro_f1"] for epoch in history.epochs) > 0.9
    assert [epoch.epoch for epoch in kept][-1] == history.best_epoch
    assert tracker.named("validation_macro_f1") == [
        (epoch.epoch, epoch.validation["macro_f1"]) for epoch in history.epochs
    ]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(section: Training, tiny_splits: Path) -> None:
    first, second = (train(section, tiny_splits)[1] for _ in range(2))
    other = train(section, tiny_splits, seed=4)[1]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_accumulating_gradients_changes_no_loss(section: Training, tiny_splits: Path) -> None:
    plain = section.model_copy(update={"dropout": 0.0, "epochs": 2})
    accumulated = plain.model_copy(update={"gradient_accumulation": 4})
    losses = [
        [step.loss for step in train(variant, tiny_splits)[0].steps] for variant in (plain, accumulated)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_an_epochs_training_metrics_are_of_the_predictions_that_its_steps_made(
    section: Training, tiny_splits: Path, accumulation: int
) -> None:
    """With next to no learning rate the steps' predictions are those of the model as it was."""
    settings = {"dropout": 0.0, "learning_rate": 1e-12, "epochs": 1, "gradient_accumulation": accumulation}
    still = section.model_copy(update=settings)
    replica = build_replica(still, tiny_splits)
    labels = read_split(tiny_splits, "train")["label"].to_numpy()
    batch = replica.task.training_batch(range(len(labels)), (0, 0))
    with torch.no_grad():
        predicted = replica.task.outputs(replica._module.eval(), batch).argmax(dim=1).numpy()
    training = train(still, tiny_splits)[0].epochs[0].training
    assert training["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    for average in ("macro", "weighted"):
        expected = f1_score(labels, predicted, average=average, zero_division=0)
        assert training[f"{average}_f1"] == pytest.approx(expected)


def test_training_stops_when_the_metric_no_longer_gains(section: Training, tiny_splits: Path) -> None:
    patient = section.model_copy(update={"epochs": 30, "learning_rate": 1e-2})
    history, _, kept, _ = train(patient, tiny_splits)
    assert history.stopped == "early stopping"
    assert len(history.epochs) == history.best_epoch + patient.early_stopping.patience
    assert kept[-1].epoch == history.best_epoch


def test_training_stops_at_its_deadline_and_still_validates(section: Training, tiny_splits: Path) -> None:
    hurried = section.model_copy(
        update={"resources": section.resources.model_copy(update={"max_hours": 1e-9})}
    )
    history, _, kept, _ = train(hurried, tiny_splits)
    assert history.stopped == "max_hours reached"
    assert len(history.steps) == 1
    assert len(kept) == 1


class LittleMemory(TextClassification):
    """A device on which, from a step on, only so many rows fit at once."""

    def __init__(self, section: Training, splits: Path, rows: int, from_step: int) -> None:
        super().__init__(section, splits)
        self._rows, self._passes_left = rows, from_step - 1

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss, tally = super().loss_sum(model, batch)
        self._passes_left -= 1
        if self._passes_left < 0 and len(batch[0]) > self._rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss, tally


def train_with_little_memory(
    section: Training, splits: Path, rows: int, from_step: int = 1
) -> tuple[TrainingHistory, Tensors]:
    make_deterministic(3)
    task = LittleMemory(section, splits, rows, from_step)
    replica = Replica(task, task.build_model(), section, torch.device("cpu"), World())
    return fit(replica, section, 3, lambda *_: None, Recorder()), replica.weights()


def test_out_of_memory_the_micro_batches_are_halved_and_the_batch_stays(
    section: Training, tiny_splits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = section.model_copy(update={"dropout": 0.0, "epochs": 2})
    expected = [step.loss for step in train(plain, tiny_splits)[0].steps]
    history, _ = train_with_little_memory(plain, tiny_splits, rows=3, from_step=5)
    assert history.out_of_memory == [5, 5]  # 8 rows, then 4, then 2
    assert [step.loss for step in history.steps] == pytest.approx(expected, abs=1e-6)
    assert (
        "out of memory at step 5 (CUDA out of memory): micro-batches have up to 4 rows"
        in capsys.readouterr().out
    )


def test_a_step_that_ran_out_of_memory_leaves_no_trace_in_the_bits(
    section: Training, tiny_splits: Path
) -> None:
    """As if the micro-batches had been that small from the start: the masks of dropout are drawn anew."""
    section = section.model_copy(update={"epochs": 1})
    halved = train_with_little_memory(section, tiny_splits, rows=4)[1]
    small = train(section.model_copy(update={"gradient_accumulation": 2}), tiny_splits)[1]
    assert all(torch.equal(halved[name], small[name]) for name in small)


def test_validation_that_does_not_fit_is_cut_finer_too(section: Training, tiny_splits: Path) -> None:
    class LittleMemoryToScore(TextClassification):
        def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            if len(batch[0]) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().outputs(model, batch)

    task = LittleMemoryToScore(section, tiny_splits)
    model = task.build_model()
    cut, confusion = Replica(task, model, section, torch.device("cpu"), World()).validate(1)
    whole = TextClassification(section, tiny_splits)
    expected, whole_confusion = Replica(whole, model, section, torch.device("cpu"), World()).validate(1)
    assert cut == pytest.approx(expected, abs=1e-6)
    assert confusion == whole_confusion


def test_a_single_row_that_does_not_fit_ends_training_with_a_message(
    section: Training, tiny_splits: Path
) -> None:
    with pytest.raises(GauntletError, match=r"out of memory at step 1 with a single row .*max_length"):
        train_with_little_memory(section, tiny_splits, rows=0)


def test_halved_micro_batches_stay_halved_in_the_training_that_goes_on(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    section = section.model_copy(update={"epochs": 1})
    fit(build_replica(section, tiny_splits), section, 3, lambda *_: None, Recorder(), states, halvings=1)
    found = states.newest()
    assert found is not None
    assert found.state.history.out_of_memory == [1]
    longer = section.model_copy(update={"epochs": 2})
    again = fit(
        build_replica(longer, tiny_splits), longer, 3, lambda *_: None, Recorder(), states, halvings=2
    )
    assert again.out_of_memory == [1, 10]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "one_cycle", "reduce_on_plateau", "constant"])
def test_each_step_is_taken_with_the_rate_of_the_schedule(
    section: Training, tiny_splits: Path, schedule: str
) -> None:
    stalled = section.model_copy(update={"schedule": schedule, "learning_rate": 1e-9, "epochs": 3})
    history, *_ = train(
        stalled.model_copy(update={"early_stopping": ClassEarlyStopping(patience=3)}), tiny_splits
    )
    scores = [epoch.validation["macro_f1"] for epoch in history.epochs]
    assert [step.learning_rate for step in history.steps] == [
        learning_rate(stalled, stalled.phases[0], step, 27, scores[: (step - 1) // 9])
        for step in range(1, 28)
    ]
    if schedule == "reduce_on_plateau":  # so small a rate changes no prediction
        assert history.steps[-1].learning_rate == pytest.approx(1e-9 / 2)


def test_biases_and_normalisation_weights_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    decayed, spared = build_optimizer(model, Training(weight_decay=0.5)).param_groups
    assert [p.shape for p in decayed["params"]] == [torch.Size([2, 3])]
    assert (decayed["weight_decay"], spared["weight_decay"], len(spared["params"])) == (0.5, 0.0, 3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_are_clipped_to_a_norm_all_together(
    section: Training, tiny_splits: Path, precision: str
) -> None:
    def gradients(limit: float) -> torch.Tensor:
        settings = {"max_grad_norm": limit, "precision": precision}
        replica = build_replica(section.model_copy(update=settings), tiny_splits)
        if precision == "fp16":  # its first scale overflows here, and such a step is not taken
            replica.set_scaler_state(replica.scaler_state() | {"scale": 8.0})
        replica.step(replica.prepare((3, 1), [MicroBatch(np.arange(8))]), 8, 1e-3)
        moments = [state["exp_avg"].flatten() for state in replica.optimizer.state.values()]
        return torch.cat(moments) / (1 - 0.9)  # after one step the first moment is (1 - beta) × gradient

    free = gradients(math.inf)
    norm = float(free.norm())
    assert norm > 0
    torch.testing.assert_close(gradients(norm / 4), free / 4, rtol=1e-4, atol=1e-5)
    assert torch.equal(gradients(2 * norm), free)


def test_an_epoch_without_a_finite_metric_is_never_kept(section: Training, tiny_splits: Path) -> None:
    exploding = section.model_copy(
        update={
            "learning_rate": 0.99,
            "warmup_fraction": 0.0,
            "max_grad_norm": math.inf,
            "early_stopping": section.early_stopping.model_copy(update={"metric": "loss"}),
        }
    )
    make_deterministic(0)
    task = load_task(exploding, tiny_splits)
    model = task.build_model()
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    kept: list[Epoch] = []
    replica = Replica(task, model, exploding, torch.device("cpu"), World())
    history = fit(replica, exploding, 0, lambda _, epoch: kept.append(epoch), Recorder())
    assert (kept, history.best_epoch) == ([], 0)


def train_with_states(
    section: Training, splits: Path, states: StateStore, preempted: Callable[[], bool] = lambda: False
) -> tuple[TrainingHistory, Tensors, Recorder]:
    replica = build_replica(section, splits)
    tracker = Recorder()
    history = fit(replica, section, 3, lambda *_: None, tracker, states, preempted)
    return history, replica.weights(), tracker


def test_a_training_that_ran_out_of_time_goes_on_in_the_same_bits_when_given_more(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    section = section.model_copy(update={"epochs": 2})
    hurried = section.model_copy(update={"resources": Resources(max_hours=1e-9)})
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    stopped, _, _ = train_with_states(hurried, tiny_splits, states)
    again, _, _ = train_with_states(hurried, tiny_splits, states)
    assert again.stopped == "max_hours reached"
    assert again.steps == stopped.steps
    assert len(stopped.steps) == 1
    assert again.epochs[0].validation["macro_f1"] == stopped.epochs[0].validation["macro_f1"]
    longer, resumed, tracker = train_with_states(section, tiny_splits, states)
    assert longer.stopped == "all epochs done"
    assert [epoch for epoch, _ in tracker.named("validation_macro_f1")] == [1, 2]
    assert [step for step, _ in tracker.named("step/loss")] == list(range(1, 19))
    undisturbed = train(section, tiny_splits)[1]
    assert all(torch.equal(tensor, undisturbed[key]) for key, tensor in resumed.items())


def test_time_spent_before_an_interruption_counts(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    before = LoopState(seconds=7200.0, epoch_seconds=1.0)
    before.take_step(8.0, [8.0] + [0.0] * 8, 8, 8, 1e-3)
    states.save(before, build_replica(section, tiny_splits).snapshot())
    tight = section.model_copy(update={"resources": Resources(max_hours=1.9)})
    history, _, _ = train_with_states(tight, tiny_splits, states)
    assert history.stopped == "max_hours reached"
    assert len(history.steps) == 1
    assert history.seconds > 7200
    roomy = section.model_copy(update={"resources": Resources(max_hours=3), "epochs": 1})
    history, _, _ = train_with_states(roomy, tiny_splits, states)
    assert history.stopped == "all epochs done"
    assert history.seconds > 7200


def test_states_are_written_as_often_as_the_manifest_says(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    plan = Resume(every_steps=7, keep_every_epochs=1)
    states = StateStore(str(tmp_path / "states"), {}, plan)
    train_with_states(section.model_copy(update={"epochs": 2}), tiny_splits, states)
    names = {path.name for path in (tmp_path / "states").iterdir()}
    # 9 steps an epoch: after step 7, at both epochs' ends, and after step 14, the fifth of the second epoch.
    # The first of these is neither among the last two nor an epoch's.
    assert names == {"epoch-0002-batch-000000", "epoch-0002-batch-000005", "epoch-0003-batch-000000"}


def test_an_interrupted_training_ends_after_the_step_under_way(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    with pytest.raises(Preempted, match=r"after step 1\. Its state is in .*states"):
        train_with_states(section, tiny_splits, states, lambda: True)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["epoch-0001-batch-000001"]
