"""The trained model on disk, a checkpoint: weights, configuration, preprocessing, and a record of its origin.

`training.json` is written last and deleted first, so a folder that has it is a complete checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
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
SHOWN_TENSORS = 4
STUDENT_FOLDER = "student"
"""Inside a checkpoint: the checkpoint of the student that learned from it."""


def write_checkpoint(folder: Path, record: TrainingRecord, save_model: Callable[[Path], None]) -> None:
    """Write a checkpoint, then replace the one at `folder`; a `GauntletError` if the disk is full."""
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
    """Read `training.json`, or raise a `GauntletError` if the folder is no complete checkpoint."""
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
        GauntletError: The weights cannot be read, or are not those of the network.
    """
    record = read_record(folder)
    if record.network_sha256 and code_sha256(record.network) != record.network_sha256:
        raise UsageError(
            f"{folder}: its network is {record.network}, whose code has changed since the training. Train "
            "again, or restore the code."
        )
    untrained = task_kind(record.task).function("training", "untrained_model")
    model: nn.Module = untrained(folder, len(record.labels), attention)
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        raise GauntletError(f"{folder / WEIGHTS_FILE}: cannot be read: {error}") from None
    require_tensors(model, weights, folder / WEIGHTS_FILE)
    model.load_state_dict(weights)
    return model.eval()


def require_tensors(model: nn.Module, weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Raise a `GauntletError` unless the weights of a file have the names and shapes of a model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = {
        "lacks": sorted(expected.keys() - found.keys()),
        "has, but the network does not,": sorted(found.keys() - expected.keys()),
        "has in another shape": [
            f"{name} {found[name]} for {expected[name]}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ],
    }
    said = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise GauntletError(f"{file}: its tensors are not those of its network: it {'; it '.join(said)}.")


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_TENSORS
    return ", ".join(names[:SHOWN_TENSORS]) + (f" and {more} more" if more > 0 else "")
