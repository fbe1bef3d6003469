from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.duplicates import Ints, NothingAlike
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError


class Pairs(NothingAlike):
    """Near-duplicates from a list of pairs of keys."""

    def __init__(self, keys: Sequence[str], neighbours: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        super().__init__(len(keys))
        self._names, self._neighbours = keys, neighbours

    def groups(self, at_least: float) -> Ints:
        numbers = {key: number for number, key in enumerate(self._names)}
        groups = super().groups(at_least)
        for key, number in numbers.items():
            for other, similarity in self._neighbours.get(key, ()):
                if other in numbers and similarity >= at_least:
                    groups[groups == groups[number]] = groups[numbers[other]]
        return groups


FRACTIONS: dict[SplitName, float] = {"train": 0.7, "validation": 0.2, "test": 0.1}
BOTH: tuple[SplitName, ...] = ("validation", "test")
TEST_KEYS = ["k3", "k4", "k19", "k21", "k36"]
VALIDATION_KEYS = ["k0", "k5", "k7", "k14", "k16", "k24", "k29", "k30", "k37"]


Neighbours = Mapping[str, Sequence[tuple[str, float]]]


def _table(
    keys: Sequence[str],
    labels: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    neighbours: Neighbours | None = None,
) -> pd.DataFrame:
    numbers, distinct = pd.factorize(np.array(keys, dtype=object))
    table = pd.DataFrame(
        {
            "key": keys,
            "label": labels or ["joy"] * len(keys),
            "split": splits or ["train"] * len(keys),
            "number": numbers,
        }
    )
    return with_groups(table, Pairs(distinct.tolist(), neighbours or {}), 0.9)


def _moods(count: int) -> pd.DataFrame:
    """Three rows of joy to one of fear."""
    return _table([f"k{n}" for n in range(count)], ["fear" if n % 4 == 0 else "joy" for n in range(count)])


def _carve(
    table: pd.DataFrame, missing: Sequence[SplitName] = BOTH, least: int = 1, key: str = ""
) -> Mapping[str, str]:
    """The split of every key."""
    carved = carve(table, missing, FRACTIONS, least, key)
    split_of = dict(zip(carved["key"], carved["split"], strict=True))
    assert all(split_of[key] == split for key, split in zip(carved["key"], carved["split"], strict=True))
    return split_of


def _share(split_of: Mapping[str, str], split: str) -> float:
    return list(split_of.values()).count(split) / len(split_of)


def test_both_missing_splits_get_about_their_fraction() -> None:
    split_of = _carve(_moods(4_000))
    assert _share(split_of, "validation") == pytest.approx(0.2, abs=0.02)  # three standard deviations
    assert _share(split_of, "test") == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize(("missing", "share"), [("validation", 0.2 / 0.9), ("test", 0.1 / 0.8)])
def test_one_missing_split_gets_its_fraction_of_what_it_shares_with_train(
    missing: SplitName, share: float
) -> None:
    split_of = _carve(_moods(4_000), (missing,))
    assert set(split_of.values()) == {"train", missing}
    assert _share(split_of, missing) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("added", [1, 60, 1_000])
def test_no_row_changes_its_split_when_rows_are_appended_and_shuffled(added: int) -> None:
    before = _carve(_moods(1_000), least=10)
    grown = _moods(1_000 + added).sample(frac=1, random_state=added, ignore_index=True)
    after = _carve(grown, least=10)
    assert {key: after[key] for key in before} == before


def test_another_key_draws_other_splits() -> None:
    one, two = _carve(_moods(1_000)), _carve(_moods(1_000), key="again")
    assert set(two.values()) == {"train", "validation", "test"}
    assert one != two


def test_the_splits_of_these_rows_are_the_same_in_every_release() -> None:
    """Another hash would move rows between the splits of all models that are in production."""
    split_of = _carve(_moods(40))
    assert [key for key, split in split_of.items() if split == "test"] == TEST_KEYS
    assert [key for key, split in split_of.items() if split == "validation"] == VALIDATION_KEYS


@pytest.mark.parametrize("rows", [30, 31, 36, 45, 70])
def test_a_small_class_has_the_fewest_rows_that_are_needed_in_the_held_out_splits(rows: int) -> None:
    counts = pd.Series(_carve(_table([f"k{n}" for n in range(rows)]), least=10)).value_counts()
    assert counts["test"] >= 10
    assert counts["validation"] >= (10 if rows > 31 else 8)


def test_a_training_row_stays_one_while_a_small_class_grows() -> None:
    order = [f"row {n}" for n in range(300)]
    random.Random(1).shuffle(order)
    trained: set[str] = set()
    tested: set[str] = set(order)
    for count in range(30, 300, 3):
        split_of = _carve(_table(order[:count]), least=10)
        train = {key for key, split in split_of.items() if split == "train"}
        test = {key for key, split in split_of.items() if split == "test"}
        assert trained <= train
        assert test & set(order[: count - 3]) <= tested
        trained, tested = train, test | set(order[count:])


def test_near_duplicates_and_equal_rows_stay_in_one_split() -> None:
    keys = [f"k{n}" for n in range(60)]
    chains = {key: [(keys[place + 1], 0.95)] for place, key in enumerate(keys[:-1]) if place % 3 < 2}
    split_of = _carve(_table(keys + keys[:10], neighbours=chains))
    assert set(split_of.values()) == {"train", "validation", "test"}
    triples = [keys[start : start + 3] for start in range(0, 60, 3)]
    assert all(len({split_of[key] for key in triple}) == 1 for triple in triples)


def test_a_new_near_duplicate_moves_its_group_only_if_its_hash_is_the_smallest() -> None:
    keys = [f"k{n}" for n in range(400)]
    before = _carve(_table(keys))
    moved = 0
    for number in range(0, 400, 4):
        new = f"new {number}"
        pairs = {new: [(key, 0.95) for key in keys[number : number + 3]]}
        group = set(_table([*keys[number : number + 3], new], neighbours=pairs)["group"])
        assert len(group) == 1
        moved += _table([new])["group"][0] in group
    assert moved == pytest.approx(100 / 4, abs=13)  # one of four; three standard deviations
    assert before == _carve(_table(keys))


def test_a_pair_below_the_similarity_is_free_to_be_in_two_splits() -> None:
    pairs = {f"k{a}": [(f"k{b}", 0.85)] for a, b in combinations(range(100), 2)}
    table = _table([f"k{n}" for n in range(100)], neighbours=pairs)
    assert table["group"].nunique() == 100


def test_rows_alike_to_those_of_a_given_split_stay_in_train_for_the_leakage_check() -> None:
    keys = [f"k{n}" for n in range(50)]
    table = _table(keys + keys[:25], splits=["train"] * 50 + ["validation"] * 25)
    carved = carve(table, ("test",), FRACTIONS, 1)
    assert not set(carved[carved["split"] == "test"]["key"]) & set(keys[:25])
    assert (carved["split"] == "test").any()


def test_a_class_of_near_duplicates_is_not_taken_from_train_to_fill_the_test_split() -> None:
    keys = [f"k{n}" for n in range(40)]
    chain = {keys[0]: [(key, 0.95) for key in keys[1:35]]}
    split_of = _carve(_table(keys, neighbours=chain), least=10)
    assert len({split_of[key] for key in keys[:35]}) == 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows_are_carved_without_a_fault(rows: int) -> None:
    assert len(carve(_table([f"k{n}" for n in range(rows)]), BOTH, FRACTIONS, 10)) == rows


def _timed(times: Sequence[float], neighbours: Neighbours | None = None) -> pd.DataFrame:
    return _table([f"k{n}" for n in range(len(times))], neighbours=neighbours).assign(time=times)


def test_the_newest_rows_are_the_test_split_and_those_before_them_validation() -> None:
    times = list(range(100))
    random.Random(0).shuffle(times)
    carved = carve(_timed(times), BOTH, FRACTIONS, 10)
    ends = carved.groupby("split")["time"].agg(["min", "max", "size"])
    assert ends.loc["train"].tolist() == [0, 69, 70]
    assert ends.loc["validation"].tolist() == [70, 89, 20]
    assert ends.loc["test"].tolist() == [90, 99, 10]


def test_rows_of_one_time_are_in_one_split() -> None:
    carved = carve(_timed([n // 7 for n in range(70)]), BOTH, FRACTIONS, 10)
    assert (carved.groupby("time")["split"].nunique() == 1).all()
    assert carved["split"].value_counts().to_dict() == {"train": 49, "validation": 14, "test": 7}


def test_a_new_near_duplicate_of_an_old_row_stays_with_it() -> None:
    carved = carve(_timed(range(100), {"k99": [("k3", 0.95)]}), BOTH, FRACTIONS, 10)
    assert carved.set_index("key")["split"]["k99"] == "train"


def test_a_training_row_stays_one_when_newer_rows_are_appended() -> None:
    before = carve(_timed(range(100)), BOTH, FRACTIONS, 10)
    after = carve(_timed(range(160)), BOTH, FRACTIONS, 10).head(100)
    assert (after["split"][before["split"] == "train"] == "train").all()


def test_each_split_has_a_time_of_its_own_however_few_there_are() -> None:
    carved = carve(_timed([0.0] * 50 + [1.0] * 50 + [2.0]), BOTH, FRACTIONS, 10)
    assert carved.groupby("split")["time"].first().to_dict() == {"train": 0, "validation": 1, "test": 2}
    with pytest.raises(DataError, match="found 2 different times, expected at least 3, one for each split"):
        carve(_timed([0.0, 1.0] * 20), BOTH, FRACTIONS, 10)
