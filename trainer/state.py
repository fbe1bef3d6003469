"""Where training stands, as one value, and the files that hold it: all that the next step depends on.

The order of an epoch's rows is a function of (seed, epoch), and the counters of early stopping and of the
learning rate's plateau are functions of the history, so neither needs a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from trainer.history import Epoch, History, Step
from trainer.usage import Usage

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
        rows_seen: The rows that are summed in it.
        epoch_seconds: Its training time so far.
        seconds: Time of the whole training, across interruptions.
        history: The validated epochs and all steps.
    """

    epoch: int = 1
    cursor: int = 0
    loss_sum: float = 0.0
    rows_seen: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    history: History = field(default_factory=History)

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of all epochs."""
        return len(self.history.steps)

    def take_step(self, loss_sum: float, rows: int, rate: float, seconds: float) -> None:
        """Count one optimizer step on `rows` rows."""
        self.cursor += 1
        self.loss_sum += loss_sum
        self.rows_seen += rows
        self.epoch_seconds += seconds
        self.history.steps.append(Step(self.steps_taken + 1, loss_sum / rows, rate))

    def start_next_epoch(self) -> None:
        """Go to the start of the epoch after this one."""
        self.epoch += 1
        self.cursor, self.loss_sum, self.rows_seen, self.epoch_seconds = 0, 0.0, 0, 0.0

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`."""
        history = dict(content["history"])
        history["epochs"] = [Epoch(**epoch) for epoch in history["epochs"]]
        history["steps"] = [Step(**step) for step in history["steps"]]
        history["usage"] = Usage(**history["usage"])
        return cls(**{**content, "history": History(**history)})


def write_state(
    folder: Path,
    state: LoopState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprint: Mapping[str, str],
) -> None:
    """Write `STATE_FILES` into an existing folder.

    Raises:
        OSError, SafetensorError: The disk is full, say.
    """
    save_model(model, str(folder / MODEL_FILE))
    save_file(_optimizer_tensors(optimizer), folder / OPTIMIZER_FILE)
    save_file(_random_tensors(_device(model)), folder / RANDOM_FILE)
    content = {"fingerprint": dict(fingerprint), "state": asdict(state)}
    (folder / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")


def read_state(folder: Path) -> tuple[LoopState, dict[str, str]]:
    """The state of the loop and the fingerprint of the run that wrote it.

    Raises:
        OSError, ValueError, KeyError, TypeError: `state.json` is not what `write_state` writes.
    """
    content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return LoopState.from_json(content["state"]), dict(content["fingerprint"])


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put a state's weights into the model, on whatever device it is."""
    load_model(model, str(folder / MODEL_FILE))


def load_tensors(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a state's weights into the model, its moments into the optimizer, and set torch's generators."""
    load_weights(folder, model)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / OPTIMIZER_FILE).items():
        parameter, name = key.split(".", 1)
        moments.setdefault(int(parameter), {})[name] = tensor
    # The groups' hyperparameters are the manifest's, which the fingerprint has shown to be the same.
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    generators = load_file(folder / RANDOM_FILE)
    torch.set_rng_state(generators["cpu"])
    if "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"], _device(model))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{parameter}.{name}": tensor.contiguous()
        for parameter, moments in optimizer.state_dict()["state"].items()
        for name, tensor in moments.items()
    }


def _random_tensors(device: torch.device) -> dict[str, torch.Tensor]:
    """The generators' states, uint8, as torch gives them."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
