"""One trial: a training on the training split, scored on the validation split. The test split is not read."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import optuna
import torch
from optuna.trial import TrialState

from gauntlet.contracts.training import tracked_name
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import known_metric
from gauntlet.trainer.device import choose_device, make_deterministic, use_threads
from gauntlet.trainer.loop import fit
from gauntlet.trainer.own_network import require_usable
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica
from gauntlet.trainer.task import load_task
from gauntlet.trainer.tuning.study import TuningJob, values_of


def run_trial(study: optuna.Study, trial: optuna.Trial, job: TuningJob) -> None:
    """Train with the trial's values and report the result to the study.

    Raises:
        UsageError: The pretrained model, the device or the splits are missing.
    """
    try:
        score = train_with(trial, job)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except UsageError:
        raise
    except GauntletError as error:  # such as too little memory: the worst score, not the end of the study
        print(f"trial {trial.number} could not be trained: {error}", file=sys.stderr, flush=True)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, score)


def train_with(trial: optuna.Trial, job: TuningJob) -> float:
    """The best epoch's score. The pipeline's training with these values has the same score, bit by bit.

    Raises:
        optuna.TrialPruned: The pruner ended the trial, or no score was finite.
    """
    section = type(job.training).model_validate(job.training.model_dump() | values_of(trial))
    device = choose_device(section.compute_target, World())
    make_deterministic(job.seed)
    use_threads(job.threads)
    task = load_task(job.task, section, job.splits)
    model = task.build_model()
    require_usable(task, job.task, model, section)
    replica = Replica(task, model, section, device, World())
    torch.manual_seed(job.seed)
    tracker = TrialTracker(trial, job.metric, section.total_epochs)
    history = fit(replica, section, job.seed, lambda *_: None, tracker)
    if history.best_epoch == 0:
        raise optuna.TrialPruned
    return history.epochs[history.best_epoch - 1].score(job.metric)


class TrialTracker:
    """Reports each epoch's score to the study, and ends the trial if the pruner says so."""

    def __init__(self, trial: optuna.Trial, metric: str, epochs: int) -> None:
        self._trial = trial
        self._metric = metric
        self._epochs = epochs

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Report an epoch's score, if the metrics have one, or raise `optuna.TrialPruned`."""
        value = metrics.get(tracked_name(self._metric))
        if value is None:
            return
        self._trial.report(known_metric(self._metric).as_score(value), step)
        if step < self._epochs and self._trial.should_prune():
            raise optuna.TrialPruned
