"""How many test rows the models were trained on, and on which of them the two are compared. N = test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.training_rows import Flags


@dataclass(frozen=True)
class Overlap:
    """Test rows that are training rows, or near-duplicates of one.

    Attributes:
        challenger: How many are the challenger's; None where that is not known.
        summary: All of this in words.
        champion: How many are the champion's; None where that is not known, or without a champion.
        clean_rows: Those that the champion is compared on: neither model was trained on them, as far as that
            is known. None without a champion.
        classes_without_clean_rows: Classes that have test rows, and none among the clean ones.
    """

    challenger: int | None
    summary: str
    champion: int | None = None
    clean_rows: int | None = None
    classes_without_clean_rows: tuple[str, ...] = ()


def clean_rows(count: int, *trained_on: Flags | str) -> Flags:
    """Of `count` rows those that no model was trained on, (N,); one that is not known leaves nothing out."""
    clean = np.ones(count, dtype=bool)
    for flags in trained_on:
        if not isinstance(flags, str):
            clean &= ~flags
    return clean


def describe_overlap(
    count: int, ours: Flags | str, theirs: Flags | str | None, without: Sequence[str] = (), rows: str = "rows"
) -> Overlap:
    """Count the rows of `count` that this model, and the champion, were trained on, or say why not.

    Args:
        count: Test rows, N.
        ours: Which of them the challenger was trained on, or why that is not known.
        theirs: The same of the champion; None without one.
        without: Classes that have test rows and no clean ones.
        rows: What a row is called.
    """
    challenger = None if isinstance(ours, str) else int(ours.sum())
    own = (
        f"How many test {rows} are in this model's own training split is not known: {ours}."
        if isinstance(ours, str)
        else _sentence(challenger, count, "this model's own", rows)
    )
    if theirs is None:
        return Overlap(challenger, own)
    clean = int(clean_rows(count, ours, theirs).sum())
    if isinstance(theirs, str):
        summary = (
            f"How many of the {count} test {rows} were in the champion's training split is not known: "
            f"{theirs}. Compared on {clean}. Rows that the champion was trained on make it look better, so a "
            "model that passes is no worse, and one that is rejected may be as good: if so, promote it by "
            "hand, and from then on this is known."
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
