"""The checkpoint folder: weights, configuration, preprocessing, and what they were made from.

`training.json` is written last and deleted first, so a folder that has it is a complete checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gauntlet.backends.storage import replace_folder
from gauntlet.manifests.errors import GauntletError
from gauntlet.tasks.text_classification.network import Attention
from gauntlet.trainer.task import WEIGHTS_FILE, untrained_model

TRAINING_FILE = "training.json"
STUDENT_FOLDER = "student"
"""Inside a checkpoint: that of the student which learned from it."""
OF_A_TASK = ("encoder", "max_length", "frame", "input_shape")


@dataclass(frozen=True)
class TrainingRecord:
    """What a checkpoint was made from: the content of `training.json`.

    Attributes:
        encoder: The pretrained model, where there is one.
        max_length: Where rows are texts: the tokens after which one is cut.
        frame: Of a language model: what stands before and after a single prompt.
        input_shape: Of an image classifier, and of each side of a grader: channels, height, width.
    """

    task: str
    labels: tuple[str, ...]
    seed: int
    epoch: int
    data_sha256: str
    training_sha256: str
    encoder: str = ""
    max_length: int = 0
    frame: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, without the fields of other tasks."""
        return {key: value for key, value in asdict(self).items() if value or key not in OF_A_TASK}


def write_checkpoint(folder: Path, record: TrainingRecord, save_model: Callable[[Path], None]) -> None:
    """Write a checkpoint to a scratch folder, then copy it in place of what is at `folder`.

    Raises:
        GauntletError: It cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="gauntlet-checkpoint-") as scratch:
        written = Path(scratch)
        try:
            save_model(written)
        except SafetensorError as error:  # how the Rust library that writes the weights reports a full disk
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
        content = json.loads(path.read_text(encoding="utf-8"))
        sequences = {key: tuple(content[key]) for key in ("labels", "frame", "input_shape") if key in content}
        return TrainingRecord(**content | sequences)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GauntletError(f"{path}: not a complete checkpoint ({error}). Run the training again.") from None


def load_model(folder: Path, attention: Attention = "sdpa") -> nn.Module:
    """The trained classifier in eval mode, on the CPU; a transformer with the given attention."""
    record = read_record(folder)
    model = untrained_model(record.task, folder, len(record.labels), attention)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return model.eval()
