"""Two language models' answers to the same prompts: how surely the figures of the two differ. N = rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.pipelines.comparison.differences import CONFIDENCE, RESAMPLES, SEED, Interval
from gauntlet.pipelines.comparison.runs import ComparedRun

Rows = Sequence[Mapping[str, Any]]
"""As evaluate-model left them in `predictions.json`."""


def answer_intervals(first: ComparedRun, second: ComparedRun) -> dict[str, Interval] | str:
    """Of the difference B − A of each figure, on the same resampled conversations; or why there are none."""
    for name, run in (("A", first), ("B", second)):
        if run.answers is None:
            return f"{name} was not evaluated on its test split: {run.outcome}"
        if any("conversation" not in row for row in run.answers):
            return f"{name} is of a time when rows did not tell their conversation; run it again"
    assert first.answers is not None and second.answers is not None
    asked = [
        [(row["conversation"], row["prompt"], row["reference"]) for row in run]
        for run in (first.answers, second.answers)
    ]
    if asked[0] != asked[1]:
        return f"the test prompts are not the same: {len(asked[0]):,} of A, {len(asked[1]):,} of B"
    from gauntlet.tasks.language.metrics import draws

    weights = draws([conversation for conversation, *_ in asked[0]], RESAMPLES, SEED)
    ours, theirs = (_resampled(run, weights) for run in (first.answers, second.answers))
    if [row.get("tokens") for row in first.answers] != [row.get("tokens") for row in second.answers]:
        ours.pop("perplexity", None)  # of other tokens, and so no difference
    return {
        name: bootstrap.interval(theirs[name] - ours[name], CONFIDENCE) for name in ours if name in theirs
    }


def _resampled(rows: Rows, weights: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    from gauntlet.tasks.language.metrics import figures, row_figures

    known = all("loss" in row for row in rows)
    return figures(
        row_figures(
            references=[row["reference"] for row in rows],
            greedy=[row["answer"] for row in rows],
            sampled=[row["sampled_answer"] for row in rows],
            losses=np.array([row["loss"] for row in rows], dtype=np.float64) if known else None,
            tokens=np.array([row["tokens"] for row in rows], dtype=np.float64) if known else np.empty(0),
        ),
        weights,
    )
