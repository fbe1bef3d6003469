"""`gauntlet tune`: validate the data, let processes run the trials, and write down the best one."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from rich.table import Table

from gauntlet.backends.prices import hourly_rate
from gauntlet.backends.processes import TOKENS_VARIABLE, how_ended
from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.contracts.document import write_text
from gauntlet.manifests.errors import Fault, GauntletError, ManifestError, UsageError
from gauntlet.manifests.loading import read_content
from gauntlet.manifests.own_code import MODULES_VARIABLE
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.search import Search, Value
from gauntlet.manifests.training import trained_here
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.processes import (
    Interrupted,
    TemporaryFolder,
    acquire,
    ending,
    interruptible,
    safe_environment,
    temporary_folder,
)
from gauntlet.pipelines.terminal import LiteralConsole, borderless, styled
from gauntlet.pipelines.tuning.picture import draw
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.tuning.study import (
    Trial,
    TuningJob,
    best_trial,
    finished_trials,
    importances,
    open_study,
    prepare,
    study_name,
)

DATABASE_FILE = "study.db"
PICTURE_FILE = "study.png"
BEST_FILE = "best.yaml"
LOCK_FILE = "study.lock"
SECONDS = {"s": 1, "m": 60, "h": 3600}
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_OTHERS_TO_END = 5.0  # the processes of a command that was just killed
CREATE_JOB = ("gcloud", "ai", "hp-tuning-jobs", "create", "--region=REGION")
TRIALS_SHOWN = 5


@dataclass(frozen=True)
class Tuning:
    """A request for a study.

    Attributes:
        file: The manifest's file, as the user named it.
        content: The content of that file with the overrides.
        trials: Finished trials in all, those of earlier commands included.
        seconds: No trial starts after so many seconds; None: no limit.
        jobs: Processes at the same time.
        output: The path of the tuned manifest; None: beside the study.
    """

    file: Path
    content: Mapping[str, Any]
    manifest: Manifest
    trials: int
    seconds: float | None
    jobs: int
    output: Path | None


def tuning_of(
    path: Path,
    overrides: Sequence[str],
    manifest: Manifest,
    trials: int,
    timeout: str | None,
    jobs: int,
    output: Path | None,
) -> Tuning:
    """The request that the options describe. Raises as `search_space` and `duration`."""
    search_space(manifest, path)
    seconds = None if timeout is None else duration(timeout)
    return Tuning(path, read_content(path, overrides), manifest, trials, seconds, jobs, output)


def duration(text: str) -> float:
    """Seconds of `90s`, `30m` or `1.5h`; a `UsageError` for another form."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise UsageError(
            f"--timeout: found {text!r}, expected a number with its unit, such as 90s, 30m or 2h."
        )
    return float(match[1]) * SECONDS[match[2]]


def search_space(manifest: Manifest, file: Path) -> Search:
    """The manifest's search space.

    Raises:
        ManifestError: It has no search space, or keys in it that no trial would read.
        UsageError: Its model is not trained by this project.
    """
    training = trained_here(manifest.training)
    key = "training.search"
    if training.search is None:
        expected = "the keys to tune, such as {learning_rate: {low: 5.0e-5, high: 5.0e-4, log: true}}"
        raise ManifestError([Fault(str(file), key, "nothing", expected, "See docs/how-to/tune.md.")])
    if unread := training.unread_dimensions:
        expected = "keys that training reads with its other settings"
        raise ManifestError([Fault(str(file), key, ", ".join(unread), expected, "Leave them out.")])
    return training.search


def tune_here(tuning: Tuning, home: Home, console: LiteralConsole) -> Path:
    """Run the missing trials, draw the study, and print the result; returns the best trial's manifest.

    Raises:
        DataError: The data failed a check.
        UsageError: Another command tunes the same system, or a trial cannot run at all.
        GauntletError: A process failed, or no trial has finished.
        Interrupted: By Ctrl-C, SIGTERM or a closed terminal, after every process has ended.
    """
    manifest, training = tuning.manifest, trained_here(tuning.manifest.training)
    search = search_space(manifest, tuning.file)
    folder = home.tuning_folder(manifest.name)
    with interruptible(), alone(folder) as lock:
        splits = _validated_splits(manifest, folder)
        data_sha256 = read_statistics(splits).sha256
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
            _run_trials(study, job, tuning, folder / "logs", lock, console)
        except Interrupted:
            finished = len(finished_trials(study))
            raise Interrupted(
                f"{finished} of {tuning.trials} trials are finished and kept; the same command continues."
            ) from None
        return _conclude(tuning, study, search, folder, console)


def compile_study(tuning: Tuning, spec: Path, staging: str, home: Home, console: LiteralConsole) -> None:
    """Write the study as a Vertex AI tuning job, make the splits that it reads, and print how to start it.

    Raises:
        UsageError: `staging` is not in a bucket, or the encoder is on this machine.
        DataError: The data failed a check.
    """
    from gauntlet.pipelines.tuning.vertex import SPLITS_FOLDER, compile_tuning_job

    manifest = tuning.manifest
    search = search_space(manifest, tuning.file)
    compile_tuning_job(manifest, search, tuning.trials, tuning.jobs, staging, spec)
    folder = home.tuning_folder(manifest.name)
    with interruptible(), alone(folder):
        splits = _validated_splits(manifest, folder)
    target = f"{staging.rstrip('/')}/{SPLITS_FOLDER}"
    console.say(f"compiled {tuning.file} to {spec}")
    console.say(f"at most {_most_it_can_cost(manifest, tuning.trials)}")
    console.print(styled("[dim]→[/] put the splits where its trials look for them, then start it:"))
    for command in (
        ["gcloud", "storage", "cp", f"{splits}/*", f"{target}/"],
        [*CREATE_JOB, f"--display-name={manifest.name}-tuning", f"--config={spec}"],
    ):
        shown = " ".join(part if "*" in part else shlex.quote(part) for part in command)
        console.say(styled("   [bold]{}[/]", shown))


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Be the only command in the folder, or raise a `UsageError`; yields the lock, which children inherit."""
    deadline = time.monotonic() + SECONDS_FOR_OTHERS_TO_END
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (lock := acquire(folder / LOCK_FILE)) is None:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"{folder}: another `gauntlet tune` is at work there. "
                    "Wait for its end, or ask for more at once with --jobs."
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}). Set GAUNTLET_HOME to a folder that can."
        ) from None
    try:
        yield lock
    finally:
        os.close(lock)


def _validated_splits(manifest: Manifest, folder: Path) -> Path:
    """The splits of the manifest's data without the test split, so that no trial can read it."""
    splits = folder / "splits"
    checks, page = folder / "checks.json", folder / "data.html"
    validate_data(manifest.task, manifest.dataset, splits, checks, page)
    for file in splits.glob("test.*"):
        file.unlink()
    return splits


def _most_it_can_cost(manifest: Manifest, trials: int) -> str:
    """The cost of a study in which every trial trains until its deadline."""
    resources = manifest.training.resources
    rate = hourly_rate(resources)
    return (
        f"{trials} trials × {resources.max_hours:g} h × {rate:.4f} USD/h = "
        f"{trials * resources.max_hours * rate:.2f} USD on {resources.machine_type}"
    )


def _announce(tuning: Tuning, study: optuna.Study, lost: int, console: LiteralConsole) -> None:
    finished = len(finished_trials(study))
    console.say(styled("study [bold]{}[/]", study.study_name))
    if finished or lost:
        again = f", {lost} interrupted and tried again" if lost else ""
        console.say(f"{finished} of {tuning.trials} trials are finished already{again}")
    if finished < tuning.trials:
        bought = _most_it_can_cost(tuning.manifest, tuning.trials - finished)
        console.say(f"at most {bought}; nothing is bought on this machine")


def _run_trials(
    study: optuna.Study, job: TuningJob, tuning: Tuning, logs: Path, lock: int, console: LiteralConsole
) -> None:
    """Run the remaining trials, and print a line for each one that ends."""
    told = {trial.number for trial in finished_trials(study)}
    left = job.trials - len(told)
    if left <= 0:
        return

    def look() -> None:
        trials = finished_trials(study)
        for trial in trials:
            if trial.number not in told:
                told.add(trial.number)
                values = " ".join(f"{key}={_shown(value)}" for key, value in trial.values.items())
                line = (
                    f"{len(told)}/{job.trials}  trial {trial.number} {trial.state}  {job.metric} "
                    f"{trial.shown_score(job.metric):.4f}  {values}  {trial.seconds / 60:.1f} min"
                )
                is_best = trial == best_trial(trials)
                console.progress(styled("{}  [green](best)[/]", line) if is_best else line)

    _work(job, min(tuning.jobs, left), logs, lock, look, tuning.file.resolve().parent)


def _work(job: TuningJob, jobs: int, logs: Path, lock: int, look: Callable[[], None], modules: Path) -> None:
    """Run processes until the study is finished, and call `look`; a `GauntletError` if one fails."""
    logs.mkdir(exist_ok=True)
    processes: list[subprocess.Popen[str]] = []
    files = [logs / f"worker-{number}.log" for number in range(1, jobs + 1)]
    with temporary_folder() as temporary, ending(processes):
        processes.extend(_start(job, log, lock, temporary, modules) for log in files)
        while True:
            running = next((process for process in processes if process.poll() is None), None)
            look()
            for process, log in zip(processes, files, strict=True):
                if code := process.poll():
                    raise _failure(code, log)
            if running is None:
                return
            try:
                running.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue


def _start(
    job: TuningJob, log: Path, lock: int, temporary: TemporaryFolder, modules: Path
) -> subprocess.Popen[str]:
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gauntlet.trainer.tuning"],
            stdin=subprocess.PIPE,  # kept open: its end tells the process that this one has exited
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=safe_environment()
            | temporary.environment()
            | {MODULES_VARIABLE: str(modules), TOKENS_VARIABLE: str(temporary.path / "tokens")},
            pass_fds=(lock, temporary.lock),
            start_new_session=True,  # so that it gets no Ctrl-C from the terminal
        )
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json(exclude_none=True) + "\n")
    process.stdin.flush()
    return process


def _failure(code: int, log: Path) -> GauntletError:
    if code < 0:
        return GauntletError(
            f"tuning: a process {how_ended(code)}. What is finished is kept, and the same command "
            f"resumes the study. Its output: {log}"
        )
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    cause = lines[-1].removeprefix("error: ") if lines else f"exit code {code}, and it said nothing"
    kind = UsageError if code == UsageError.exit_code else GauntletError
    return kind(f"{cause}\nThe output of the process that tuned: {log}")


def _conclude(
    tuning: Tuning, study: optuna.Study, search: Search, folder: Path, console: LiteralConsole
) -> Path:
    """Write the picture and the best trial's manifest, and print where they are and what to do next."""
    trials = finished_trials(study)
    best = best_trial(trials)
    training = trained_here(tuning.manifest.training)
    metric = training.early_stopping.metric
    if best is None:
        raise GauntletError(
            f"tuning: none of {len(trials)} finished trials has a score. "
            + ("Give it more time." if not trials else f"Look into {folder / 'logs'}, and narrow the space.")
        )
    picture, output = folder / PICTURE_FILE, tuning.output or folder / BEST_FILE
    draw(trials, search, metric, importances(study), picture)
    comments = [
        f"{tuning.file.name} as `gauntlet tune` left it.",
        f"Study {study.study_name}, trial {best.number}, the best of {len(trials)} finished ones: validation "
        f"{metric} {best.shown_score(metric):.4f}.",
        *(_changed(key, value, getattr(training, key)) for key, value in best.values.items()),
    ]
    tuned = copy.deepcopy(dict(tuning.content))
    del tuned["training"]["search"]
    tuned["training"] |= best.values
    text = "".join(f"# {line}\n" for line in comments)
    text += yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_text(output, text)
    console.print()
    console.print(_best_trials(trials, metric))
    if len(trials) < tuning.trials:
        console.say(f"\ntime is up after {len(trials)} of {tuning.trials} trials; the same command continues")
    console.say(f"\npicture:  {picture}")
    console.say(f"manifest: {output}")
    command = f"gauntlet run {shlex.quote(str(output))}"
    console.say(styled("[dim]→[/] train with these values:  [bold]{}[/]", command))
    return output


def _changed(key: str, value: Value, before: Value) -> str:
    return f"{key}: {value}, as before" if value == before else f"{key}: {value} instead of {before}"


def _best_trials(trials: Sequence[Trial], metric: str) -> Table:
    """The trials with the highest scores, complete ones before pruned ones."""
    ranked = sorted(trials, key=lambda trial: (trial.state == "pruned", -trial.score, trial.number))
    keys = list(trials[0].values)
    table = borderless("trial", "state", metric, "epochs done", "minutes", *keys)
    for trial in ranked[:TRIALS_SHOWN]:
        score, minutes = f"{trial.shown_score(metric):.4f}", f"{trial.seconds / 60:.1f}"
        values = (_shown(trial.values[key]) for key in keys)
        table.add_row(str(trial.number), trial.state, score, str(len(trial.scores)), minutes, *values)
    return table


def _shown(value: Value) -> str:
    """A value in short; the tuned manifest has all digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
