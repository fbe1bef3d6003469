"""The checkpoint folder: weights, configuration, preprocessing, and what they were made from.

It is written under a temporary name and renamed, so a checkpoint is complete or absent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from manifests.errors import GauntletError
from trainer.encoder import Attention, load_encoder
from trainer.tasks.text_classification import TextClassifier

TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class TrainingRecord:
    """What a checkpoint was made from: the content of `training.json`."""

    task: str
    labels: tuple[str, ...]
    encoder: str
    max_length: int
    seed: int
    epoch: int
    data_sha256: str
    training_sha256: str


def write_checkpoint(folder: Path, record: TrainingRecord, save_model: Callable[[Path], None]) -> None:
    """Write a checkpoint; an older one at `folder` is replaced when the new one is complete.

    Raises:
        GauntletError: The weights cannot be written.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_model(temporary)
    except SafetensorError as error:  # what a full disk is to the Rust library that writes the weights
        shutil.rmtree(temporary, ignore_errors=True)
        raise GauntletError(
            f"{folder}: the weights could not be written ({error}). Free some disk space, then run again."
        ) from None
    (temporary / TRAINING_FILE).write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def read_record(folder: Path) -> TrainingRecord:
    """Read `training.json`.

    Raises:
        GauntletError: The folder holds no complete checkpoint.
    """
    path = folder / TRAINING_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainingRecord(**{**content, "labels": tuple(content["labels"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GauntletError(f"{path}: not a complete checkpoint ({error}). Run the training again.") from None


def load_model(folder: Path, attention: Attention = "sdpa") -> TextClassifier:
    """The trained classifier in eval mode, on the CPU, with the given attention implementation."""
    labels = read_record(folder).labels
    encoder = load_encoder(folder, attention, pretrained=False)
    model = TextClassifier(encoder, encoder.config.hidden_size, len(labels))  # type: ignore[arg-type, union-attr]
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
