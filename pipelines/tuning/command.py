"""What the command `gauntlet tune` does with its options, and what it says at the end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import read_content
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.processes import interruptible
from gauntlet.pipelines.terminal import plain, styled
from gauntlet.pipelines.tuning.run import (
    TunedStudy,
    Tuning,
    most_it_can_cost,
    search_space,
    tune_locally,
    validated_splits,
)
from gauntlet.pipelines.tuning.summary import best_trials
from gauntlet.pipelines.tuning.workers import alone

SECONDS = {"s": 1, "m": 60, "h": 3600}
CREATE_JOB = ("gcloud", "ai", "hp-tuning-jobs", "create", "--region=REGION")


def tuning_of(
    path: Path,
    overrides: Sequence[str],
    manifest: Manifest,
    trials: int,
    timeout: str | None,
    jobs: int,
    output: Path | None,
) -> Tuning:
    """What the options ask for.

    Raises:
        ManifestError: The manifest has no search space.
        UsageError: `timeout` is no duration.
    """
    search_space(manifest, path)
    seconds = None if timeout is None else duration(timeout)
    return Tuning(path, read_content(path, overrides), manifest, trials, seconds, jobs, output)


def duration(text: str) -> float:
    """Seconds of `90s`, `30m` or `1.5h`.

    Raises:
        UsageError: It is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None or not float(match[1]):
        raise UsageError(
            f"--timeout: found {text!r}, expected a number with its unit, such as 90s, 30m or 2h."
        )
    return float(match[1]) * SECONDS[match[2]]


def tune_here(tuning: Tuning, home: Home, console: Console) -> TunedStudy:
    """Tune on this machine and say what came out and what to do next. Raises what `tune_locally` does."""
    study = tune_locally(tuning, home, console)
    console.print()
    console.print(best_trials(study.trials, study.metric))
    if len(study.trials) < tuning.trials:
        console.print(
            f"\ntime is up after {len(study.trials)} of {tuning.trials} trials; the same command continues",
            highlight=False,
        )
    console.print(f"\npicture:  {plain(study.picture)}", soft_wrap=True, highlight=False)
    console.print(f"manifest: {plain(study.manifest)}", soft_wrap=True, highlight=False)
    command = f"gauntlet run {shlex.quote(str(study.manifest))}"
    console.print(styled("[dim]→[/] train with these values:  [bold]{}[/]", command), soft_wrap=True)
    return study


def compile_study(tuning: Tuning, spec: Path, staging: str, home: Home, console: Console) -> None:
    """Write the study as a Vertex AI tuning job, make the splits that it reads, and say how to start it.

    Raises:
        UsageError: `staging` is in no bucket, or the encoder lies on this machine.
        DataError: The data failed a check.
    """
    from gauntlet.pipelines.tuning.vertex import SPLITS_FOLDER, compile_tuning_job

    manifest = tuning.manifest
    search = search_space(manifest, tuning.file)
    compile_tuning_job(manifest, search, tuning.trials, tuning.jobs, staging, spec)
    folder = home.tuning_folder(manifest.name)
    with interruptible(), alone(folder):
        splits = validated_splits(manifest, folder)
    name = f"{manifest.name}-tuning"
    target = f"{staging.rstrip('/')}/{SPLITS_FOLDER}"
    console.print(f"compiled {plain(tuning.file)} to {plain(spec)}", soft_wrap=True, highlight=False)
    console.print(f"at most {most_it_can_cost(manifest, tuning.trials)}", soft_wrap=True, highlight=False)
    console.print(styled("[dim]→[/] put the splits where its trials look for them, then start it:"))
    for command in (
        ["gcloud", "storage", "cp", f"{splits}/*", f"{target}/"],
        [*CREATE_JOB, f"--display-name={name}", f"--config={spec}"],
    ):
        shown = " ".join(part if "*" in part else shlex.quote(part) for part in command)
        console.print(styled("   [bold]{}[/]", shown), soft_wrap=True, highlight=False)
