"""The training loop: epochs of optimizer steps, validation, early stopping, a deadline.

Everything random derives from the seed: torch's global generator (initialisation, dropout) and the order
of the batches, a function of (seed, epoch). On one machine the same seed gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Protocol

import torch
from torch import nn

from manifests.schema import Training
from trainer.batching import micro_batches, training_batches
from trainer.history import Epoch, History, Step
from trainer.progress import Progress
from trainer.schedule import learning_rate
from trainer.tasks import Task


class Tracker(Protocol):
    """Where metrics go while training; see `backends.tracking`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch."""


def fit(
    task: Task,
    model: nn.Module,
    section: Training,
    seed: int,
    device: torch.device,
    keep: Callable[[nn.Module, Epoch], None],
    tracker: Tracker,
) -> History:
    """Train `model` in place; `keep` is called with it after each epoch that is the best so far.

    The loss of an optimizer step is the mean over its rows however they are cut into micro-batches.
    """
    history = History()
    optimizer = build_optimizer(model, section)
    batches_per_epoch = math.ceil(len(task.train_lengths) / section.batch_size)
    total_steps = section.epochs * batches_per_epoch
    progress = Progress(section.epochs, batches_per_epoch)
    started = time.monotonic()
    deadline = started + section.resources.max_hours * 3600
    epochs_without_gain = 0

    for number in range(1, section.epochs + 1):
        model.train()
        epoch_started = time.monotonic()
        loss_sum, rows_seen = 0.0, 0
        batches = training_batches(task.train_lengths, section.batch_size, seed, number)
        for at, batch in enumerate(batches, start=1):
            step = (number - 1) * batches_per_epoch + at
            scores = [epoch.score(section.early_stopping.metric) for epoch in history.epochs]
            rate = learning_rate(section, step, total_steps, scores)
            batch_loss = _optimizer_step(task, model, optimizer, batch, rate, section, device)
            loss_sum += batch_loss
            rows_seen += len(batch)
            history.steps.append(Step(step, batch_loss / len(batch), rate))
            progress.step(number, at, loss_sum / rows_seen, len(batch))
            if time.monotonic() > deadline:
                history.stopped = "max_hours reached"
                break
        trained_seconds = time.monotonic() - epoch_started
        epoch = _validate(task, model, device, number, loss_sum / rows_seen, rows_seen, trained_seconds)
        history.epochs.append(epoch)
        tracker.log_metrics({key: float(value) for key, value in asdict(epoch).items()}, epoch.epoch)
        if _better(epoch, history, section.early_stopping.metric):
            history.best_epoch = number
            epochs_without_gain = 0
            keep(model, epoch)
        else:
            epochs_without_gain += 1
        progress.epoch(epoch, best=history.best_epoch == number)
        if history.stopped == "max_hours reached":
            break
        if epochs_without_gain >= section.early_stopping.patience:
            history.stopped = "early stopping"
            break
    history.seconds = time.monotonic() - started
    return history


def build_optimizer(model: nn.Module, section: Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019) without weight decay on biases and normalisation weights."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=section.learning_rate, fused=True)


def _optimizer_step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: list[int],
    rate: float,
    section: Training,
    device: torch.device,
) -> float:
    """One update from a batch's rows; returns the loss summed over them."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for rows in micro_batches(batch, section.gradient_accumulation):
        with torch.autocast(device.type, torch.bfloat16, enabled=section.precision == "bf16"):
            loss = task.loss_sum(model, rows, device)
        (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), section.max_grad_norm)
    optimizer.step()
    return float(total)


def _validate(
    task: Task,
    model: nn.Module,
    device: torch.device,
    number: int,
    train_loss: float,
    rows: int,
    trained_seconds: float,
) -> Epoch:
    model.eval()
    started = time.monotonic()
    with torch.inference_mode():
        metrics = task.validate(model, device)
    return Epoch(
        epoch=number,
        train_loss=train_loss,
        validation_loss=metrics["loss"],
        macro_f1=metrics["macro_f1"],
        weighted_f1=metrics["weighted_f1"],
        accuracy=metrics["accuracy"],
        examples_per_second=rows / trained_seconds,
        seconds=trained_seconds + time.monotonic() - started,
    )


def _better(epoch: Epoch, history: History, metric: str) -> bool:
    """Whether this epoch beats the best before it; a tie does not, and neither does NaN."""
    best = max((earlier.score(metric) for earlier in history.epochs[:-1]), default=-math.inf)
    return epoch.score(metric) > best
