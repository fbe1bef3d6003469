"""Checks on pairs of rows: conflicting labels, duplicates within a split, leakage across splits.

Two rows are alike when their keys are: the table's column `key` holds a text's normal form, or an image's
hash. Its column `shown` says in examples what a row holds.
A test split that a file provides is never altered: scores on it must stay comparable with what others
published. Its rows count against the bounds, and `drop` removes the rows that clash with them instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from components.validate_data.findings import SHOWN_EXAMPLES, Finding, Reasons
from manifests.dataset import SplitName

# A row leaks when its key is also in one of these; the row is the one to go, not its double there.
HELD_OUT_FROM: Mapping[SplitName, tuple[SplitName, ...]] = {
    "train": ("test", "validation"),
    "validation": ("test",),
    "test": (),
}


@dataclass(frozen=True)
class Likeness:
    """Which keys are near-duplicates of which, with their similarity."""

    neighbours: Mapping[str, Sequence[tuple[str, float]]]

    def of(self, key: str, at_least: float) -> Iterator[tuple[str, float]]:
        """The other keys of this similarity or more."""
        return (pair for pair in self.neighbours.get(key, ()) if pair[1] >= at_least)


def find_conflicts(table: pd.DataFrame) -> Finding:
    """Rows that are also there with another label, in whichever split. None of the labels can be trusted."""
    labels = table.groupby("key")["label"].transform("nunique")
    affected = table.index[labels > 1]
    examples = []
    for _, group in table.loc[affected].groupby("key", sort=False):
        given = [f"{label} ({place})" for label, place in zip(group["label"], group["place"], strict=True)]
        examples.append(f"{group['shown'].iloc[0]}: {', '.join(given[:SHOWN_EXAMPLES])}")
        if len(examples) == SHOWN_EXAMPLES:
            break
    return Finding(affected, outside_test(table, affected), examples, reasons=_labelled(table.loc[affected]))


def _labelled(rows: pd.DataFrame) -> Reasons:
    """Which labels the rows of the same key have."""
    labels = rows.groupby("key")["label"].unique()
    words = labels.map(lambda found: f"labelled {', '.join(map(str, found[:SHOWN_EXAMPLES]))}")
    keys = rows["key"]
    return lambda _, some: words.loc[keys.loc[some]].tolist()


def find_exact(table: pd.DataFrame) -> Finding:
    """Rows with the key and the label of an earlier row of their split."""
    contents = zip(table["split"].tolist(), table["key"].tolist(), table["label"].tolist(), strict=True)
    first: dict[tuple[str, str, str], int] = {}
    pairs: dict[int, tuple[int, float]] = {}
    for row, content in zip(table.index.tolist(), contents, strict=True):
        if first.setdefault(content, row) != row:
            pairs[row] = (first[content], 1.0)
    affected = pd.Index(list(pairs), dtype="int64")
    examples = []
    for row in affected[:SHOWN_EXAMPLES]:
        same = table[(table["split"] == table.at[row, "split"]) & (table["key"] == table.at[row, "key"])]
        examples.append(f"{same['shown'].iloc[0]}: {', '.join(same['place'][:SHOWN_EXAMPLES])}")
    return Finding(
        affected,
        outside_test(table, affected),
        list(dict.fromkeys(examples)),
        reasons=partial(like, pairs),
    )


def find_near(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Rows that are near-duplicates of an earlier row of their split which is itself kept."""
    kept: dict[tuple[SplitName, str], int] = {}
    affected: list[int] = []
    examples: list[str] = []
    pairs: dict[int, tuple[int, float]] = {}
    for row, split, key in _keys(table):
        if (split, key) in kept:
            continue
        alike = next((pair for pair in likeness.of(key, similarity) if (split, pair[0]) in kept), None)
        if alike is None:
            kept[split, key] = row
            continue
        affected.append(row)
        pairs[row] = (kept[split, alike[0]], alike[1])
        if len(examples) < SHOWN_EXAMPLES:
            examples.append(_pair(table, row, *pairs[row]))
    index = pd.Index(affected, dtype="int64")
    return Finding(index, outside_test(table, index), examples, reasons=partial(like, pairs))


def find_leaks(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Training rows alike to one of validation or test, and validation rows alike to one of test."""
    first_row: dict[tuple[SplitName, str], int] = {}
    for row, split, key in _keys(table):
        first_row.setdefault((split, key), row)
    affected: list[int] = []
    examples: list[str] = []
    pairs: dict[int, tuple[int, float]] = {}
    for row, split, key in _keys(table):
        doubles = (
            (first_row[held_out, other], score)
            for other, score in [(key, 1.0), *likeness.of(key, similarity)]
            for held_out in HELD_OUT_FROM[split]
            if (held_out, other) in first_row
        )
        double = next(doubles, None)
        if double is None:
            continue
        affected.append(row)
        pairs[row] = double
        if len(examples) < SHOWN_EXAMPLES:
            examples.append(_pair(table, row, *double))
    index = pd.Index(affected, dtype="int64")
    return Finding(index, index, examples, reasons=partial(like, pairs))


def like(pairs: Mapping[int, tuple[int, float]], table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
    """`Reasons`: of each row the one that it is like, and their similarity, as `pairs` has them by row."""
    others, similarities = zip(*(pairs[row] for row in rows.tolist()), strict=True)
    return [
        f"the same as {place}" if similarity == 1 else f"like {place}, similarity {similarity:.2f}"
        for place, similarity in zip(table["place"].loc[list(others)], similarities, strict=True)
    ]


def _keys(table: pd.DataFrame) -> Iterator[tuple[int, SplitName, str]]:
    """Index, split and key of every row, in order."""
    return zip(table.index.tolist(), table["split"].tolist(), table["key"].tolist(), strict=True)


def outside_test(table: pd.DataFrame, rows: pd.Index[int]) -> pd.Index[int]:
    """Those of the rows that `drop` may remove."""
    return rows[(table.loc[rows, "split"] != "test").to_numpy()]


def _pair(table: pd.DataFrame, row: int, other: int, similarity: float) -> str:
    one, two = table.loc[[row, other]].to_dict("records")
    first = f"{one['place']} ({one['split']}) {one['shown']}"
    second = f"{two['place']} ({two['split']})"
    if one["key"] == two["key"]:
        return f"{first} = {second}"
    return f"{first} ≈ {second} {two['shown']}, {similarity:.2f}"
