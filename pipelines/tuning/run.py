"""A study on this machine: validate the data, let processes run the trials, write down what came out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from gauntlet.backends.prices import hourly_rate
from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.manifests.errors import Fault, GauntletError, ManifestError
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.search import Search, Value
from gauntlet.manifests.tasks import trained_here
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.interruption import Interrupted, interruptible
from gauntlet.pipelines.terminal import styled
from gauntlet.pipelines.tuning.best import write_tuned
from gauntlet.pipelines.tuning.picture import draw
from gauntlet.pipelines.tuning.summary import print_trial
from gauntlet.pipelines.tuning.workers import alone, work
from gauntlet.serving.cpu import usable_cpus
from gauntlet.tasks.language.manifest import LanguageTraining
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.tuning.job import TuningJob, study_name
from gauntlet.trainer.tuning.study import Trial, best_trial, finished_trials, importances, open_study, prepare

DATABASE_FILE = "study.db"
PICTURE_FILE = "study.png"
BEST_FILE = "best.yaml"


@dataclass(frozen=True)
class Tuning:
    """What is asked for.

    Attributes:
        file: The manifest's file, as the user named it.
        content: What that file and the overrides say.
        trials: Finished trials in all, those of earlier commands included.
        seconds: After so many no trial begins; none: no limit.
        jobs: Processes at the same time.
        output: Where the tuned manifest goes; none: beside the study.
    """

    file: Path
    content: Mapping[str, Any]
    manifest: Manifest
    trials: int
    seconds: float | None
    jobs: int
    output: Path | None


@dataclass(frozen=True)
class TunedStudy:
    """What came out. `trials` are all that are finished, in the order in which they ended."""

    name: str
    metric: str
    trials: list[Trial]
    best: Trial
    picture: Path
    manifest: Path


def search_space(manifest: Manifest, file: Path) -> Search:
    """The manifest's search space.

    Raises:
        ManifestError: It has none, or keys that no trial would read.
        UsageError: Its model is not trained by this project.
    """
    training = trained_here(manifest.training)
    search = training.search
    if search is None:
        expected = "the keys to tune, such as {learning_rate: {low: 5.0e-5, high: 5.0e-4, log: true}}"
        raise ManifestError([Fault(str(file), "training.search", "nothing", expected, "See docs/tuning.md.")])
    unread = [key for key in search.dimensions() if key.startswith("lora_")]
    if unread and isinstance(training, LanguageTraining) and training.method == "full":
        expected = "no key of adapters, as training.method is full"
        raise ManifestError(
            [Fault(str(file), "training.search", ", ".join(unread), expected, "Leave them out.")]
        )
    return search


def validated_splits(manifest: Manifest, folder: Path) -> Path:
    """The splits that the step validate-data makes of the manifest's data, without the test split.

    A trial that read it would fail: what a study chooses by must not be what a model is judged by.

    Raises:
        DataError: A check failed; the message says what and where.
    """
    splits = folder / "splits"
    validate_data(
        task=manifest.task,
        section=manifest.dataset,
        splits_path=splits,
        checks_path=folder / "checks.json",
        report_path=folder / "data.html",
    )
    for file in splits.glob("test.*"):
        file.unlink()
    return splits


def tune_locally(tuning: Tuning, home: Home, console: Console) -> TunedStudy:
    """Run the trials that the study lacks, then draw it and write the best trial's manifest.

    Raises:
        DataError: The data failed a check.
        UsageError: Another command tunes the same system, or a trial cannot run at all.
        GauntletError: A process failed, or no trial came to its end.
        Interrupted: By Ctrl-C, SIGTERM or a closed terminal, after every process has ended.
    """
    manifest, training = tuning.manifest, trained_here(tuning.manifest.training)
    search = search_space(manifest, tuning.file)
    folder = home.tuning_folder(manifest.name)
    with interruptible(), alone(folder) as lock:
        splits = validated_splits(manifest, folder)
        data_sha256 = read_statistics(splits)["sha256"]
        name = study_name(manifest.name, manifest.task, manifest.seed, training, data_sha256)
        study = open_study(folder / DATABASE_FILE, name)
        _announce(tuning, study, prepare(study, training, search), console)
        job = TuningJob(
            study=name,
            database=folder / DATABASE_FILE,
            task=manifest.task,
            seed=manifest.seed,
            training=training,
            search=search,
            splits=splits,
            trials=tuning.trials,
            deadline=None if tuning.seconds is None else time.time() + tuning.seconds,
            threads=max(1, usable_cpus() // tuning.jobs),
        )
        try:
            _run_trials(study, job, tuning.jobs, folder / "logs", lock, console)
        except Interrupted:
            finished = len(finished_trials(study))
            raise Interrupted(
                f"{finished} of {tuning.trials} trials are finished and kept; the same command continues."
            ) from None
        return _conclude(tuning, study, folder)


def most_it_can_cost(manifest: Manifest, trials: int) -> str:
    """The sum by which a study is bounded: each trial is a training that runs until its deadline."""
    resources = manifest.training.resources
    rate = hourly_rate(resources)
    return (
        f"{trials} trials × {resources.max_hours:g} h × {rate:.4f} USD/h = "
        f"{trials * resources.max_hours * rate:.2f} USD on {resources.machine_type}"
    )


def _announce(tuning: Tuning, study: optuna.Study, lost: int, console: Console) -> None:
    finished = len(finished_trials(study))
    left = max(0, tuning.trials - finished)
    console.print(styled("study [bold]{}[/]", study.study_name), highlight=False)
    if finished or lost:
        again = f", {lost} interrupted and tried again" if lost else ""
        console.print(f"{finished} of {tuning.trials} trials are finished already{again}", highlight=False)
    if left:
        bought = most_it_can_cost(tuning.manifest, left)
        console.print(f"at most {bought}; nothing is bought on this machine", highlight=False, soft_wrap=True)


def _run_trials(
    study: optuna.Study, job: TuningJob, jobs: int, logs: Path, lock: int, console: Console
) -> None:
    """Run what is left, with a line for each trial that ends."""
    told = {trial.number for trial in finished_trials(study)}
    left = job.trials - len(told)
    if left <= 0:
        return

    def look() -> None:
        trials = finished_trials(study)
        for trial in trials:
            if trial.number not in told:
                told.add(trial.number)
                is_best = trial == best_trial(trials)
                print_trial(trial, len(told), job.trials, job.metric, is_best, console)

    work(job, min(jobs, left), logs, lock, look)


def _conclude(tuning: Tuning, study: optuna.Study, folder: Path) -> TunedStudy:
    trials = finished_trials(study)
    best = best_trial(trials)
    training = trained_here(tuning.manifest.training)
    metric = training.early_stopping.metric
    if best is None:
        raise GauntletError(
            f"tuning: none of {len(trials)} finished trials has a score. "
            + ("Give it more time." if not trials else f"Look into {folder / 'logs'}, and narrow the space.")
        )
    search = search_space(tuning.manifest, tuning.file)
    picture = folder / PICTURE_FILE
    draw(trials, search, metric, importances(study), picture)
    output = tuning.output or folder / BEST_FILE
    before = {key: getattr(training, key) for key in search.dimensions()}
    comments = [
        f"{tuning.file.name} as `gauntlet tune` left it.",
        f"Study {study.study_name}, trial {best.number}, the best of {len(trials)} finished ones: validation "
        f"{metric} {best.shown_score(metric):.4f}.",
        *(_changed(key, value, before[key]) for key, value in best.values.items()),
    ]
    write_tuned(tuning.content, best, comments, output)
    return TunedStudy(study.study_name, metric, trials, best, picture, output)


def _changed(key: str, value: Value, before: Value) -> str:
    return f"{key}: {value}, as before" if value == before else f"{key}: {value} instead of {before}"
