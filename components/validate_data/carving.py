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
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gauntlet.components.training_rows import hash_of
from gauntlet.components.validate_data.classes import each_label
from gauntlet.components.validate_data.duplicates import Likeness
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError

HELD_OUT: tuple[SplitName, ...] = ("test", "validation")
"""In the order of their numbers: validation always lies between test and train."""

NUMBERS = 2.0**64


def group_names(keys: Sequence[str], likeness: Likeness, similarity: float) -> list[str]:
    """The name of each key's group, a chain of near-duplicates: the smallest hash of its keys."""
    numbers = likeness.groups(keys, similarity)
    names: dict[int, str] = {}
    for key, number in zip(keys, numbers, strict=True):
        found = hash_of(key)
        names[number] = min(names.get(number, found), found)
    return [names[number] for number in numbers]


def carve(
    table: pd.DataFrame,
    missing: Sequence[SplitName],
    fractions: Mapping[SplitName, float],
    least: int,
    split_key: str = "",
) -> pd.DataFrame:
    """The table with `split` set to validation or test for the groups that belong there.

    Groups with a row in a split that a file provides stay in train, where the leakage check finds them.

    Args:
        table: With `split`, `label` or `labels` (see `each_label`) and `group`, a group's name. With a column
            `time` (a number), the newest groups are test and those before them validation; a group is as old
            as its oldest row.
        missing: The splits that no file provides.
        fractions: Shares of the rows, relative to each other.
        least: Rows that each class gets in every split, if it has enough. Not used for splits by time.
        split_key: Another key gives other splits.

    Raises:
        DataError: The rows have too few different times to be split by them.
    """
    provided = set(table.loc[table["split"] != "train", "group"])
    free = table[~table["group"].isin(provided)]
    wanted = [split for split in HELD_OUT if split in missing]
    total = fractions["train"] + sum(fractions[split] for split in wanted)
    shares = {split: fractions[split] / total for split in wanted}
    if not wanted or free.empty:
        return table.copy()
    split_of = _by_time(free, shares) if "time" in table else _by_hash(free, shares, least, split_key)
    old = zip(table["group"], table["split"], strict=True)
    return table.assign(split=[split_of.get(group, split) for group, split in old])


def _by_hash(
    free: pd.DataFrame, shares: Mapping[SplitName, float], least: int, split_key: str
) -> dict[str, SplitName]:
    number_of = {group: _number(group, split_key) for group in free["group"].unique()}
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    rows = each_label(free)
    for label, group in zip(rows["label"], rows["group"], strict=True):
        sizes[label][group] += 1
    labels = sorted(sizes)
    if "labels" in free:  # the rarest first, since a row that is chosen for it has other labels too
        labels.sort(key=lambda label: sizes[label].total())
    ordered = {label: sorted(sizes[label], key=number_of.__getitem__) for label in labels}
    split_of: dict[str, SplitName] = {}
    end = 0.0
    for later, split in zip(range(len(shares), 0, -1), shares, strict=True):
        end += shares[split]
        chosen = {group for group, number in number_of.items() if number < end and group not in split_of}
        for label, groups in ordered.items():
            enough = min(least, sizes[label].total() // (len(shares) + 1))
            left = [group for group in groups if group not in split_of]
            _top_up(chosen, left, sizes[label], enough, later)
        split_of |= dict.fromkeys(chosen, split)
    return split_of


def _top_up(
    chosen: set[str], groups: Sequence[str], sizes: Mapping[str, int], enough: int, later: int
) -> None:
    """Choose more of a class's groups, in their order, until it has `enough` rows.

    A group stays if without it the `later` splits could not have enough rows each.
    """
    found = sum(sizes[group] for group in groups if group in chosen)
    spare = sum(sizes[group] for group in groups if group not in chosen) - enough * later
    for group in groups:
        if found >= enough:
            return
        if group not in chosen and sizes[group] <= spare:
            chosen.add(group)
            found += sizes[group]
            spare -= sizes[group]


def _number(group: str, split_key: str) -> float:
    digest = hashlib.blake2b(f"{split_key}\0{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / NUMBERS


def _by_time(free: pd.DataFrame, shares: Mapping[SplitName, float]) -> dict[str, SplitName]:
    """The newest groups; groups of one time lie in one split, so a share is met only approximately."""
    groups = free.groupby("group", sort=False).agg(time=("time", "min"), rows=("time", "size"))
    by_time = groups.groupby("time")["rows"].sum().sort_index(ascending=False)
    if len(by_time) <= len(shares):
        raise DataError(
            f"dataset.columns.time: found {len(by_time)} different times, expected at least "
            f"{len(shares) + 1}, one for each split. Name a column with more values"
        )
    times, newest = by_time.index.to_numpy(), by_time.cumsum().to_numpy()
    split_of_time: dict[float, SplitName] = {}
    start, share = 0, 0.0
    for later, split in zip(range(len(shares), 0, -1), shares, strict=True):
        share += shares[split]
        nearest = int(np.abs(newest - share * newest[-1]).argmin()) + 1
        end = min(max(nearest, start + 1), len(times) - later)
        split_of_time |= dict.fromkeys(times[start:end].tolist(), split)
        start = end
    found = groups["time"].map(split_of_time).dropna()
    return {str(group): split for group, split in found.items()}
