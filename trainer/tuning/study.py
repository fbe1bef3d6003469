"""The study in its SQLite file: the next trial, the finished trials, and recovery after an interruption.

Each trial's sampler is seeded by the study's seed and the number of earlier trials. So with one process the
trials are a function of the seed, even if the study was interrupted. A sampler that is seeded once per
process would draw the first trials' values again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, SerializeAsAny, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from gauntlet.backends.local.mlflow_database import locked
from gauntlet.manifests.kinds import known_metric, task_kind
from gauntlet.manifests.schema import search_class, section_class
from gauntlet.manifests.search import Dimension, Search, Value, nearest_on_grid
from gauntlet.manifests.section import Section
from gauntlet.manifests.training import Training

optuna.logging.set_verbosity(optuna.logging.ERROR)

NOT_OF_A_SCORE = {"resources", "resume", "compute_target", "prefetch_batches", "tracking", "student"}
"""Settings that change where a training runs and what it costs, but not its result."""
RANDOM_TRIALS = 10
"""Trials that are drawn at random before the sampler uses their scores."""
TRIALS_BEFORE_PRUNING = 5
FIRST_EPOCH_TO_PRUNE_AFTER = 2  # the first one is mostly warm-up
SECONDS_TO_WAIT_FOR_A_WRITER = 60
TRIALS_FOR_IMPORTANCES = 10
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
COUNTED = (*FINISHED, TrialState.RUNNING)


class TuningJob(Section):
    """A study and what this process does for it.

    Attributes:
        trials: Number of finished trials after which the study is complete.
        deadline: No trial starts after it; seconds since the epoch.
        threads: CPU threads of this process.
    """

    study: str
    database: Path
    task: str
    seed: int
    training: SerializeAsAny[Training]
    search: SerializeAsAny[Search]
    splits: Path
    trials: int = Field(ge=1)
    deadline: float | None = None
    threads: int = Field(ge=1)

    @field_validator("training", "search", mode="wrap")
    @classmethod
    def _of_the_task(cls, value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        training = section_class(task_kind(info.data["task"]).manifest_class(), "training")
        section = training if info.field_name == "training" else search_class(training)
        assert section is not None
        return section.model_validate(value)

    @property
    def metric(self) -> str:
        """What trials are compared by."""
        return self.training.early_stopping.metric


def study_name(name: str, task: str, seed: int, training: Training, data_sha256: str) -> str:
    """The study's name. It has a hash of all that the scores depend on, so scores within a study compare."""
    identity = {
        "task": task,
        "seed": seed,
        "training": training.model_dump(mode="json", exclude=NOT_OF_A_SCORE),
        "search": training.search.model_dump(mode="json") if training.search else None,
        "data": data_sha256,
    }
    return f"{name}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        state: A pruned trial ended early, because it was worse than half of the others at the same epoch, or
            because its score was not finite.
        score: The best epoch's score, higher is better; NaN if no epoch had a finite one.
        scores: The epochs' scores, from the first.
    """

    number: int
    state: Literal["complete", "pruned"]
    values: dict[str, Value]
    score: float
    scores: tuple[float, ...]
    seconds: float

    def shown_score(self, metric: str) -> float:
        """The metric as it is: a loss is negated in `score`."""
        return known_metric(metric).as_score(self.score)


def open_study(database: Path, name: str) -> optuna.Study:
    """The study of that name, made if there is none."""
    path = str(database).replace("{", "{{").replace("}", "}}")  # Optuna takes the URL for a template
    storage = RDBStorage(
        f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": SECONDS_TO_WAIT_FOR_A_WRITER}}
    )
    pruner = MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=FIRST_EPOCH_TO_PRUNE_AFTER)
    return optuna.create_study(
        storage=storage, study_name=name, pruner=pruner, direction="maximize", load_if_exists=True
    )


def prepare(study: optuna.Study, training: Training, search: Search) -> int:
    """Recover from an interruption, or enqueue the manifest's own values if the search space holds them.

    Call it while no process works on the study. A trial that was running is marked as failed and its values
    are enqueued again; the number of such trials is returned.
    """
    trials = study.get_trials(deepcopy=False)
    if not trials:
        own = {key: getattr(training, key) for key in search.dimensions()}
        if all(dimension.holds(own[key]) for key, dimension in search.dimensions().items()):
            study.enqueue_trial(own)
    lost = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in lost:
        study.tell(trial.number, state=TrialState.FAIL)
        values = trial.system_attrs.get("fixed_params", {}) | trial.params
        if set(values) == set(search.dimensions()):  # otherwise it died while its values were drawn
            study.enqueue_trial(values)
    return len(lost)


def next_trial(study: optuna.Study, job: TuningJob) -> optuna.Trial | None:
    """Start a trial; None if the study has all its trials, or time is up."""
    if job.deadline is not None and time.time() >= job.deadline:
        return None
    with locked(job.database):  # no other process may start a trial in between
        number = len(study.get_trials(deepcopy=False, states=COUNTED))
        if number >= job.trials:
            return None
        seed = int(np.random.SeedSequence([job.seed, number]).generate_state(1)[0])
        study.sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        return study.ask(fixed_distributions=distributions(job.search, job.training))


def finished_trials(study: optuna.Study) -> list[Trial]:
    """In the order in which they ended."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    return [_trial(one) for one in sorted(trials, key=lambda one: (one.datetime_complete, one.number))]


def best_trial(trials: list[Trial]) -> Trial | None:
    """The complete trial with the highest score, the earliest of equals; None if none is complete."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: (trial.score, -trial.number), default=None)


def importances(study: optuna.Study) -> dict[str, float]:
    """Each key's share of the variation of the scores, estimated from the trials; empty for very few."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < TRIALS_FOR_IMPORTANCES:
        return {}
    return optuna.importance.get_param_importances(study)


def distributions(search: Search, training: Training) -> dict[str, BaseDistribution]:
    """The space as Optuna has it."""
    return {
        key: _distribution(dimension, is_whole(training, key))
        for key, dimension in search.dimensions().items()
    }


def values_of(trial: optuna.Trial | FrozenTrial) -> dict[str, Value]:
    """The trial's values by key; on a range with a step the exact value, which Optuna rounds."""
    values: dict[str, Any] = dict(trial.params)
    for key, distribution in trial.distributions.items():
        if isinstance(distribution, FloatDistribution) and distribution.step is not None:
            values[key] = nearest_on_grid(distribution.low, distribution.step, values[key])
    return values


def is_whole(training: Training, key: str) -> bool:
    """Whether a key of the section takes whole numbers only."""
    return type(training).model_fields[key].annotation is int


def _distribution(dimension: Dimension, whole: bool) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    low, high = dimension.ends
    if whole:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=dimension.step)


def _trial(trial: FrozenTrial) -> Trial:
    scores = tuple(score for _, score in sorted(trial.intermediate_values.items()))
    best = max((score for score in scores if math.isfinite(score)), default=math.nan)
    return Trial(
        number=trial.number,
        state="complete" if trial.state == TrialState.COMPLETE else "pruned",
        values=values_of(trial),
        score=best if trial.value is None or trial.state == TrialState.PRUNED else trial.value,
        scores=scores,
        seconds=trial.duration.total_seconds() if trial.duration else 0.0,
    )
