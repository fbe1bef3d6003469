from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

from gauntlet.backends import storage
from gauntlet.contracts.training import Epoch, Step, TrainingHistory
from gauntlet.manifests import training
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.training import Resume
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica
from gauntlet.trainer.states import LoopState, Position, StateStore, expendable


def epoch_of(number: int, training: dict[str, float], validation: dict[str, float]) -> Epoch:
    return Epoch(
        epoch=number, training=training, validation=validation, examples_per_second=50.0, seconds=0.1
    )


FINGERPRINT = {"training.learning_rate": "0.01", "seed": "3"}


class NoRows:
    """A task of which no test here asks more than this."""

    validation_batch_size = 1
    uses_cpu_kernels = False


class Training:
    """A model with dropout that takes steps, and the store that its states go to."""

    def __init__(self, uri: str, fingerprint: dict[str, str] = FINGERPRINT, **plan: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.LayerNorm(8))
        section = training.Training()
        self.replica = Replica(NoRows(), self.model, section, torch.device("cpu"), World())
        self.store = StateStore(uri, fingerprint, Resume(**plan))
        self.state = LoopState()
        self.kept: list[tuple[int, torch.Tensor]] = []

    def step(self) -> None:
        self.replica.optimizer.zero_grad()
        self.model(torch.ones(5, 4)).pow(3).sum().backward()
        self.replica.optimizer.step()
        self.state.take_step(1.5, [2.0, 3.0], 5, 15, 0.01)

    def end_epoch(self, best: bool = True) -> None:
        number = self.state.epoch
        self.state.history.epochs.append(epoch_of(number, {"loss": 0.3}, {"loss": 0.4}))
        self.state.history.best_epoch = number if best else self.state.history.best_epoch
        self.state.start_next_epoch()
        self.save()

    def save(self) -> None:
        self.store.save(self.state, self.replica.snapshot())

    def resume(self) -> LoopState:
        found = self.store.newest()
        if found:
            self.replica.restore(found.snapshot)
            self.state = found.state
            self.kept += [(epoch, weights["0.weight"]) for epoch, weights in found.best_weights.items()]
        return self.state

    def weights(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self.model.state_dict().values()]


@pytest.fixture(params=["path", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(tmp_path / "states")
    else:
        yield "memory://states/run"
        fsspec.filesystem("memory").store.clear()


def names(uri: str) -> tuple[str, ...]:
    return storage.list_folders(uri)


def edit(uri: str, change: Callable[[bytes], bytes]) -> None:
    files, path = fsspec.core.url_to_fs(uri)
    files.pipe_file(path, change(files.cat_file(path)))


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def two_states(uri: str) -> tuple[str, str]:
    training = Training(uri)
    for _ in range(2):
        training.step()
        training.save()
    older, newer = names(uri)
    return storage.join(uri, older), storage.join(uri, newer)


def test_training_goes_on_in_the_same_bits(uri: str) -> None:
    straight = Training(uri)
    straight.step()
    straight.save()
    straight.step()
    resumed = Training(uri)
    torch.manual_seed(99)
    state = resumed.resume()
    assert (state.epoch, state.cursor, state.loss_sum, state.rows_seen) == (1, 1, 1.5, 5)
    assert (state.tally, state.train_loss) == ([2.0, 3.0], 0.1)
    resumed.step()
    assert_same(straight.weights(), resumed.weights())


def test_a_state_survives_json_bit_for_bit() -> None:
    history = TrainingHistory(
        steps=[Step(step=1, loss=1e-17, learning_rate=2e-5)],
        out_of_memory=[1],
        best_epoch=2,
        confusion=[[5, 1], [0, 2]],
    )
    state = LoopState(3, 7, 0.1 + 0.2, 60, [4.0, 1.0], 56, 1 / 3, 2 / 3, {"scale": 2.0**16}, history)
    state.history.epochs.append(epoch_of(1, {"loss": 0.1}, {"loss": 0.2, "macro_f1": 0.3}))
    assert LoopState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.safetensors", lambda written: written[:-1], "model.safetensors is not the file that"),
        ("optimizer.safetensors", lambda written: written[:-1] + b"?", "optimizer.safetensors is not the"),
        ("state.json", lambda written: written.replace(b"3.0", b"3.5"), "state.json is not the file"),
        ("manifest.json", lambda written: written[:20], "not a training state"),
        ("manifest.json", lambda _: b'{"format": "another program"}', "is not that of a gauntlet"),
        ("manifest.json", lambda _: b'{"format": "gauntlet-training-state-2"}', "not a training state"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused_and_the_one_before_it_used(
    uri: str, capsys: pytest.CaptureFixture[str], file: str, change: Callable[[bytes], bytes], words: str
) -> None:
    _, newer = two_states(uri)
    edit(storage.join(newer, file), change)
    assert Training(uri).resume().steps_taken == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {newer}: ")
    assert words in warning


@pytest.mark.parametrize("file", ["manifest.json", "random.safetensors"])
def test_a_state_that_lacks_a_file_does_not_count(
    uri: str, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    older, newer = two_states(uri)
    files, path = fsspec.core.url_to_fs(newer)
    files.rm_file(f"{path}/{file}")
    assert Training(uri).resume().steps_taken == 1
    assert f"{file} is missing; trying the one before it" in capsys.readouterr().err
    storage.delete(older, first="manifest.json")
    assert Training(uri).resume().steps_taken == 0
    assert "training starts anew" in capsys.readouterr().err


def test_a_refused_state_is_replaced_by_the_one_that_training_writes_there_again(uri: str) -> None:
    _, newer = two_states(uri)
    edit(storage.join(newer, "state.json"), lambda _: b"{}")
    again = Training(uri)
    again.resume()
    again.step()
    again.save()
    assert Training(uri).resume().steps_taken == 2


def test_a_state_of_other_settings_is_a_mistake_that_names_them(uri: str) -> None:
    two_states(uri)
    other = Training(uri, {"training.learning_rate": "0.02", "seed": "3"})
    with pytest.raises(UsageError, match=r"training.learning_rate was 0.01 and is 0.02\. .*another folder"):
        other.resume()


def test_the_best_weights_of_each_phase_are_handed_over_however_old(uri: str) -> None:
    training = Training(uri)
    training.step()
    first = training.weights()[0]
    training.end_epoch()
    for is_best in (True, False, False):
        training.state.history.earlier_best = [1]
        training.step()
        training.end_epoch(best=is_best)
    resumed = Training(uri)
    resumed.resume()
    assert [epoch for epoch, _ in resumed.kept] == [1, 2]
    assert torch.equal(resumed.kept[0][1], first)


def test_the_best_weights_are_handed_over_before_training_goes_on(uri: str) -> None:
    training = Training(uri)
    training.step()
    best = training.weights()[0]
    training.end_epoch()
    for _ in range(2):
        training.step()
        training.end_epoch(best=False)
    resumed = Training(uri)
    assert resumed.resume().epoch == 4
    assert [epoch for epoch, _ in resumed.kept] == [1]
    assert torch.equal(resumed.kept[0][1], best)
    assert_same(resumed.weights(), training.weights())


def test_without_the_best_epochs_weights_a_state_cannot_be_used(uri: str) -> None:
    training = Training(uri)
    for best in (True, False, True):
        training.step()
        training.end_epoch(best)
    # The newest is damaged; the one before it needs the best of its own time, which is still there.
    edit(storage.join(uri, "epoch-0004-batch-000000/state.json"), lambda _: b"")
    resumed = Training(uri)
    assert resumed.resume().epoch == 3
    assert [epoch for epoch, _ in resumed.kept] == [1]
    edit(storage.join(uri, "epoch-0002-batch-000000/model.safetensors"), lambda _: b"")
    assert Training(uri).resume().epoch == 1


def test_the_last_two_the_best_and_every_nth_epochs_states_are_kept(uri: str) -> None:
    training = Training(uri, keep_every_epochs=3)
    for epoch in range(1, 9):
        training.step()
        training.save()
        training.step()
        training.end_epoch(best=epoch == 2)
    assert names(uri) == (
        "epoch-0003-batch-000000",
        "epoch-0004-batch-000000",
        "epoch-0007-batch-000000",
        "epoch-0008-batch-000001",
        "epoch-0009-batch-000000",
    )


def test_what_lies_after_the_newest_state_is_out_of_date() -> None:
    at = [Position(2, 0), Position(2, 4), Position(2, 8), Position(3, 0)]
    assert expendable(at, Position(2, 4), {1}, None) == [Position(2, 8), Position(3, 0)]


def test_a_state_is_due_after_every_so_many_steps(tmp_path: Path) -> None:
    training = Training(str(tmp_path), every_steps=2)
    due = []
    for _ in range(4):
        training.step()
        due.append(training.store.due(training.state.steps_taken))
    assert due == [False, True, False, True]
    assert not Training(str(tmp_path)).store.due(training.state)


def test_a_full_disk_leaves_the_older_state_and_one_message(tmp_path: Path) -> None:
    uri = str(tmp_path / "states")
    training = Training(uri)
    training.step()
    training.save()
    training.step()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # bytes: less than any file of weights
    try:
        with pytest.raises(GauntletError, match=r"could not be written .* intact"):
            training.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in Path(uri).iterdir()] == ["epoch-0001-batch-000001"]
    assert Training(uri).resume().steps_taken == 1


def test_folders_of_other_names_are_left_alone(tmp_path: Path) -> None:
    two_states(str(tmp_path))
    (tmp_path / "zebra").mkdir()
    again = Training(str(tmp_path))
    assert again.resume().steps_taken == 2
    again.step()
    again.save()
    assert (tmp_path / "zebra").is_dir()


def test_an_incomplete_state_takes_no_complete_ones_place(uri: str) -> None:
    training = Training(uri)
    training.step()
    training.save()
    [spare] = names(uri)
    training.step()
    training.save()
    killed = storage.join(uri, names(uri)[1])
    storage.delete(killed, first="manifest.json")
    files, path = fsspec.core.url_to_fs(killed)
    files.makedirs(path, exist_ok=True)
    files.pipe_file(f"{path}/state.json", b"{")  # as a process leaves it that was killed while it wrote
    training.step()
    training.save()
    assert names(uri)[0] == spare
    assert len(names(uri)) == 2
