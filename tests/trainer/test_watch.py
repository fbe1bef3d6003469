"""What training keeps an eye on, in real trainings of a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.training import Resources, Training
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.trainer.states import LoopState, StateStore
from gauntlet.trainer.watch import UsageMonitor
from tests.trainer.test_loop import Recorder, build_replica, train, train_with_states

HOUR = 3600.0
PRICE = 0.189999 * 1.15  # of n1-standard-4, USD an hour


@pytest.fixture
def section(tiny_encoder: Path) -> Training:
    return TextTraining(encoder=str(tiny_encoder), epochs=1, batch_size=8, learning_rate=3e-3, max_length=16)


def limited(section: Training, **limits: float) -> Training:
    return section.model_copy(update={"resources": Resources(**limits)})


def after_hours(hours: float, section: Training, splits: Path, folder: Path) -> StateStore:
    """The state of a training that took one step in so many hours."""
    states = StateStore(str(folder), {}, section.resume)
    state = LoopState(seconds=hours * HOUR, epoch_seconds=1.0)
    state.take_step(8.0, [], 8, 8, 1e-3)
    states.save(state, build_replica(section, splits).snapshot())
    return states


def test_training_stops_when_its_money_is_spent_and_says_so_and_where_its_state_is(
    section: Training, tiny_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    history, _, _ = train_with_states(limited(section, max_cost_usd=1e-9), tiny_splits, states)
    assert history.stopped == "max_cost reached"
    assert len(history.steps) == 1
    assert len(history.epochs) == 1  # what there is was scored
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["epoch-0001-batch-000001"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("training stops, max_cost reached: ")
    assert lines[-1].endswith(
        f"of 1e-09 USD. Its state is in {tmp_path}/states: with a higher limit the same command resumes"
    )


def test_at_the_threshold_training_warns_once_and_goes_on(
    section: Training, tiny_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = after_hours(8.5, section, tiny_splits, tmp_path / "states")
    history, _, _ = train_with_states(limited(section, max_hours=10), tiny_splits, states)
    assert history.stopped == "all epochs done"
    # 8.5 h of n1-standard-4 are 1.857 USD
    warning = "warning: the training's budget is running out: 8.50 of 10 h, 1.86 of 10 USD\n"
    assert capsys.readouterr().err == warning


def test_below_the_threshold_training_says_nothing(
    section: Training, tiny_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = after_hours(7.9, section, tiny_splits, tmp_path / "states")
    train_with_states(limited(section, max_hours=10), tiny_splits, states)
    assert capsys.readouterr().err == ""


def test_the_threshold_is_the_manifests(
    section: Training, tiny_splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = after_hours(7.9, section, tiny_splits, tmp_path / "states")
    train_with_states(limited(section, max_hours=10, notify_at=0.5), tiny_splits, states)
    assert "7.90 of 10 h" in capsys.readouterr().err


def test_training_that_takes_more_memory_than_it_may_ends_with_its_state_written_down(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    train(section, tiny_splits)  # whatever the first training of a process takes is taken
    before = UsageMonitor(torch.device("cpu")).take()
    limit = before.peak_memory_gb + 0.3
    held = limited(section, max_memory_gb=limit)
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    assert train(held, tiny_splits)[0].stopped == "all epochs done"
    ballast = np.ones(int((limit - before.memory_gb + 0.2) * 1e9), dtype=np.uint8)
    with pytest.raises(GauntletError) as ended:
        train_with_states(held, tiny_splits, states)
    del ballast
    message = str(ended.value)
    assert message.startswith("training: by step 1 it had taken ")
    assert f"training.resources.max_memory_gb is {limit:g}" in message
    assert "gradient_accumulation" in message
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["epoch-0001-batch-000001"]
    history, _, _ = train_with_states(limited(section, max_memory_gb=limit + 1), tiny_splits, states)
    assert history.stopped == "all epochs done"
    assert [step.step for step in history.steps] == list(range(1, 10))


def test_every_step_is_tracked_and_the_machine_and_the_cost_from_time_to_time(
    section: Training, tiny_splits: Path
) -> None:
    history, _, _, tracker = train(section, tiny_splits)
    assert tracker.named("step/loss") == [(step.step, step.loss) for step in history.steps]
    rates = [(step.step, step.learning_rate) for step in history.steps]
    assert tracker.named("step/learning_rate") == rates
    for name in ("system/memory_gb", "system/cpu_utilisation", "step/examples_per_second"):
        assert tracker.named(name)[0][0] == 1
    last, cost = tracker.named("step/cost_usd")[-1]
    assert last == 9
    assert cost == pytest.approx(PRICE * history.seconds / HOUR, rel=0.2)


def test_the_history_sums_up_what_the_machine_did(section: Training, tiny_splits: Path) -> None:
    history, *_ = train(section, tiny_splits)
    usage = history.usage
    assert usage.rows == 72
    assert usage.step_seconds <= usage.seconds <= history.seconds * 1.05
    assert usage.examples_per_second == pytest.approx(history.epochs[0].examples_per_second)
    assert usage.peak_memory_gb is not None and usage.peak_memory_gb > 0.1
    assert usage.gpu_utilisation is None


def test_what_the_machine_did_before_an_interruption_is_summed_up_too(
    section: Training, tiny_splits: Path, tmp_path: Path
) -> None:
    states = StateStore(str(tmp_path / "states"), {}, section.resume)
    hurried, _, _ = train_with_states(limited(section, max_hours=1e-9), tiny_splits, states)
    assert hurried.usage.rows == 8
    whole, _, tracker = train_with_states(section, tiny_splits, states)
    assert whole.usage.rows == 72
    assert isinstance(tracker, Recorder)
