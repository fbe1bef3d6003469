"""Two language models' answers to the same prompts: how surely the figures of the two differ. N = rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.components.write_report.comparison import CONFIDENCE, RESAMPLES, SEED, Evaluated, Paired
from gauntlet.manifests.errors import GauntletError
from gauntlet.pages.formatting import count
from gauntlet.tasks.language.metrics import draws, figures, row_figures

ANSWERS_FILE = "predictions.json"
Rows = Sequence[Mapping[str, Any]]
"""As evaluate-model left them in `predictions.json`."""


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """The interval of the difference B − A of each figure, on the same resampled conversations.

    Raises:
        GauntletError: The answers of a run cannot be read.
    """
    answers = []
    for name, run in (("A", first), ("B", second)):
        file = run.predictions / ANSWERS_FILE
        if not file.is_file():
            return Paired(unpaired=f"{name} left no answers to its test prompts")
        try:
            answers.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise GauntletError(f"{file}: the run cannot be read ({error}). Run it again.") from None
        if any("conversation" not in row for row in answers[-1]):
            return Paired(unpaired=f"{name} does not record the conversation of its rows; run it again")
    asked = [[(row["conversation"], row["prompt"], row["reference"]) for row in rows] for rows in answers]
    if asked[0] != asked[1]:
        return Paired(
            unpaired=f"the test prompts are not the same: {len(asked[0]):,} of A, {len(asked[1]):,} of B"
        )
    weights = draws([conversation for conversation, *_ in asked[0]], RESAMPLES, SEED)
    ours, theirs = (_resampled(rows, weights) for rows in answers)
    if [row.get("tokens") for row in answers[0]] != [row.get("tokens") for row in answers[1]]:
        ours.pop("perplexity", None)  # of other tokens, so there is no difference to speak of
    return Paired(
        intervals={
            name: bootstrap.interval(theirs[name] - ours[name], CONFIDENCE) for name in ours if name in theirs
        },
        summary=f"Both answered the same {count(len(answers[0]))} prompts.",
    )


def _resampled(rows: Rows, weights: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
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
