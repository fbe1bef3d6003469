"""A study as one picture: the best score over the trials, and the score over each tuned key's values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from gauntlet.contracts.document import replacing
from gauntlet.manifests.kinds import known_metric
from gauntlet.manifests.search import Dimension, Search
from gauntlet.trainer.tuning.study import Trial, best_trial

PANELS_PER_ROW = 3
COMPLETE, PRUNED, BEST = "tab:blue", "0.6", "tab:orange"
MARGIN = 0.05
SPREADS_SHOWN = 6.0
"""How far below the median scores are drawn, in distances from the median to the best, so that one very bad
trial does not compress all others into a line."""


def draw(
    trials: Sequence[Trial], search: Search, metric: str, importances: Mapping[str, float], path: Path
) -> None:
    """Write the picture as PNG, atomically.

    Args:
        trials: All finished trials in the order in which they ended, at least one of them complete.
        metric: The metric that trials are compared by; a loss is drawn as it is.
        importances: Shares of the keys in the score's variation; may be empty.
    """
    dimensions = search.dimensions()
    rows = 1 + math.ceil(len(dimensions) / PANELS_PER_ROW)
    figure = Figure(figsize=(10, 2.8 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, PANELS_PER_ROW)
    progress = figure.add_subplot(grid[0, :])
    _draw_progress(progress, trials, metric)
    for at, (key, dimension) in enumerate(dimensions.items()):
        axes = figure.add_subplot(grid[1 + at // PANELS_PER_ROW, at % PANELS_PER_ROW], sharey=progress)
        _draw_key(axes, trials, key, dimension, metric)
        share = f" (importance {importances[key]:.0%})" if key in importances else ""
        axes.set_title(f"{key}{share}", fontsize="medium")
        if at % PANELS_PER_ROW == 0:
            axes.set_ylabel(metric)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_progress(axes: Axes, trials: Sequence[Trial], metric: str) -> None:
    best_so_far: list[float] = []
    for trial in trials:
        scores = [*best_so_far[-1:], *([trial.score] if trial.state == "complete" else [])]
        best_so_far.append(max((score for score in scores if not math.isnan(score)), default=math.nan))
    order = [float(number) for number in range(1, len(trials) + 1)]
    values = [known_metric(metric).as_score(score) for score in best_so_far]
    axes.step(order, values, where="post", color=BEST, label="best so far")
    _scatter(axes, order, trials, metric)
    axes.set(xlabel="trials in the order in which they ended", ylabel=metric)
    axes.set_title("Score of the validation split", fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize="small")


def _draw_key(axes: Axes, trials: Sequence[Trial], key: str, dimension: Dimension, metric: str) -> None:
    """The scores over the key's whole range, also where there is no trial."""
    if dimension.choices is not None:
        places = [float(dimension.choices.index(trial.values[key])) for trial in trials]
        axes.set_xticks(range(len(dimension.choices)), [str(choice) for choice in dimension.choices])
        axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
        _scatter(axes, places, trials, metric)
        return
    _scatter(axes, [float(trial.values[key]) for trial in trials], trials, metric)
    low, high = dimension.ends
    if dimension.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        around = (high / low) ** MARGIN
        axes.set_xlim(low / around, high * around)
    else:
        around = (high - low) * MARGIN
        axes.set_xlim(low - around, high + around)


def _scatter(axes: Axes, places: Sequence[float], trials: Sequence[Trial], metric: str) -> None:
    """The trials as points: pruned ones hollow, the best one as a star, those far below at the lower edge."""
    best, floor = best_trial(list(trials)), _floor(trials)
    for label, marker, size, face, edge in (
        ("complete", "o", 28, COMPLETE, COMPLETE),
        ("pruned", "o", 28, "none", PRUNED),
        ("off the scale", "v", 28, "none", PRUNED),
        ("best", "*", 110, BEST, BEST),
    ):
        chosen = [at for at, trial in enumerate(trials) if _label(trial, best, floor) == label]
        if chosen:
            scores = [floor if label == "off the scale" else trials[at].score for at in chosen]
            axes.scatter(
                [places[at] for at in chosen],
                [known_metric(metric).as_score(score) for score in scores],
                s=size,
                marker=marker,
                facecolors=face,
                edgecolors=edge,
                label=label,
                zorder=3,
            )


def _label(trial: Trial, best: Trial | None, floor: float) -> str:
    if trial is best:
        return "best"
    if math.isnan(trial.score) or trial.score < floor:
        return "off the scale"
    return trial.state


def _floor(trials: Sequence[Trial]) -> float:
    """The lowest score that is drawn at its true position."""
    scores = [trial.score for trial in trials if not math.isnan(trial.score)]
    middle = statistics.median(trial.score for trial in trials if trial.state == "complete")
    return max(min(scores), middle - SPREADS_SHOWN * (max(scores) - middle))
