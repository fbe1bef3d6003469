"""Checks on pairs of rows: conflicting labels, duplicates within a split, leakage across splits.

Two rows are alike if their `key` is: a text's normal form, or an image's hash. `shown` represents a row in
examples. A test split that a file provides is never altered, so that scores on it compare with published
ones: `drop` removes the rows that conflict with it instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import pandas as pd

from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, Finding, Reasons
from gauntlet.manifests.dataset import SPLITS, SplitName

# A row leaks if its key is also in one of these splits; then the row is dropped, not its double there.
HELD_OUT_FROM: Mapping[SplitName, tuple[SplitName, ...]] = {
    "train": ("test", "validation"),
    "validation": ("test",),
    "test": (),
}


class Known(Protocol):
    """Keys that others are compared with."""

    def add(self, key: str) -> None:
        """Add a key that later keys are compared with."""

    def find(self, key: str) -> tuple[str, float] | None:
        """An added key that is similar, with the similarity, or None."""


class Likeness(Protocol):
    """Which keys are near-duplicates of each other."""

    def groups(self, keys: Sequence[str], at_least: float) -> list[int]:
        """A number for each key, equal for keys that a chain of near-duplicates among them connects."""

    def known(self, at_least: float) -> Known:
        """An empty set of keys, which later keys are compared with by this similarity."""


class NothingAlike:
    """The likeness of keys that are alike only if they are equal."""

    def groups(self, keys: Sequence[str], at_least: float) -> list[int]:  # noqa: ARG002
        """As `Likeness.groups`."""
        number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return [number_of[key] for key in keys]

    def known(self, at_least: float) -> Known:  # noqa: ARG002
        """As `Likeness.known`."""
        return self

    def add(self, key: str) -> None:
        """As `Known.add`; nothing is stored."""

    def find(self, key: str) -> None:
        """As `Known.find`: nothing is similar."""


class Groups:
    """Union-find: positions from 0 on, each in its own group until groups are joined."""

    def __init__(self, size: int) -> None:
        """Start with as many groups as positions."""
        self._parents = list(range(size))

    def of(self, position: int) -> int:
        """The number of the position's group, which is a position in it."""
        parents = self._parents
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        self._parents[self.of(one)] = self.of(other)


def find_conflicts(table: pd.DataFrame) -> Finding:
    """Rows whose text also has another label, in any split. None of these labels can be trusted."""
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
        affected, outside_test(table, affected), list(dict.fromkeys(examples)), reasons=partial(like, pairs)
    )


def find_near(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Rows that are near-duplicates of an earlier row of their split that is itself kept."""
    known = {split: likeness.known(similarity) for split in SPLITS}
    kept: dict[tuple[SplitName, str], int] = {}
    pairs: dict[int, tuple[int, float]] = {}
    for row, split, key in _keys(table):
        if (split, key) in kept:
            continue
        alike = known[split].find(key)
        if alike is None:
            kept[split, key] = row
            known[split].add(key)
            continue
        pairs[row] = (kept[split, alike[0]], alike[1])
    return _alike(table, pairs)


def find_leaks(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Training rows that are similar to validation or test rows, and validation rows similar to test rows."""
    known = {split: likeness.known(similarity) for split in HELD_OUT_FROM["train"]}
    first_row: dict[tuple[SplitName, str], int] = {}
    for row, split, key in _keys(table):
        if split in known and (split, key) not in first_row:
            first_row[split, key] = row
            known[split].add(key)
    doubles = {
        row: next(_doubles(key, HELD_OUT_FROM[split], first_row, known), None)
        for row, split, key in _keys(table)
    }
    return _alike(table, {row: double for row, double in doubles.items() if double is not None})


def _alike(table: pd.DataFrame, pairs: Mapping[int, tuple[int, float]]) -> Finding:
    """The rows of `pairs`, each with the row that it is like and their similarity."""
    rows = pd.Index(list(pairs), dtype="int64")
    examples = [_pair(table, row, *pairs[row]) for row in rows[:SHOWN_EXAMPLES].tolist()]
    return Finding(rows, outside_test(table, rows), examples, reasons=partial(like, pairs))


def like(pairs: Mapping[int, tuple[int, float]], table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
    """`Reasons`: the row that each row is like, and their similarity; `pairs` has both by row."""
    others, similarities = zip(*(pairs[row] for row in rows.tolist()), strict=True)
    return [
        f"the same as {place}" if similarity == 1 else f"like {place}, similarity {similarity:.2f}"
        for place, similarity in zip(table["place"].loc[list(others)], similarities, strict=True)
    ]


def _doubles(
    key: str,
    held_out_from: Sequence[SplitName],
    first_row: Mapping[tuple[SplitName, str], int],
    known: Mapping[SplitName, Known],
) -> Iterator[tuple[int, float]]:
    """A row with the key in each of the splits, then a row with a similar key and the similarity."""
    for split in held_out_from:
        if (split, key) in first_row:
            yield first_row[split, key], 1.0
    for split in held_out_from:
        if alike := known[split].find(key):
            yield first_row[split, alike[0]], alike[1]


def _keys(table: pd.DataFrame) -> Iterator[tuple[int, SplitName, str]]:
    return zip(table.index.tolist(), table["split"].tolist(), table["key"].tolist(), strict=True)


def outside_test(table: pd.DataFrame, rows: pd.Index[int]) -> pd.Index[int]:
    """The rows that `drop` may remove."""
    return rows[(table.loc[rows, "split"] != "test").to_numpy()]


def _pair(table: pd.DataFrame, row: int, other: int, similarity: float) -> str:
    one, two = table.loc[[row, other]].to_dict("records")
    first = f"{one['place']} ({one['split']}) {one['shown']}"
    second = f"{two['place']} ({two['split']})"
    if one["key"] == two["key"]:
        return f"{first} = {second}"
    return f"{first} ≈ {second} {two['shown']}, {similarity:.2f}"
