"""Two versions on the same labelled rows: from the log, or by asking a bundle again what the log stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from gauntlet.contracts.drift import Paired
from gauntlet.serving.bundle import open_model
from gauntlet.serving.interface import Request


def compared(version: str, wrong: Sequence[bool], other_wrong: Sequence[bool]) -> Paired:
    """Compare this version with `version`, given which rows each has wrong.

    The rows that only one of them has wrong decide: McNemar's exact test (doi:10.1007/BF02295996), one-sided.
    """
    ours = sum(one and not other for one, other in zip(wrong, other_wrong, strict=True))
    theirs = sum(other and not one for one, other in zip(wrong, other_wrong, strict=True))
    differing = ours + theirs
    p_value = float(binomtest(ours, differing, 0.5, alternative="greater").pvalue) if differing else 1.0
    return Paired(
        version=version, rows=len(wrong), errors=sum(wrong), other_errors=sum(other_wrong), p_value=p_value
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
