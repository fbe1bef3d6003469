"""The training loop: epochs of optimizer steps, validation, early stopping, a deadline, interruptions.

Everything random derives from the seed: torch's global generator (initialisation, dropout) and the order
of the batches, a function of (seed, epoch). On one machine the same seed gives the same bits, and so does a
run that was interrupted: all that a step depends on is the model, the optimizer, torch's generator and
`LoopState`, and `StateStore` writes all four down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from manifests.errors import GauntletError, Preempted
from manifests.schema import Training
from trainer.batching import micro_batches, training_batches
from trainer.history import Epoch, History, StopReason
from trainer.progress import Progress
from trainer.schedule import learning_rate
from trainer.state import LoopState
from trainer.state_store import StateStore
from trainer.tasks import Task
from trainer.watch import Tracker, Watch


def fit(
    task: Task,
    model: nn.Module,
    section: Training,
    seed: int,
    device: torch.device,
    keep: Callable[[nn.Module, Epoch], None],
    tracker: Tracker,
    states: StateStore | None = None,
    preempted: Callable[[], bool] = lambda: False,
) -> History:
    """Train `model` in place; `keep` is called with it after each epoch that is the best so far.

    The loss of an optimizer step is the mean over its rows however they are cut into micro-batches. With
    `states`, training goes on from the newest state there, and `keep` is first called with the best weights
    so far. `preempted` says whether to end after the step under way.

    Raises:
        Preempted: It did, and the state after that step is written down, if `states` is given.
        UsageError: `states` holds those of a run with other settings, or the machine has no price.
        GauntletError: A state cannot be written or read, or training took more memory than it may; then the
            state is written down.
    """
    optimizer = build_optimizer(model, section)
    state = states.resume(model, optimizer, keep) if states else LoopState()
    loop = _Loop(task, model, optimizer, section, seed, device, keep, tracker, states, preempted, state)
    return loop.run()


def build_optimizer(model: nn.Module, section: Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019) without weight decay on biases and normalisation weights."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=section.learning_rate, fused=True)


@dataclass
class _Loop:
    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    section: Training
    seed: int
    device: torch.device
    keep: Callable[[nn.Module, Epoch], None]
    tracker: Tracker
    states: StateStore | None
    preempted: Callable[[], bool]
    state: LoopState

    def __post_init__(self) -> None:
        self._began = time.monotonic() - self.state.seconds
        self._steps_per_epoch = math.ceil(len(self.task.train_lengths) / self.section.batch_size)
        resources, uri = self.section.resources, self.states.uri if self.states else None
        self._watch = Watch(
            resources, self.state.history, self.tracker, self.device, self._seconds, states=uri
        )
        self._progress = Progress(self.section.epochs, self._steps_per_epoch, self.state.steps_taken)

    def run(self) -> History:
        """Go on from `state` to the end."""
        state, history, patience = self.state, self.state.history, self.section.early_stopping.patience
        for epoch in history.epochs:  # a tracker's curves begin at epoch 1, also in the run that goes on
            self._track(epoch)
        for step in history.steps:
            self._watch.track(step)
        spent: StopReason | None = None
        while spent is None and state.epoch <= self.section.epochs and history.epochs_without_gain < patience:
            spent = self._train_epoch()
            if state.rows_seen:
                self._validate()
            if spent is None:
                state.start_next_epoch()
                self._save()
        if spent is not None:
            history.stopped = spent
        elif history.epochs_without_gain >= patience:
            history.stopped = "early stopping"
        history.seconds = self._seconds()
        self._watch.finish()
        return history

    def _train_epoch(self) -> StopReason | None:
        """Take the steps that are left of the epoch; why not all, when the budget is used before its end.

        One step is always taken, for a training that takes none leaves no model.
        """
        state = self.state
        self.model.train()
        batches = training_batches(self.task.train_lengths, self.section.batch_size, self.seed, state.epoch)
        spent = self._watch.stop_reason() if state.steps_taken else None
        for batch in batches[state.cursor :]:
            if spent:
                return spent
            self._step(batch)
            self._progress.step(state.epoch, state.cursor, state.loss_sum / state.rows_seen, len(batch))
            # After an epoch's last step its validation follows, and then a state that holds the result.
            spent = self._watch.stop_reason()
            due = spent or (self.states is not None and self.states.due(state))
            if self.preempted() or self._watch.over_memory or (due and state.cursor < len(batches)):
                self._save()
        return None

    def _step(self, batch: list[int]) -> None:
        """One update from a batch's rows."""
        started = time.monotonic()
        total_steps = self.section.epochs * self._steps_per_epoch
        scores = [epoch.score(self.section.early_stopping.metric) for epoch in self.state.history.epochs]
        rate = learning_rate(self.section, self.state.steps_taken + 1, total_steps, scores)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for rows in micro_batches(batch, self.section.gradient_accumulation):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.section.precision == "bf16"):
                loss = self.task.loss_sum(self.model, rows, self.device)
            (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.section.max_grad_norm)
        self.optimizer.step()
        seconds = time.monotonic() - started
        self.state.take_step(float(total), len(batch), rate, seconds)
        self._watch.step(len(batch), seconds)

    def _validate(self) -> None:
        """Score the epoch, or what there is of it, and keep its weights when it is the best so far."""
        state, history, metric = self.state, self.state.history, self.section.early_stopping.metric
        started = time.monotonic()
        self.model.eval()
        with torch.inference_mode():
            metrics = self.task.validate(self.model, self.device)
        epoch = Epoch(
            epoch=state.epoch,
            train_loss=state.loss_sum / state.rows_seen,
            validation_loss=metrics["loss"],
            macro_f1=metrics["macro_f1"],
            weighted_f1=metrics["weighted_f1"],
            accuracy=metrics["accuracy"],
            examples_per_second=state.rows_seen / state.epoch_seconds,
            seconds=state.epoch_seconds + time.monotonic() - started,
        )
        # A tie is no gain, and neither is NaN.
        best_score = history.epochs[history.best_epoch - 1].score(metric) if history.best_epoch else -math.inf
        history.epochs.append(epoch)
        self._track(epoch)
        if epoch.score(metric) > best_score:
            history.best_epoch = epoch.epoch
            self.keep(self.model, epoch)
        self._progress.epoch(epoch, best=history.best_epoch == epoch.epoch)

    def _save(self) -> None:
        """Write the state down, and end here if that was asked for."""
        self.state.seconds = self._seconds()
        if self.states:
            self.states.save(self.state, self.model, self.optimizer)
        if self.preempted():
            if self.states:
                where = f"Its state is in {self.states.uri}: the same command goes on from there."
            else:
                where = "Nothing was written down: --checkpoints or AIP_CHECKPOINT_DIR names a folder for it."
            raise Preempted(f"training: ended by SIGTERM after step {self.state.steps_taken}. {where}")
        if self._watch.over_memory:
            raise GauntletError(self._watch.over_memory)

    def _seconds(self) -> float:
        """How long this has trained, across interruptions."""
        return time.monotonic() - self._began

    def _track(self, epoch: Epoch) -> None:
        metrics = {key: float(value) for key, value in asdict(epoch).items()}
        self.tracker.log_metrics(metrics, epoch.epoch)
