from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.errors import GauntletError
from gauntlet.trainer.saved_model import read_record, write_checkpoint


def record(epoch: int) -> TrainingRecord:
    return TrainingRecord(
        task="text_classification",
        labels=("calm", "glad"),
        seed=1,
        epoch=epoch,
        data_sha256="d" * 64,
        training_sha256="t" * 64,
    )


def weights(size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(bytes(size))


def test_a_checkpoint_replaces_an_older_one_file_by_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", record(1), weights(3))
    (tmp_path / "checkpoint" / "phase1_best.safetensors").touch()
    write_checkpoint(tmp_path / "checkpoint", record(2), weights(4))
    assert read_record(tmp_path / "checkpoint").epoch == 2
    names = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert names == ["model.safetensors", "training.json"]


def test_weights_that_cannot_be_made_leave_the_older_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", record(1), weights(3))

    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "checkpoint", record(2), fail)
    assert read_record(tmp_path / "checkpoint").epoch == 1


def test_a_checkpoint_that_is_cut_short_does_not_read_as_the_older_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", record(1), weights(3))
    scratch_takes_it = weights(100_000)

    def limit_what_follows(folder: Path) -> None:
        scratch_takes_it(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(GauntletError, match=r"Make room"):
            write_checkpoint(tmp_path / "checkpoint", record(2), limit_what_follows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(GauntletError, match="not a complete checkpoint"):
        read_record(tmp_path / "checkpoint")
