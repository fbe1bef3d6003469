"""One training run: from validated splits to a checkpoint and its history."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backends.prices import hourly_rate
from backends.tracking import open_tracking
from manifests.errors import GauntletError
from manifests.schema import Training, canonical_json
from manifests.section import Section
from trainer.checkpoint import TrainingRecord, write_checkpoint
from trainer.device import choose_device, describe, make_deterministic
from trainer.history import Epoch, History
from trainer.loop import fit
from trainer.preemption import noticing_sigterm
from trainer.splits import read_labels, read_statistics
from trainer.state_store import StateStore
from trainer.tasks import load_task
from trainer.vertex_trial import vertex_trial


@dataclass(frozen=True)
class TrainingRun:
    """What to train and where its outputs go.

    Attributes:
        tracking_uri: Where metrics go; empty: nowhere.
        checkpoint_uri: Where training states go, a path or any URI that fsspec opens, and from where training
            goes on when it was interrupted; empty: nowhere, and an interrupted training starts anew.
        tensorboard_dir: Where scalars go, a path or `gs://`; empty: nowhere.
    """

    section: Training
    name: str
    task: str
    seed: int
    splits: Path
    checkpoint: Path
    tracking_uri: str = ""
    checkpoint_uri: str = field(default_factory=lambda: os.environ.get("AIP_CHECKPOINT_DIR", ""))
    tensorboard_dir: str = field(default_factory=lambda: os.environ.get("AIP_TENSORBOARD_LOG_DIR", ""))


def train(run: TrainingRun) -> dict[str, Any]:
    """Train, keep the best epoch's checkpoint at `run.checkpoint`, and return the history as JSON.

    To be called in the main thread, since SIGTERM is noticed there.

    Raises:
        Preempted: SIGTERM came; the step under way was finished and the state written down.
        UsageError: The encoder, the device or the splits are not to be had.
        GauntletError: No epoch gave a finite validation metric.
    """
    device = choose_device(run.section.compute_target)
    make_deterministic(run.seed)
    task = load_task(run.task, run.section, run.splits)
    model = task.build_model().to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    where = describe(device, run.section)
    print(f"{len(task.train_lengths)} rows, {parameters / 1e6:.1f} M parameters, {where}", flush=True)

    def keep(model: nn.Module, epoch: Epoch) -> None:
        record = TrainingRecord(
            task=run.task,
            labels=read_labels(run.splits),
            encoder=run.section.encoder,
            max_length=run.section.max_length,
            seed=run.seed,
            epoch=epoch.epoch,
            data_sha256=read_statistics(run.splits)["sha256"],
            training_sha256=section_sha256(run.section),
        )
        write_checkpoint(run.checkpoint, record, lambda folder: task.save(model, folder))

    states = None
    if run.checkpoint_uri:
        states = StateStore(run.checkpoint_uri, fingerprint(run, device), run.section.checkpoints)
    tracking = vertex_trial(run.section.early_stopping.metric) or open_tracking(
        run.tracking_uri, run.name, run_name(run), {"task": run.task}
    )
    with tracking as tracker:
        tracker.log_params(flatten(run.section.model_dump(mode="json")) | {"seed": str(run.seed)})
        with noticing_sigterm() as preempted:
            history = fit(task, model, run.section, run.seed, device, keep, tracker, states, preempted)
    if history.best_epoch == 0:
        raise GauntletError(
            f"training: no epoch gave a finite {run.section.early_stopping.metric}; the last training loss "
            f"was {history.epochs[-1].train_loss}. "
            f"Lower training.learning_rate, which is {run.section.learning_rate:g}."
        )
    if run.tensorboard_dir:
        write_tensorboard(history, run.tensorboard_dir)
    rate = hourly_rate(run.section.resources)
    return history.to_json() | {
        "device": where,
        "parameters": parameters,
        "machine": machine_name(run.section),
        "usd_per_hour": rate,
        "cost_usd": rate * history.seconds / 3600,
        "host": platform.node(),
    }


def fingerprint(run: TrainingRun, device: torch.device) -> dict[str, str]:
    """All that an optimizer step depends on beside the state: what must not change when training goes on.

    Time and money, and how often a state is written, may change.
    """
    settings = run.section.model_dump(mode="json", exclude={"resources", "checkpoints", "compute_target"})
    return flatten({"training": settings}) | {
        "task": run.task,
        "seed": str(run.seed),
        "the data's sha256": read_statistics(run.splits)["sha256"],
        "the device": device.type,
    }


def section_sha256(section: Section) -> str:
    """Hash of a section's content, defaults included."""
    return hashlib.sha256(canonical_json(section).encode()).hexdigest()


def machine_name(section: Training) -> str:
    """The machine that the manifest buys, which is what the cost is reckoned with on any machine."""
    resources = section.resources
    if resources.accelerator_type is None:
        return resources.machine_type
    return f"{resources.machine_type} + {resources.accelerator_count} × {resources.accelerator_type}"


def run_name(run: TrainingRun) -> str:
    """`{name}-{encoder}-{timestamp}` in UTC."""
    encoder = run.section.encoder.rstrip("/").rsplit("/", 1)[-1]
    return f"{run.name}-{encoder}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as text: the form that trackers take."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def write_tensorboard(history: History, folder: str) -> None:
    """Write the history as TensorBoard scalars, to a path or `gs://`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step in history.steps:
            writer.add_scalar("train/loss", step.loss, step.step)
            writer.add_scalar("train/learning_rate", step.learning_rate, step.step)
        for epoch in history.epochs:
            for key, value in asdict(epoch).items():
                writer.add_scalar(f"epoch/{key}", value, epoch.epoch)
