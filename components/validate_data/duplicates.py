"""Checks on pairs of rows: conflicting labels, duplicates within a split, leakage across splits.

Two rows are alike if their `key` is: a text's normal form, or an image's hash. Distinct keys are numbered
from 0 on in the order of their first rows, and the search functions (`near_rows`, `leaking_rows`,
`equal_rows`, `conflicting_rows`) need only these numbers: N = rows, in their order, K = distinct keys.
`shown` represents a row in examples. A test split that a file provides is never altered, so that scores on it
compare with published ones: `drop` removes the rows that conflict with it instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, Alike, Finding, Reasons
from gauntlet.manifests.dataset import SPLITS, SplitName

# A row leaks if its key is also in one of these splits; then the row is dropped, not its double there.
HELD_OUT_FROM: Mapping[SplitName, tuple[SplitName, ...]] = {
    "train": ("test", "validation"),
    "validation": ("test",),
    "test": (),
}

SHOWN_ALIKE = 8
NONE = -1

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.integer[Any]]
"""Numbers of keys, or codes of splits or labels, of any integer type."""


@dataclass(frozen=True)
class Doubles:
    """Rows that are like another row.

    Attributes:
        rows: Their positions, int64 (M,), ascending.
        others: The position of the row that each is like, int64 (M,).
        similarities: Of the two rows' keys, float64 (M,); 1 if the keys are equal.
    """

    rows: Ints
    others: Ints
    similarities: Floats

    @staticmethod
    def none() -> Doubles:
        """No rows."""
        return Doubles(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


class Likeness(Protocol):
    """Which of K distinct keys, numbered from 0 on, are near-duplicates of each other."""

    def groups(self, at_least: float) -> Ints:
        """A number for each key, int64 (K,), equal for keys that a chain of near-duplicates connects."""

    def repeats(self, keys: Numbers, at_least: float) -> Doubles:
        """The near-duplicates in a sequence of keys (N,), in which a key may occur several times.

        Positions are kept one after the other: a position is like the first of the kept positions before it,
        in the order in which the likeness compares them, whose key is another and similar. A position that is
        like none is kept, and so is one whose key was kept before.

        Returns:
            The positions that are not kept.
        """

    def doubles(self, keys: Numbers, others: Numbers, at_least: float) -> Doubles:
        """For each of some keys (M,) the first of other keys (L,) that is similar.

        `others` are distinct, and none is one of `keys`. "First" is meant in the order in which the likeness
        compares keys, given that others were added in their order.

        Returns:
            The positions in `keys` of those that are like one of `others`, and its position in `others`.
        """


class NothingAlike:
    """The likeness of keys that are alike only if they are equal."""

    def __init__(self, keys: int) -> None:
        """So many keys are distinct."""
        self._keys = keys

    def groups(self, at_least: float) -> Ints:  # noqa: ARG002
        """As `Likeness.groups`."""
        return np.arange(self._keys)

    def repeats(self, keys: Numbers, at_least: float) -> Doubles:  # noqa: ARG002
        """As `Likeness.repeats`."""
        return Doubles.none()

    def doubles(self, keys: Numbers, others: Numbers, at_least: float) -> Doubles:  # noqa: ARG002
        """As `Likeness.doubles`."""
        return Doubles.none()


# --- searches on numbers -----------------------------------------------------------------------------


def near_rows(splits: Numbers, keys: Numbers, likeness: Likeness, similarity: float) -> Doubles:
    """Rows that are near-duplicates of an earlier row of their split that is itself kept.

    Args:
        splits: The code of each row's split, its place in `SPLITS`, (N,).
        keys: The number of each row's key, (N,).
        likeness: Compares the keys.
        similarity: The least of a near-duplicate.
    """
    found = []
    for code in range(len(SPLITS)):
        of_split = np.flatnonzero(splits == code)
        near = likeness.repeats(keys[of_split], similarity)
        found.append(Doubles(of_split[near.rows], of_split[near.others], near.similarities))
    return _together(found)


def leaking_rows(splits: Numbers, keys: Numbers, likeness: Likeness, similarity: float) -> Doubles:
    """Training rows that are similar to validation or test rows, and validation rows similar to test rows.

    The other row is the first with the same key, else one with a similar key; of the test split, else of
    validation. Arguments as in `near_rows`.
    """
    count = int(keys.max(initial=0)) + 1
    first = {split: _first_rows(splits, keys, split, count) for split in HELD_OUT_FROM["train"]}
    found: list[Doubles] = []
    for split, held_out in HELD_OUT_FROM.items():
        left = np.flatnonzero(splits == SPLITS.index(split))
        for other in held_out:
            distinct = _distinct(keys[left], count)
            equal = distinct[first[other][distinct] != NONE]
            double = Doubles(equal, first[other][equal].astype(np.int64), np.ones(len(equal)))
            left = _take(found, left, keys, double)
        for other in held_out:
            distinct = _distinct(keys[left], count)
            known = np.sort(first[other][first[other] != NONE]).astype(np.int64)
            alike = likeness.doubles(distinct, keys[known], similarity)
            double = Doubles(distinct[alike.rows], known[alike.others], alike.similarities)
            left = _take(found, left, keys, double)
    return _together(found)


def _distinct(keys: Numbers, count: int) -> Ints:
    """The keys, each once, ascending; all are smaller than `count`."""
    occurs = np.zeros(count, dtype=np.bool_)
    occurs[keys] = True
    return np.flatnonzero(occurs)


def _first_rows(splits: Numbers, keys: Numbers, split: SplitName, count: int) -> npt.NDArray[np.int32]:
    """The first row in the split that has each key, or `NONE`, (K,)."""
    rows = np.flatnonzero(splits == SPLITS.index(split))[::-1]
    first = np.full(count, NONE, dtype=np.int32)
    first[keys[rows]] = rows  # the last one stays, which is the first
    return first


def _take(found: list[Doubles], left: Ints, keys: Numbers, doubles: Doubles) -> Ints:
    """Add the rows whose key is one of `doubles.rows`, which are keys, ascending; return the other rows."""
    is_double = np.zeros(int(keys.max(initial=0)) + 1, dtype=np.bool_)
    is_double[doubles.rows] = True
    taken = is_double[keys[left]]
    rows = left[taken]
    at = np.searchsorted(doubles.rows, keys[rows])
    found.append(Doubles(rows, doubles.others[at], doubles.similarities[at]))
    rest: Ints = left[~taken]
    return rest


def equal_rows(splits: Numbers, keys: Numbers, labels: Numbers) -> Doubles:
    """Rows with the key and the label of an earlier row of their split; the first such row is the other.

    `labels` are codes, (N,); other arguments as in `near_rows`.
    """
    again = np.flatnonzero(np.bincount(keys)[keys] > 1)
    columns = [column[again] for column in (labels, keys, splits)]
    order = np.lexsort(columns)  # stable, so the first row of a content comes first
    same = np.zeros(len(order), dtype=np.bool_)
    same[1:] = np.logical_and.reduce([column[order[1:]] == column[order[:-1]] for column in columns])
    first = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
    rows, others = again[order[same]], again[first[same]]
    by_row = np.argsort(rows)
    return Doubles(rows[by_row], others[by_row], np.ones(len(rows)))


def conflicting_rows(keys: Numbers, labels: Numbers) -> Flags:
    """Which rows (N,) have a key that also has another label, in any split; `labels` are codes, (N,)."""
    count = int(keys.max(initial=0)) + 1
    one = np.zeros(count, dtype=labels.dtype)
    one[keys] = labels  # of each key the label of one row
    conflicts = np.zeros(count, dtype=np.bool_)
    conflicts[keys[labels != one[keys]]] = True
    return conflicts[keys]


def _together(found: Sequence[Doubles]) -> Doubles:
    if not found:
        return Doubles.none()
    rows = np.concatenate([doubles.rows for doubles in found])
    order = np.argsort(rows)
    others = np.concatenate([doubles.others for doubles in found])
    similarities = np.concatenate([doubles.similarities for doubles in found])
    return Doubles(rows[order], others[order], similarities[order])


# --- checks on tables --------------------------------------------------------------------------------


def find_conflicts(table: pd.DataFrame) -> Finding:
    """Rows whose text also has another label, in any split. None of these labels can be trusted."""
    affected = table.index[conflicting_rows(*(pd.factorize(table[name])[0] for name in ("key", "label")))]
    examples = []
    for _, group in table.loc[affected].groupby("key", sort=False):
        given = [f"{label} ({place})" for label, place in zip(group["label"], group["place"], strict=True)]
        examples.append(f"{group['shown'].iloc[0]}: {', '.join(given[:SHOWN_EXAMPLES])}")
        if len(examples) == SHOWN_EXAMPLES:
            break
    return Finding(
        affected,
        outside_test(table, affected),
        examples,
        reasons=_labelled(table.loc[affected]),
        alike=with_one_key(affected, pd.factorize(table.loc[affected, "key"])[0]),
    )


def _labelled(rows: pd.DataFrame) -> Reasons:
    labels = rows.groupby("key")["label"].unique()
    words = labels.map(lambda found: f"labelled {', '.join(map(str, found[:SHOWN_EXAMPLES]))}")
    keys = rows["key"]
    return lambda _, some: words.loc[keys.loc[some]].tolist()


def find_exact(table: pd.DataFrame) -> Finding:
    """Rows with the key and the label of an earlier row of their split."""
    keys, labels = (pd.factorize(table[name])[0] for name in ("key", "label"))
    doubles = equal_rows(split_codes(table), keys, labels)
    affected = table.index[doubles.rows]
    examples = []
    for row in affected[:SHOWN_EXAMPLES]:
        same = table[(table["split"] == table.at[row, "split"]) & (table["key"] == table.at[row, "key"])]
        examples.append(f"{same['shown'].iloc[0]}: {', '.join(same['place'][:SHOWN_EXAMPLES])}")
    return Finding(
        affected,
        outside_test(table, affected),
        list(dict.fromkeys(examples)),
        reasons=partial(like, _pairs(table, doubles)),
    )


def find_near(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Rows that are near-duplicates of an earlier row of their split that is itself kept.

    The table has the `number` of each row's key.
    """
    return _alike(table, near_rows(split_codes(table), table["number"].to_numpy(), likeness, similarity))


def find_leaks(table: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
    """Training rows that are similar to validation or test rows, and validation rows similar to test rows.

    The table has the `number` of each row's key.
    """
    return _alike(table, leaking_rows(split_codes(table), table["number"].to_numpy(), likeness, similarity))


def split_codes(table: pd.DataFrame) -> npt.NDArray[np.int8]:
    """The place of each row's split in `SPLITS`, (N,)."""
    splits = table["split"]
    if isinstance(splits.dtype, pd.CategoricalDtype) and splits.cat.categories.equals(pd.Index(SPLITS)):
        return splits.cat.codes.to_numpy().astype(np.int8)  # without an object for each row
    return pd.Index(SPLITS).get_indexer(pd.Index(splits)).astype(np.int8)


def _pairs(table: pd.DataFrame, doubles: Doubles) -> dict[int, tuple[int, float]]:
    rows, others = table.index[doubles.rows].tolist(), table.index[doubles.others].tolist()
    return dict(zip(rows, zip(others, doubles.similarities.tolist(), strict=True), strict=True))


def _alike(table: pd.DataFrame, doubles: Doubles) -> Finding:
    """The rows, each with the row that it is like and their similarity."""
    pairs = _pairs(table, doubles)
    rows = table.index[doubles.rows]
    examples = [pair_in_words(table, row, *pairs[row]) for row in rows[:SHOWN_EXAMPLES].tolist()]
    return Finding(
        rows,
        outside_test(table, rows),
        examples,
        reasons=partial(like, pairs),
        alike=most_alike(table.index, doubles),
    )


def most_alike(index: pd.Index[int], doubles: Doubles) -> tuple[Alike, ...]:
    """The pairs with the highest similarity, for the report, and of those with one `other` only the first."""
    order = np.lexsort((doubles.rows, -doubles.similarities))
    first = order[np.sort(np.unique(doubles.others[order], return_index=True)[1])[:SHOWN_ALIKE]]
    rows, others = index[doubles.rows[first]].tolist(), index[doubles.others[first]].tolist()
    similarities = doubles.similarities[first].tolist()
    return tuple(
        Alike((row, other), similarity)
        for row, other, similarity in zip(rows, others, similarities, strict=True)
    )


def with_one_key(index: pd.Index[int], keys: Numbers) -> tuple[Alike, ...]:
    """The first rows of the first keys, for the report; `keys` are those of the rows of `index`."""
    first = np.sort(np.unique(keys, return_index=True)[1])[:SHOWN_ALIKE]
    return tuple(
        Alike(tuple(index[np.flatnonzero(keys == key)[:SHOWN_EXAMPLES]].tolist())) for key in keys[first]
    )


def like(pairs: Mapping[int, tuple[int, float]], table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
    """`Reasons`: the row that each row is like, and their similarity; `pairs` has both by row."""
    others, similarities = zip(*(pairs[row] for row in rows.tolist()), strict=True)
    return [
        f"the same as {place}" if similarity == 1 else f"like {place}, similarity {similarity:.2f}"
        for place, similarity in zip(table["place"].loc[list(others)], similarities, strict=True)
    ]


def outside_test(table: pd.DataFrame, rows: pd.Index[int]) -> pd.Index[int]:
    """The rows that `drop` may remove."""
    splits = table["split"].iloc[positions_in(table.index, rows)]
    return rows[(splits != "test").to_numpy()]


def positions_in(index: pd.Index[int], rows: pd.Index[int]) -> Ints:
    """The positions of rows in an ascending index, which for `loc` would get a hash table of all rows."""
    every = index.to_numpy()
    found: Ints = np.searchsorted(every, rows.to_numpy(every.dtype))
    return found


def pair_in_words(table: pd.DataFrame, row: int, other: int, similarity: float) -> str:
    """A row of a table with `place`, `split`, `shown` and `key`, and the row that it is like."""
    one, two = table.loc[[row, other]].to_dict("records")
    first = f"{one['place']} ({one['split']}) {one['shown']}"
    second = f"{two['place']} ({two['split']})"
    if one["key"] == two["key"]:
        return f"{first} = {second}"
    return f"{first} ≈ {second} {two['shown']}, {similarity:.2f}"
