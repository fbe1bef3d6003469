"""What `gauntlet tune` says: a line for each trial, and at the end the best ones."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gauntlet.manifests.search import Value
from gauntlet.pipelines.terminal import styled
from gauntlet.trainer.tuning.study import Trial

TRIALS_SHOWN = 5


def print_trial(
    trial: Trial, finished: int, trials: int, metric: str, is_best: bool, console: Console
) -> None:
    """One line: how many are done, the trial's number, state, score, values and time."""
    values = " ".join(f"{key}={shown(value)}" for key, value in trial.values.items())
    line = (
        f"{finished}/{trials}  trial {trial.number} {trial.state}  {metric} {trial.shown_score(metric):.4f}  "
        f"{values}  {trial.seconds / 60:.1f} min"
    )
    best = styled("{}  [green](best)[/]", line) if is_best else line
    console.print(best, highlight=False, soft_wrap=True)


def best_trials(trials: Sequence[Trial], metric: str) -> Table:
    """The trials with the highest scores, those that came to their end before the pruned ones."""
    ranked = sorted(trials, key=lambda trial: (trial.state == "pruned", -trial.score, trial.number))
    keys = list(trials[0].values)
    table = Table("trial", "state", metric, "epochs done", "minutes", *keys, box=None, pad_edge=False)
    for trial in ranked[:TRIALS_SHOWN]:
        table.add_row(
            str(trial.number),
            trial.state,
            f"{trial.shown_score(metric):.4f}",
            str(len(trial.scores)),
            f"{trial.seconds / 60:.1f}",
            *(shown(trial.values[key]) for key in keys),
        )
    return table


def shown(value: Value) -> str:
    """A value short enough to read; the tuned manifest holds it whole."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
