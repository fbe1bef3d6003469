"""Where training stands, as one value, and the files that hold it: all that the next step depends on.

The order of an epoch's rows is a function of (seed, epoch), and the counters of early stopping and of the
learning rate's plateau are functions of the history, so neither needs a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file

from gauntlet.trainer.history import Epoch, History, Step
from gauntlet.trainer.replica import Snapshot, Tensors
from gauntlet.trainer.usage import Usage

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
STATE_FILE = "state.json"
STATE_FILES = (MODEL_FILE, OPTIMIZER_FILE, RANDOM_FILE, STATE_FILE)


@dataclass
class LoopState:
    """Where the training loop stands between two optimizer steps.

    Attributes:
        epoch: The epoch being trained, from 1; one more than the last when all are done.
        cursor: How many of its batches are done.
        loss_sum: Its training loss so far, summed over rows.
        weight_seen: How many losses are summed in it, each by its weight.
        tally: What its training metrics are made of, summed over the same rows; empty before the first step.
        rows_seen: The rows that all three are of.
        epoch_seconds: Its training time so far.
        seconds: Time of the whole training, across interruptions.
        scaler: The loss scale of fp16.
        history: The validated epochs and all steps.
    """

    epoch: int = 1
    cursor: int = 0
    loss_sum: float = 0.0
    weight_seen: float = 0
    tally: list[float] = field(default_factory=list)
    rows_seen: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=History)

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of all epochs."""
        return len(self.history.steps)

    @property
    def train_loss(self) -> float:
        """The epoch's mean so far."""
        return self.loss_sum / self.weight_seen

    def take_step(
        self, loss_sum: float, tally: Sequence[float], rows: int, weight: float, rate: float
    ) -> None:
        """Count one optimizer step on `rows` rows, of which `weight` losses are summed."""
        self.cursor += 1
        self.loss_sum += loss_sum
        self.weight_seen += weight
        self.tally = [a + b for a, b in zip_longest(self.tally, tally, fillvalue=0.0)]
        self.rows_seen += rows
        self.history.steps.append(Step(self.steps_taken + 1, loss_sum / weight, rate))

    def start_next_epoch(self) -> None:
        """Go to the start of the epoch after this one."""
        self.epoch += 1
        self.cursor, self.loss_sum, self.weight_seen, self.rows_seen, self.epoch_seconds = 0, 0.0, 0, 0, 0.0
        self.tally = []

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        history = dict(content["history"])
        history["epochs"] = [Epoch(**epoch) for epoch in history["epochs"]]
        history["steps"] = [Step(**step) for step in history["steps"]]
        history["usage"] = Usage(**history["usage"])
        return cls(**{**content, "history": History(**history)})


def write_state(folder: Path, state: LoopState, snapshot: Snapshot, fingerprint: Mapping[str, str]) -> None:
    """Write `STATE_FILES` into an existing folder.

    Raises:
        OSError, SafetensorError: The disk is full, say.
    """
    save_file(snapshot.model, folder / MODEL_FILE)
    save_file(snapshot.optimizer, folder / OPTIMIZER_FILE)
    save_file(snapshot.generators, folder / RANDOM_FILE)
    content = {"fingerprint": dict(fingerprint), "state": asdict(state)}
    (folder / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")


def read_state(folder: Path) -> tuple[LoopState, dict[str, str]]:
    """The state of the loop and the fingerprint of the run that wrote it.

    Raises:
        OSError, ValueError, KeyError, TypeError: `state.json` is not what `write_state` writes.
    """
    content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return LoopState.from_json(content["state"]), dict(content["fingerprint"])


def read_weights(folder: Path) -> Tensors:
    """A state's weights."""
    weights: Tensors = load_file(folder / MODEL_FILE)
    return weights


def read_snapshot(folder: Path) -> Snapshot:
    """A state's tensors."""
    return Snapshot(read_weights(folder), load_file(folder / OPTIMIZER_FILE), load_file(folder / RANDOM_FILE))
