from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import pytest

from components.validate_data.carving import carve
from components.validate_data.duplicates import Likeness
from manifests.dataset import SplitName

NOTHING_ALIKE = Likeness({})
FRACTIONS: dict[SplitName, float] = {"train": 0.6, "validation": 0.3, "test": 0.1}


def _table(keys: Sequence[str], labels: Sequence[str], splits: Sequence[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"key": keys, "label": labels, "split": splits or ["train"] * len(keys)})


def _hundred(label_of: tuple[str, ...] = ("joy", "joy", "joy", "fear")) -> pd.DataFrame:
    return _table([f"k{n}" for n in range(100)], [label_of[n % len(label_of)] for n in range(100)])


def _sizes(table: pd.DataFrame) -> dict[str, int]:
    return {str(split): int(rows) for split, rows in table["split"].value_counts().items()}


def test_both_missing_splits_get_their_fraction() -> None:
    carved = carve(_hundred(), ("validation", "test"), FRACTIONS, NOTHING_ALIKE, 0.9, seed=1)
    assert _sizes(carved) == {"train": 60, "validation": 30, "test": 10}


@pytest.mark.parametrize(("missing", "rows"), [("validation", 33), ("test", 14)])
def test_one_missing_split_gets_its_fraction_of_itself_and_train(missing: SplitName, rows: int) -> None:
    carved = carve(_hundred(), (missing,), FRACTIONS, NOTHING_ALIKE, 0.9, seed=1)
    assert _sizes(carved) == {"train": 100 - rows, missing: rows}  # 0.3 / 0.9 and 0.1 / 0.7 of 100


def test_every_class_is_carved_in_proportion() -> None:
    carved = carve(_hundred(), ("validation", "test"), FRACTIONS, NOTHING_ALIKE, 0.9, seed=1)
    joy = carved[carved["label"] == "joy"]["split"].value_counts()
    assert (joy["train"], joy["validation"]) == (45, pytest.approx(22.5, abs=0.5))


def test_the_seed_alone_decides_which_rows() -> None:
    once, again, other = (
        carve(_hundred(), ("test",), FRACTIONS, NOTHING_ALIKE, 0.9, seed=seed)["split"].tolist()
        for seed in (1, 1, 2)
    )
    assert once == again != other


def test_rows_that_are_alike_stay_together() -> None:
    keys = [f"k{n}" for n in range(40)]
    chains = {f"k{n}": [(f"k{m}", 0.95) for m in (n - 1, n + 1) if m // 4 == n // 4] for n in range(40)}
    table = _table(keys * 2, ["joy", "fear"] * 40)
    carved = carve(table, ("validation", "test"), FRACTIONS, Likeness(chains), 0.9, seed=1)
    split_of = dict(zip(carved["key"], carved["split"], strict=True))
    assert len(set(carved["split"])) == 3
    assert all(split_of[key] == split for key, split in zip(carved["key"], carved["split"], strict=True))
    for chain in (keys[start : start + 4] for start in range(0, 40, 4)):
        assert all(split_of[one] == split_of[other] for one, other in combinations(chain, 2))


def test_pairs_below_the_similarity_may_part() -> None:
    pairs = {f"k{n}": [(f"k{n ^ 1}", 0.8)] for n in range(100)}
    carved = carve(_hundred(), ("test",), FRACTIONS, Likeness(pairs), 0.9, seed=1)
    split = carved["split"].tolist()
    assert any(split[n] != split[n + 1] for n in range(0, 100, 2))


def test_a_text_of_a_given_split_is_not_carved_into_another() -> None:
    keys = [f"k{n}" for n in range(50)]
    table = _table(keys + keys[:25], ["joy"] * 75, ["train"] * 50 + ["validation"] * 25)
    carved = carve(table, ("test",), FRACTIONS, NOTHING_ALIKE, 0.9, seed=1)
    assert not set(carved[carved["split"] == "test"]["key"]) & set(keys[:25])
    assert (carved["split"] == "test").any()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7])
def test_too_few_rows_are_split_as_far_as_they_go(rows: int) -> None:
    table = _table([f"k{n}" for n in range(rows)], [f"label{n % 4}" for n in range(rows)])
    carved = carve(table, ("validation", "test"), FRACTIONS, NOTHING_ALIKE, 0.9, seed=1)
    assert len(carved) == rows
    assert rows == 0 or (carved["split"] == "train").any()
