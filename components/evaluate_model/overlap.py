"""How many test rows the models were trained on, and on which of them the two are compared. N = test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gauntlet.components.training_rows import Flags


@dataclass(frozen=True)
class Overlap:
    """Test rows that are training rows, or near-duplicates of one; None where a number is not known.

    Attributes:
        summary: All of this in words.
        clean_rows: Those on which the models are compared: neither was trained on them, as far as that is
            known.
        classes_without_clean_rows: Classes that have test rows, and none among the clean ones.
    """

    challenger: int | None
    summary: str
    champion: int | None = None
    clean_rows: int | None = None
    classes_without_clean_rows: tuple[str, ...] = ()


def clean_rows(count: int, *trained_on: Flags | str) -> Flags:
    """Which of `count` rows no model was trained on, (N,); a model whose rows are not known excludes none."""
    clean = np.ones(count, dtype=bool)
    for flags in trained_on:
        if not isinstance(flags, str):
            clean &= ~flags
    return clean


def describe_overlap(
    count: int, ours: Flags | str, theirs: Flags | str | None, without: Sequence[str] = (), rows: str = "rows"
) -> Overlap:
    """Say on how many of `count` test rows each model was trained, or why that is not known.

    `ours` and `theirs` are flags (N,) or a reason; `theirs` is None without a champion. `without` are the
    classes without clean rows, `rows` is what a row is called.
    """
    challenger = None if isinstance(ours, str) else int(ours.sum())
    own = (
        f"It is not known how many test {rows} are in this model's own training split: {ours}."
        if isinstance(ours, str)
        else _sentence(challenger, count, "this model's own", rows)
    )
    if theirs is None:
        return Overlap(challenger, own)
    clean = int(clean_rows(count, ours, theirs).sum())
    if isinstance(theirs, str):
        summary = (
            f"It is not known how many of the {count} test {rows} were in the champion's training split: "
            f"{theirs}. Compared on {clean}. Rows that the champion was trained on make it look better, so a "
            "model that passes is no worse, but a model that is rejected may be as good. If it is, promote "
            "it by hand; its bundle has the fingerprints."
        )
        return Overlap(challenger, summary, None, clean, tuple(without))
    summary = _sentence(int(theirs.sum()), count, "the champion's", rows).removesuffix(".")
    summary += f"; compared on the {clean} clean {rows}." if clean < count else "."
    if challenger:
        summary = f"{own} {summary}"
    return Overlap(challenger, summary, int(theirs.sum()), clean, tuple(without))


def _sentence(trained: int | None, count: int, whose: str, rows: str) -> str:
    if not trained:
        return f"None of the {count} test {rows} was in {whose} training split."
    was = "was" if trained == 1 else "were"
    return f"{trained} of {count} test {rows} {was} in {whose} training split."
