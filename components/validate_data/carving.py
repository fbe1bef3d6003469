"""Carve the splits that no file provides from the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from sklearn.model_selection import train_test_split

from components.validate_data.duplicates import Likeness
from manifests.dataset import SplitName


def carve(
    table: pd.DataFrame,
    missing: Sequence[SplitName],
    fractions: Mapping[SplitName, float],
    likeness: Likeness,
    similarity: float,
    seed: int,
) -> pd.DataFrame:
    """The table with `split` set to validation or test for a stratified share of the training rows.

    Shares are relative: of validation alone, validation / (train + validation). Rows that are the
    same or near-duplicates stay on one side, or the carving itself would leak; those alike to a row of a
    split that a file provides stay in train, for the leakage check to see. The same rows and seed always
    give the same splits.
    """
    carved = table.copy()
    groups = pd.Series(likeness.groups(table["key"].tolist(), similarity), index=table.index)
    provided = groups.isin(groups[table["split"] != "train"])
    heads = table[~(groups.duplicated() | provided)]
    remaining_fraction = fractions["train"] + sum(fractions[split] for split in missing)
    for split in missing:
        fraction = fractions[split]
        taken = _stratified(heads, fraction / remaining_fraction, seed)
        carved.loc[groups.index[groups.isin(groups[taken])], "split"] = split
        heads = heads.drop(taken)
        remaining_fraction -= fraction
    return carved


def _stratified(heads: pd.DataFrame, share: float, seed: int) -> pd.Index[int]:
    """A share of the rows with every class in proportion.

    A class of one row cannot be on both sides and stays in train. Where a side has fewer rows than there
    are classes no stratification exists, and the rows are drawn at large; rows_per_class then reports what
    is missing.
    """
    sizes = heads.groupby("label")["label"].transform("size")
    candidates = heads[sizes > 1]
    number = round(share * len(candidates))
    if number < 1:
        return candidates.index[:0]
    classes = candidates["label"].nunique()
    stratified = classes <= min(number, len(candidates) - number)
    _, taken = train_test_split(
        candidates.index.tolist(),
        test_size=number,
        random_state=seed,
        stratify=candidates["label"].to_numpy() if stratified else None,
    )
    chosen: list[int] = sorted(taken)
    return pd.Index(chosen, dtype="int64")
