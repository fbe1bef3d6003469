"""Find the test rows that a model was trained on, by fingerprints of rows.

A bundle contains the fingerprints of its training rows. A fingerprint is 64 bits of a hash of the key that
checks compare: a text's normal form, an image's pixels, a certificate, the opening of a conversation. A row
cannot be read from it, but whoever has the row can check whether the model was trained on it. N = test rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.contracts.document import replacing
from gauntlet.contracts.scores import TrainingOverlap
from gauntlet.serving.bundle import TRAINING_ROWS_FILE, BundleInfo

TEST_ROWS_FILE = "test_rows.npz"
NO_FINGERPRINTS = "its bundle was made by an older release, which wrote no fingerprints of training rows"
OTHER_FINGERPRINTS = "its bundle was made by another release, which wrote another kind of fingerprints"
TRAINED_ELSEWHERE = "it was trained elsewhere, so its training rows are not known"
NOT_TESTED = -1
DIGITS = 16  # of a hash in hexadecimal, for 64 bits

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowFingerprints:
    """Fingerprints of the test rows and of their near-duplicates.

    Attributes:
        kind: What the fingerprints are made of. Those of different kinds cannot be compared.
        fingerprints: uint64 (M,), of the test rows and of all rows in a group with one that are not in train.
        groups: The number of the group of each, (M,).
        row_groups: The number of the group of each test row, in the order of the split, (N,).
    """

    kind: str
    fingerprints: npt.NDArray[np.uint64]
    groups: npt.NDArray[np.int64]
    row_groups: npt.NDArray[np.int64]

    def among(self, training_rows: npt.NDArray[np.uint64]) -> Flags:
        """Which test rows are training rows or near-duplicates of one, (N,)."""
        seen = self.groups[np.isin(self.fingerprints, training_rows)]
        return np.isin(self.row_groups, seen)


@dataclass(frozen=True)
class HashedGroups:
    """The groups of near-duplicates of K keys, of which only the hashes are known.

    Attributes:
        hashes: The hash of each key, 128 bits in two numbers, uint64 (K, 2).
        names: The number of the key that names the group of each key, (K,).
    """

    hashes: npt.NDArray[np.uint64]
    names: npt.NDArray[np.integer[Any]]


def write_fingerprints(
    folder: Path, kind: str, table: pd.DataFrame, groups: Mapping[str, str] | HashedGroups
) -> None:
    """Write the fingerprints of training and test rows into the folder of the splits.

    `table` has `split` and `key`, in the order of the splits; `groups` has the group of every key that was
    read. If `groups` are hashed, the table has the `number` of each key instead of the key.
    """
    if isinstance(groups, HashedGroups):
        prints, of_keys, numbers = groups.hashes[:, 0], groups.names, table["number"].to_numpy()
    else:
        number_of = {key: number for number, key in enumerate(groups)}
        prints, numbers = fingerprints_of(list(groups)), table["key"].map(number_of).to_numpy(np.int64)
        of_keys = np.unique(list(groups.values()), return_inverse=True)[1]
    train, test = (numbers[(table["split"] == split).to_numpy()] for split in ("train", "test"))
    tested = np.unique(of_keys[test])
    if isinstance(groups, HashedGroups):  # in the order of the groups' names, as in the other case
        tested = tested[np.lexsort((groups.hashes[tested, 1], groups.hashes[tested, 0]))]
    places = np.full(len(prints), NOT_TESTED, dtype=np.int32)
    places[tested] = np.arange(len(tested))
    trained = np.zeros(len(prints), dtype=np.bool_)
    trained[train] = True
    _write(folder / TRAINING_ROWS_FILE, kind=kind, fingerprints=_each_once(prints[trained]))
    # The leakage check has compared today's training rows with the test rows.
    trained[test] = False
    members = np.flatnonzero((places != NOT_TESTED)[of_keys] & ~trained)
    _write(
        folder / TEST_ROWS_FILE,
        kind=kind,
        fingerprints=prints[members],
        groups=places[of_keys[members]].astype(np.int64),
        row_groups=places[of_keys[test]].astype(np.int64),
    )


def _each_once(prints: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The different fingerprints, ascending; `prints` are sorted in place, for they need much memory."""
    prints.sort()
    again = np.flatnonzero(prints[1:] == prints[:-1])
    return np.delete(prints, again) if len(again) else prints


def hash_of(key: str) -> str:
    """The hash of a row's key: 32 hexadecimal digits."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def fingerprints_of(keys: list[str]) -> npt.NDArray[np.uint64]:
    """The first 64 bits of each key's hash."""
    return np.array([int(hash_of(key)[:DIGITS], 16) for key in keys], dtype=np.uint64)


def bundled_file(splits: Path) -> dict[str, Path]:
    """The file of training-row fingerprints for a bundle, by its name; empty if the splits have none."""
    path = splits / TRAINING_ROWS_FILE
    return {TRAINING_ROWS_FILE: path} if path.is_file() else {}


def read_test_rows(splits: Path) -> RowFingerprints | None:
    """The fingerprints of the test split; None if an older release wrote the splits."""
    path = splits / TEST_ROWS_FILE
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return RowFingerprints(
            str(arrays["kind"]), arrays["fingerprints"], arrays["groups"], arrays["row_groups"]
        )


def trained_on(bundle: Path, info: BundleInfo, tested: RowFingerprints | None) -> Flags | str:
    """Which test rows the model of a verified bundle was trained on, (N,), or why that is unknown."""
    if tested is None:
        return "the splits were made by an older release, which wrote no fingerprints of test rows"
    if TRAINING_ROWS_FILE not in info.files:
        return TRAINED_ELSEWHERE if "origin" in info.lineage else NO_FINGERPRINTS
    with np.load(bundle / TRAINING_ROWS_FILE, allow_pickle=False) as arrays:
        if str(arrays["kind"]) != tested.kind:
            return OTHER_FINGERPRINTS
        return tested.among(arrays["fingerprints"])


def _write(path: Path, **arrays: Any) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def clean_rows(count: int, *trained_on: Flags | str) -> Flags:
    """Which of `count` rows no model was trained on, (N,); a model whose rows are not known excludes none."""
    clean = np.ones(count, dtype=bool)
    for flags in trained_on:
        if not isinstance(flags, str):
            clean &= ~flags
    return clean


def describe_overlap(
    count: int,
    challenger: Flags | str,
    champion: Flags | str | None,
    without: Sequence[str] = (),
    rows: str = "rows",
) -> TrainingOverlap:
    """Say on how many of `count` test rows each model was trained, or why that is not known.

    Args:
        count: N.
        challenger: Which test rows it was trained on, (N,), or why that is not known.
        champion: The same; None if none is registered.
        without: The classes without clean rows.
        rows: What rows are called.
    """
    seen = None if isinstance(challenger, str) else int(challenger.sum())
    own = (
        f"It is not known how many test {rows} are in this model's own training split: {challenger}."
        if seen is None
        else _sentence(seen, count, "this model's own", rows)
    )
    if champion is None:
        return TrainingOverlap(challenger=seen, summary=own)
    clean = int(clean_rows(count, challenger, champion).sum())
    seen_by_champion = None if isinstance(champion, str) else int(champion.sum())
    if seen_by_champion is None:
        summary = (
            f"It is not known how many of the {count} test {rows} were in the champion's training split: "
            f"{champion}. Compared on {clean}. Rows that the champion was trained on make it look better, so "
            "a model that passes is no worse, but a model that is rejected may be as good. If it is, promote "
            f"it by hand{'' if seen is None else '; its bundle has the fingerprints'}."
        )
    else:
        summary = _sentence(seen_by_champion, count, "the champion's", rows).removesuffix(".")
        summary += f"; compared on the {clean} clean {rows}." if clean < count else "."
        if seen:
            summary = f"{own} {summary}"
    return TrainingOverlap(
        challenger=seen,
        champion=seen_by_champion,
        clean_rows=clean,
        summary=summary,
        classes_without_clean_rows=tuple(without),
    )


def _sentence(trained: int, count: int, whose: str, rows: str) -> str:
    if not trained:
        return f"None of the {count} test {rows} was in {whose} training split."
    was = "was" if trained == 1 else "were"
    return f"{trained} of {count} test {rows} {was} in {whose} training split."
