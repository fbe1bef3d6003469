"""The training loop: epochs of optimizer steps, validation, early stopping, a budget, resume.

All randomness derives from the seed: torch's global generator (initialisation, dropout), and the order of the
batches, which is a function of (seed, epoch). On one machine the same seed gives the same bits, also in a run
that was interrupted and resumed: `LoopState` and the replica's `Snapshot` have all that a step depends on,
and `StateStore` writes both.

Every rank runs this loop on its own rows. Ranks enter collective operations (steps, validation, states) in
the same order, because each decision follows from values that all ranks have, or from a flag that they
exchange.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gauntlet.contracts.training import Epoch, TrainingHistory
from gauntlet.manifests.errors import GauntletError, Preempted
from gauntlet.manifests.training import Training
from gauntlet.trainer.batching import MicroBatch, Rows, rank_share, training_batches
from gauntlet.trainer.ranks import OutOfMemoryOnARank
from gauntlet.trainer.replica import Replica, prefetched
from gauntlet.trainer.schedule import learning_rate
from gauntlet.trainer.states import LoopState, StateStore
from gauntlet.trainer.task import Batch, Tensors
from gauntlet.trainer.watch import Progress, Tracker, Watch

Keep = Callable[[Tensors, Epoch], None]


def fit(
    replica: Replica,
    section: Training,
    seed: int,
    keep: Keep,
    tracker: Tracker,
    states: StateStore | None = None,
    preempted: Callable[[], bool] = lambda: False,
    halvings: int = 0,
    seconds_before: float = 0.0,
) -> TrainingHistory:
    """Train the replica's model.

    Each phase of the section has a best epoch of its own. The loss of an optimizer step is the mean over the
    losses of its rows (one loss for a row of a classifier, one for each token of an answer), however the rows
    are divided into micro-batches and over ranks.

    Args:
        replica: This rank's model, optimizer and rows.
        section: The manifest's training section.
        seed: Decides the order of the batches.
        keep: Called on the first rank with the weights of each epoch that is the best so far; when training
            resumes, first with each phase's best weights so far.
        tracker: Where metrics go.
        states: Where states are read and written, by the first rank. Training resumes from the newest one.
        preempted: Says whether to end after the current step.
        halvings: How often the ranks have run out of memory before.
        seconds_before: How much of the budget's time is used already.

    Raises:
        Preempted: `preempted` said so; the state after the current step was written, if there are `states`.
        UsageError: `states` holds states of a run with other settings.
        GauntletError: A state cannot be written or read, training used more memory than the manifest allows,
            or the device's memory does not hold a single row.
        OutOfMemoryOnARank: One of several ranks ran out of memory: all must start again with more `halvings`.
    """
    resumed = _resume(replica, states, keep) if states else None
    state = resumed or LoopState(seconds=seconds_before)
    state.history.out_of_memory += [state.steps_taken + 1] * (halvings - len(state.history.out_of_memory))
    loop = _Loop(replica, section, seed, keep, tracker, states, preempted, state)
    return loop.run()


def _resume(replica: Replica, states: StateStore, keep: Keep) -> LoopState | None:
    """Restore the newest state, if there is one, on every rank."""
    world = replica.world
    found = states.newest() if world.is_first else None
    state: LoopState | None = world.from_first(found.state if found else None)
    if state is None:
        return None
    replica.restore(found.snapshot if found else None)
    replica.set_scaler_state(state.scaler)
    for epoch, weights in found.best_weights.items() if found else ():
        keep(weights, state.history.epochs[epoch - 1])
    return state


@dataclass
class _Loop:
    replica: Replica
    section: Training
    seed: int
    keep: Keep
    tracker: Tracker
    states: StateStore | None
    preempted: Callable[[], bool]
    state: LoopState

    def __post_init__(self) -> None:
        self._world = self.replica.world
        self._lengths = self.replica.task.train_lengths
        self._weights = np.asarray(self.replica.task.train_weights)
        self._began = time.monotonic() - self.state.seconds
        self._training_since = time.monotonic()
        self._steps_per_epoch = math.ceil(len(self._lengths) / self.section.batch_size)
        self._progress = Progress(
            self.section.total_epochs, self._steps_per_epoch, self.state.steps_taken, self.state.rows_seen
        )
        # Steps whose sums have not been read from the device.
        self._unread: list[tuple[torch.Tensor, Rows, float]] = []
        self._watch = Watch(
            self.section.resources,
            self.state.history,
            self.tracker,
            self.replica.device,
            self._seconds,
            self.states.uri if self.states else None,
            speaks=self._world.is_first,
        )

    def run(self) -> TrainingHistory:
        """Train from `state` to the end."""
        state, history = self.state, self.state.history
        for epoch in history.epochs:  # the curves of a resumed run begin at epoch 1 too
            self.tracker.log_metrics(epoch.tracked(), epoch.epoch)
        for step in history.steps:
            self._watch.track(step)
        in_time = True
        while in_time and state.epoch <= self.section.total_epochs and not self._is_exhausted():
            in_time = self._train_epoch()
            if state.rows_seen:
                self._validate()
            if in_time:
                state.start_next_epoch()
                preempted, over_memory, _ = self._agree()
                self._save(preempted, over_memory)
        if not in_time:
            history.stopped = self._watch.stop_reason() or "max_hours reached"  # other ranks may not know
        elif self._is_exhausted():
            history.stopped = "early stopping"
        history.seconds = self._seconds()
        self._watch.finish()
        return history

    def _is_exhausted(self) -> bool:
        """Whether early stopping ends training now, which it does only in the last phase."""
        history, patience = self.state.history, self.section.early_stopping.patience
        is_last_phase = len(history.epochs) > self.section.phases[-1].before
        return is_last_phase and history.epochs_without_gain >= patience

    def _train_epoch(self) -> bool:
        """Take the remaining steps of the epoch; False if the budget is used up before its end.

        At least one step is taken, since a training without a step has no model.
        """
        chances = self.replica.task.sampling_chances
        size = self.section.batch_size
        batches = training_batches(self._lengths, size, self.seed, self.state.epoch, chances)
        self._training_since = time.monotonic()
        in_time = True
        while in_time and self.state.cursor < len(batches):
            in_time = self._take_steps(batches)
            self._settle()
        return in_time

    def _take_steps(self, batches: list[Rows]) -> bool:
        """Take steps until the epoch ends or a step runs out of memory, or until the budget is used up.

        Returns False for the budget. After a step without enough memory the caller continues with smaller
        micro-batches.
        """
        first = self.state.cursor
        prepare = partial(self.replica.prepare, (self.seed, self.state.epoch))
        prepared = prefetched(prepare, map(self._share, batches[first:]), self.replica.prefetch)
        *_, spent = self._agree()
        for done, (batch, micro_batches) in enumerate(zip(batches[first:], prepared, strict=True), first + 1):
            if spent and self._steps_taken:
                if done == first + 1 and first:  # it was used up while the step before was repeated
                    self._save(False, False)
                return False
            if not self._step(batch, micro_batches):
                return True
            speak = self._world.is_first and self._progress.due()
            if speak or self._watch.due:
                self._settle()
            if speak:
                mean, rows = self.state.train_loss, self.state.rows_seen
                self._progress.step(self.state.epoch, done, mean, rows)
            # An epoch's last step is followed by validation and then a state with its result.
            preempted, over_memory, spent = self._agree()
            due = spent or (self.states is not None and self.states.due(self._steps_taken))
            if preempted or over_memory or (due and done < len(batches)):
                self._save(preempted, over_memory)
        return True

    def _step(self, batch: Rows, micro_batches: list[tuple[Batch, bool]]) -> bool:
        """One update from a batch's rows; False if there is not enough memory.

        In that case only the running statistics of batch normalisation may have changed.
        """
        phase, metric = self.section.phase_of(self.state.epoch), self.section.early_stopping.metric
        scores = [epoch.score(metric) for epoch in self.state.history.epochs[phase.before :]]
        step = self._steps_taken + 1 - phase.before * self._steps_per_epoch
        rate = learning_rate(self.section, phase, step, phase.epochs * self._steps_per_epoch, scores)
        generators = self.replica.generators()
        try:
            sums = self.replica.step(micro_batches, self._weight(batch), rate)
        except torch.OutOfMemoryError as error:
            cause = str(error).partition(". ")[0]
            if self._world.size > 1:  # the others are waiting for this rank's gradients
                raise OutOfMemoryOnARank(cause, len(self.state.history.out_of_memory)) from None
        else:
            self._unread.append((sums, batch, rate))
            return True
        self.replica.set_generators(generators)
        self._cut_finer(max(len(part.rows) for part in self._share(batch)), cause)
        return False

    def _cut_finer(self, rows: int, cause: str) -> None:
        """Halve the micro-batches, which have up to `rows` rows; a step keeps its number of rows."""
        step = self._steps_taken + 1
        if rows == 1:
            raise GauntletError(
                f"training: out of memory at step {step} with a single row at a time ({cause}). "
                f"{self.section.memory_advice}, or take a larger accelerator."
            )
        self.state.history.out_of_memory.append(step)
        torch.cuda.empty_cache()
        print(
            f"out of memory at step {step} ({cause}): micro-batches have up to {math.ceil(rows / 2)} rows "
            f"from now on, not {rows}; a step has as many as before",
            flush=True,
        )

    def _share(self, batch: Rows) -> list[MicroBatch]:
        """This rank's micro-batches of an optimizer step."""
        accumulation = self.section.gradient_accumulation * 2 ** len(self.state.history.out_of_memory)
        return rank_share(batch, accumulation, self._world.rank, self._world.size)

    def _weight(self, batch: Rows) -> float:
        weights: list[float] = self._weights[batch].tolist()
        return sum(weights)

    @property
    def _steps_taken(self) -> int:
        return self.state.steps_taken + len(self._unread)

    def _settle(self) -> None:
        """Read the sums of the steps from the device, which waits for it to finish them."""
        if not self._unread:
            return
        rows_trained = 0
        for sums, batch, rate in self._unread:
            loss, *tally = sums.tolist()
            self.state.take_step(loss, tally, len(batch), self._weight(batch), rate)
            self._watch.track(self.state.history.steps[-1])
            rows_trained += len(batch)
        self._unread.clear()
        seconds = time.monotonic() - self._training_since
        self._training_since += seconds
        self.state.epoch_seconds += seconds
        self._watch.look(rows_trained, seconds)

    def _agree(self) -> tuple[bool, ...]:
        """Whether any rank is asked to end, or used too much memory, and whether the budget is used up."""
        spent = self._world.is_first and self._watch.stop_reason() is not None
        return self._world.any(self.preempted(), self._watch.over_memory is not None, spent)

    def _validate(self) -> None:
        """Score the epoch, even if it was cut short, and keep its weights if it is the best so far."""
        state, history, metric = self.state, self.state.history, self.section.early_stopping.metric
        started = time.monotonic()
        validation, confusion = self.replica.validate(state.epoch)
        training = {"loss": state.train_loss}
        epoch = Epoch(
            epoch=state.epoch,
            training=training | self.replica.task.training_metrics(state.tally),
            validation=validation,
            examples_per_second=state.rows_seen / state.epoch_seconds,
            seconds=state.epoch_seconds + time.monotonic() - started,
        )
        # Neither a tie nor NaN is a gain. A new phase is not compared with earlier ones.
        has_best = history.best_epoch > self.section.phase_of(state.epoch).before
        best_score = history.epochs[history.best_epoch - 1].score(metric) if has_best else -math.inf
        history.epochs.append(epoch)
        self.tracker.log_metrics(epoch.tracked(), epoch.epoch)
        if epoch.score(metric) > best_score:
            history.earlier_best += [] if has_best or not history.best_epoch else [history.best_epoch]
            history.best_epoch, history.confusion = epoch.epoch, confusion
            weights = self.replica.weights()
            if self._world.is_first:
                self.keep(weights, epoch)
        if self._world.is_first:
            self._progress.epoch(epoch, best=history.best_epoch == epoch.epoch)

    def _save(self, preempted: bool, over_memory: bool) -> None:
        """Write the state, then end training if there is a reason to."""
        self._settle()
        self.state.seconds = self._seconds()
        if self.states:
            self.state.scaler = self.replica.scaler_state()
            snapshot = self.replica.snapshot()
            if self._world.is_first:
                self.states.save(self.state, snapshot)
        self._training_since = time.monotonic()
        if preempted:
            self._world.any(preempted)  # no rank ends before the first one has written the state
            if self.states:
                where = f"Its state is in {self.states.uri}: the same command resumes from there."
            else:
                where = "No state was written: name a folder by --resume-dir or AIP_CHECKPOINT_DIR."
            raise Preempted(f"training: ended by SIGTERM after step {self.state.steps_taken}. {where}")
        if over_memory:
            raise GauntletError(next(filter(None, self._world.gather(self._watch.over_memory))))

    def _seconds(self) -> float:
        """How long this has trained, across interruptions."""
        return time.monotonic() - self._began
