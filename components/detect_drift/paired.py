"""Two versions on the same labelled rows: from the log, or by asking a bundle again what the log stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from gauntlet.contracts.drift import Paired
from gauntlet.serving.bundle import open_model
from gauntlet.serving.interface import Request

Floats = npt.NDArray[np.float64]


def compared(version: str, losses: Floats, other_losses: Floats) -> Paired:
    """Compare this version's losses (L,) with those of `version` on the same rows, each from 0 to 1.

    The rows in which one of them is better decide: for right and wrong that is McNemar's exact test
    (doi:10.1007/BF02295996), one-sided, and for distances the sign test.
    """
    worse, better = int((losses > other_losses).sum()), int((losses < other_losses).sum())
    differing = worse + better
    p_value = float(binomtest(worse, differing, 0.5, alternative="greater").pvalue) if differing else 1.0
    return Paired(
        version=version,
        rows=len(losses),
        errors=int((losses > 0).sum()),
        other_errors=int((other_losses > 0).sum()),
        p_value=p_value,
    )


def predictions(bundle: Path, inputs: Sequence[str]) -> list[str]:
    """What a bundle predicts for texts as the request log stores them: one, or a JSON object of several."""
    model: Any = open_model(bundle)
    columns: Sequence[str] = model.columns
    texts = list(inputs)
    if len(columns) > 1:
        rows = [json.loads(one) for one in inputs]
        texts = [row[column] for row in rows for column in columns]
    return [str(model.logged(answer)["predicted"]) for answer in model.answer(Request(texts))]
