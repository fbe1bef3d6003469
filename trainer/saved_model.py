"""The trained model on disk, a checkpoint: weights, configuration, preprocessing, and a record of its origin.

`training.json` is written last and deleted first, so a folder that has it is a complete checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gauntlet.backends.storage import replace_folder
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.own_code import code_sha256
from gauntlet.trainer.task import WEIGHTS_FILE

TRAINING_FILE = "training.json"
STUDENT_FOLDER = "student"
"""Inside a checkpoint: the checkpoint of the student that learned from it."""


def write_checkpoint(folder: Path, record: TrainingRecord, save_model: Callable[[Path], None]) -> None:
    """Write a checkpoint to a scratch folder, then replace the one at `folder` by it.

    Raises:
        GauntletError: It cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="gauntlet-checkpoint-") as scratch:
        written = Path(scratch)
        try:
            save_model(written)
        except SafetensorError as error:  # the Rust library's error for a full disk
            raise GauntletError(
                f"{folder}: the weights could not be written ({error}). Free some disk space, then run again."
            ) from None
        (written / TRAINING_FILE).write_text(json.dumps(record.as_json(), indent=2), encoding="utf-8")
        replace_folder(written, str(folder), last=TRAINING_FILE)


def read_record(folder: Path) -> TrainingRecord:
    """Read `training.json`.

    Raises:
        GauntletError: The folder holds no complete checkpoint.
    """
    path = folder / TRAINING_FILE
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GauntletError(f"{path}: not a complete checkpoint ({error}). Run the training again.") from None


def load_model(folder: Path, attention: str = "sdpa") -> nn.Module:
    """The trained model in eval mode, on the CPU.

    Args:
        folder: A checkpoint.
        attention: Of a transformer: `sdpa` or `eager`. Other models ignore it.

    Raises:
        UsageError: The model is a network of the user's own, and its code has changed or is missing.
    """
    record = read_record(folder)
    if record.network_sha256 and code_sha256(record.network) != record.network_sha256:
        raise UsageError(
            f"{folder}: its network is {record.network}, whose code has changed since the training. Train "
            "again, or restore the code."
        )
    untrained = task_kind(record.task).function("training", "untrained_model")
    model: nn.Module = untrained(folder, len(record.labels), attention)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.eval()
