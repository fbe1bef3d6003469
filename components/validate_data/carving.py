"""Make the splits that no file provides, so that a row stays in its split when the data change.

The split of a row depends only on its group, a chain of near-duplicates, which lies in one split. The name of
a group, the smallest hash of its members, is hashed to a number from 0 to 1: the lowest numbers are test, the
next ones validation, the rest train. A new row that is a near-duplicate of k others renames their group with
probability 1 / (k + 1).

A class with too few rows in a held-out split gets those with the next lowest numbers. As it grows, rows go
back from test to validation and from validation to train, so a training row never becomes a test row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.validate_data.classes import each_label
from gauntlet.components.validate_data.duplicates import (
    Flags,
    Floats,
    Ints,
    Likeness,
    Numbers,
    split_codes,
)
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError

HELD_OUT: tuple[SplitName, ...] = ("test", "validation")
"""In the order of their numbers: validation always lies between test and train."""

TRAIN = SPLITS.index("train")
NUMBERS = 2.0**64
HASH_BYTES = 16
NAMES_AT_ONCE = 100_000

Hashes = npt.NDArray[np.uint64]
"""The hashes of keys, uint64 (K, 2), the first 64 bits first: 32 hexadecimal digits are a name."""


def hashes_of(keys: Iterable[str]) -> Hashes:
    """The hash of each key, (K, 2); as hexadecimal digits the same as `training_rows.hash_of`."""
    encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
    digests = b"".join([hashlib.blake2b(key, digest_size=HASH_BYTES).digest() for key in encoded])
    return np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def named_by(groups: Numbers, hashes: Hashes) -> npt.NDArray[np.int32]:
    """For each key the number of the key that names its group, the one with the smallest hash, (K,).

    `groups` are as `Likeness.groups` returns them, (K,).
    """
    names = np.arange(len(groups), dtype=np.int32)
    several = np.flatnonzero((np.bincount(groups) > 1)[groups])
    order = several[np.lexsort((hashes[several, 1], hashes[several, 0], groups[several]))]
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = groups[order[1:]] != groups[order[:-1]]
    names[order] = order[is_first][np.cumsum(is_first) - 1]
    return names


def with_groups(table: pd.DataFrame, likeness: Likeness, similarity: float) -> pd.DataFrame:
    """The table with `group`, the name of the group of each row's key, which has a `number`.

    The keys are numbered from 0 on in the order of their first rows.
    """
    hashes = hashes_of(table["key"].iloc[np.unique(table["number"], return_index=True)[1]])
    names = named_by(likeness.groups(similarity), hashes)
    digits = [f"{high:016x}{low:016x}" for high, low in hashes[names].tolist()]
    return table.assign(group=[digits[number] for number in table["number"].tolist()])


def carve(
    table: pd.DataFrame,
    missing: Sequence[SplitName],
    fractions: Mapping[SplitName, float],
    least: int,
    split_key: str = "",
) -> pd.DataFrame:
    """The table with `split` set to validation or test for the groups that belong there: see `carve_rows`.

    The table has `split`, `label` or `labels` (see `each_label`) and `group`, a group's name; with a column
    `time` (a number) the splits are made by time.
    """
    groups, names = pd.factorize(table["group"])
    positions = table[["label", "labels"] if "labels" in table else ["label"]].reset_index(drop=True)
    labelled = each_label(positions)
    labels, _ = pd.factorize(labelled["label"], sort=True)
    codes = carve_rows(
        split_codes(table),
        groups,
        np.array([[int(name[:16], 16), int(name[16:], 16)] for name in names], np.uint64).reshape(-1, 2),
        labels,
        labelled.index.to_numpy(),
        missing,
        fractions,
        least,
        split_key,
        rarest_first="labels" in table,
        times=table["time"].to_numpy(np.float64) if "time" in table else None,
    )
    return table.assign(split=[SPLITS[code] for code in codes.tolist()])


def carve_rows(
    splits: Numbers,
    groups: Numbers,
    hashes: Hashes,
    labels: Numbers,
    labelled: Numbers,
    missing: Sequence[SplitName],
    fractions: Mapping[SplitName, float],
    least: int,
    split_key: str = "",
    rarest_first: bool = False,
    times: Floats | None = None,
) -> npt.NDArray[np.int8]:
    """The code of each row's split, (N,), with validation or test for the groups that belong there.

    Groups with a row in a split that a file provides stay in train, where the leakage check finds them.

    Args:
        splits: The code of the split of each row's file, its place in `SPLITS`, (N,).
        groups: The number of each row's group, (N,), a row of `hashes`.
        hashes: The names of the groups, (G, 2); other rows may lie between them.
        labels: The code of a label, (L,), in the alphabetical order of the labels' names.
        labelled: The row that has the label, (L,): the rows themselves if each row has one label.
        missing: The splits that no file provides.
        fractions: Shares of the rows, relative to each other.
        least: Rows that each class gets in every split, if it has enough. Not used for splits by time.
        split_key: Another key gives other splits.
        rarest_first: Classes get their rows in the order of their sizes, since a row that is chosen for one
            has other labels too; else in the order of `labels`.
        times: Of each row, (N,). The newest groups are test and those before them validation; a group is as
            old as its oldest row.

    Raises:
        DataError: The rows have too few different times to be split by them.
    """
    codes = splits.astype(np.int8)
    wanted = [split for split in HELD_OUT if split in missing]
    if not wanted:
        return codes
    provided = np.zeros(len(hashes), dtype=np.bool_)
    provided[groups[splits != TRAIN]] = True
    rows = np.flatnonzero(~provided[groups]).astype(np.int32)
    if not len(rows):
        return codes
    total = fractions["train"] + sum(fractions[split] for split in wanted)
    shares = {split: fractions[split] / total for split in wanted}
    first = np.full(len(hashes), len(codes), dtype=np.int32)
    first[groups[rows[::-1]]] = rows[::-1]
    free = np.flatnonzero(first < len(codes))
    free = free[np.argsort(first[free])]  # groups, in the order of their first rows
    number_of = np.empty(len(hashes), dtype=np.int32)
    number_of[free] = np.arange(len(free))
    number = number_of[groups[rows]]
    if times is not None:
        split_of = _by_time(number, times[rows], shares)
    else:
        kept = ~provided[groups[labelled]]
        pairs = labels[kept], number_of[groups[labelled[kept]]]
        split_of = _by_hash(_numbers(hashes[free], split_key), *pairs, shares, least, rarest_first)
    codes[rows] = split_of[number]
    return codes


def _by_hash(
    drawn: Floats,
    labels: Numbers,
    groups: Numbers,
    shares: Mapping[SplitName, float],
    least: int,
    rarest_first: bool,
) -> npt.NDArray[np.int8]:
    """The split of each group, (G,), by its number `drawn` (G,) and the labels and groups of rows, (L,)."""
    classes = _classes(drawn, labels, groups)
    if rarest_first:
        classes.sort(key=lambda of_class: int(of_class[1].sum()))
    split_of = np.full(len(drawn), TRAIN, dtype=np.int8)
    end = 0.0
    for later, split in zip(range(len(shares), 0, -1), shares, strict=True):
        end += shares[split]
        left = split_of == TRAIN
        chosen = left & (drawn < end)
        for members, sizes in classes:
            enough = min(least, int(sizes.sum()) // (len(shares) + 1))
            of_left = left[members]
            _top_up(chosen, members[of_left], sizes[of_left], enough, later)
        split_of[chosen] = SPLITS.index(split)
    return split_of


def _classes(drawn: Floats, labels: Numbers, groups: Numbers) -> list[tuple[Ints, Ints]]:
    """For each label the groups that have it, in the order of their numbers, and its rows in each."""
    if not len(labels):
        return []
    by_number = np.lexsort((np.arange(len(drawn)), drawn))
    place = np.empty(len(drawn), dtype=np.int64)
    place[by_number] = np.arange(len(drawn))
    pairs = place[groups]
    pairs += labels.astype(np.int64) * len(drawn)
    pairs.sort()
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    sizes = np.diff(starts, append=len(pairs))
    of_label, places = np.divmod(pairs[starts], len(drawn))
    ends = np.flatnonzero(np.diff(of_label)) + 1
    return list(zip(np.split(by_number[places], ends), np.split(sizes, ends), strict=True))


def _top_up(chosen: Flags, groups: Ints, sizes: Ints, enough: int, later: int) -> None:
    """Choose more of a class's groups, in their order, until it has `enough` rows.

    A group stays if without it the `later` splits could not have enough rows each.
    """
    are_chosen = chosen[groups]
    found = int(sizes[are_chosen].sum())
    spare = int(sizes[~are_chosen].sum()) - enough * later
    if found >= enough:
        return
    for group, size in zip(groups[~are_chosen].tolist(), sizes[~are_chosen].tolist(), strict=True):
        if size <= spare:
            chosen[group] = True
            found += size
            spare -= size
            if found >= enough:
                return


def _numbers(hashes: Hashes, split_key: str) -> Floats:
    """A number from 0 to 1 for each group, (G,), from its name (G, 2)."""
    lead, digits = f"{split_key}\0".encode(), 2 * HASH_BYTES
    numbers = np.empty(len(hashes))
    for start in range(0, len(hashes), NAMES_AT_ONCE):
        some = hashes[start : start + NAMES_AT_ONCE].astype(">u8").tobytes().hex().encode()
        names = (lead + some[at : at + digits] for at in range(0, len(some), digits))
        digests = b"".join([hashlib.blake2b(name, digest_size=8).digest() for name in names])
        numbers[start : start + NAMES_AT_ONCE] = np.frombuffer(digests, dtype=">u8") / NUMBERS
    return numbers


def _by_time(groups: Numbers, times: Floats, shares: Mapping[SplitName, float]) -> npt.NDArray[np.int8]:
    """The newest groups; groups of one time lie in one split, so a share is met only approximately.

    The split of each group, (G,), by the groups and times of rows, (N,).
    """
    oldest = np.full(int(groups.max()) + 1, np.inf)
    np.minimum.at(oldest, groups, times)
    ascending, inverse, rows = np.unique(oldest[groups], return_inverse=True, return_counts=True)
    if len(ascending) <= len(shares):
        raise DataError(
            f"dataset.columns.time: found {len(ascending)} different times, expected at least "
            f"{len(shares) + 1}, one for each split. Name a column with more values"
        )
    newest = np.cumsum(rows[::-1])
    split_of_time = np.full(len(ascending), TRAIN, dtype=np.int8)
    start, share = 0, 0.0
    for later, split in zip(range(len(shares), 0, -1), shares, strict=True):
        share += shares[split]
        nearest = int(np.abs(newest - share * newest[-1]).argmin()) + 1
        end = min(max(nearest, start + 1), len(ascending) - later)
        split_of_time[len(ascending) - end : len(ascending) - start] = SPLITS.index(split)
        start = end
    split_of = np.empty(len(oldest), dtype=np.int8)
    split_of[groups] = split_of_time[inverse]
    return split_of
