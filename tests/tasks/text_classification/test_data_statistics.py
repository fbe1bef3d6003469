from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from gauntlet.tasks.text_classification.data import describe
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.data import LENGTH_EDGES, describe_lengths
from tests.text_tables import TextRow, kept

DATASET = TextDataset(name="d", version="1", uri="/d", labels=("joy", "fear"), commit_hash="abc")


ROWS: list[TextRow] = [
    ("So good, so good", "joy", "train"),
    ("Good grief", "fear", "train"),
    ("Bad", "fear", "validation"),
    ("Fine é", "joy", "test"),
]


def test_lengths_match_numpy_and_every_text_is_in_a_bin() -> None:
    lengths = [1, 19, 20, 59, 60, 1999, 2000, 10_000]
    described = describe_lengths(np.array(lengths))
    assert described.mean == pytest.approx(np.mean(lengths))
    assert (described.p5, described.p50, described.p95) == tuple(np.percentile(lengths, (5, 50, 95)))
    assert described.max == 10_000
    assert dict(zip(LENGTH_EDGES, described.counts, strict=True)) == {
        **dict.fromkeys(LENGTH_EDGES, 0),
        0: 2,
        20: 1,
        40: 1,
        60: 1,
        1000: 1,
        2000: 2,
    }


def test_a_split_without_rows_has_no_figures_and_no_nan() -> None:
    statistics = describe(kept(ROWS[:2]), DATASET).as_json()
    assert statistics["text_length"]["test"] == {
        "count": 0,
        "edges": list(LENGTH_EDGES),
        "counts": [0] * len(LENGTH_EDGES),
    }
    assert statistics["class_counts"]["test"] == {"joy": 0, "fear": 0}


def test_words_are_counted_in_the_training_split_in_normal_form() -> None:
    statistics = describe(kept(ROWS), DATASET)
    assert list(statistics.top_words.items()) == [("good", 3), ("so", 2), ("grief", 1)]
    assert statistics.words == 6


def test_counts_are_by_split_and_label() -> None:
    statistics = describe(kept(ROWS), DATASET)
    assert statistics.rows == {"train": 2, "validation": 1, "test": 1}
    assert statistics.class_counts["train"] == {"joy": 1, "fear": 1}
    assert statistics.class_counts["validation"] == {"joy": 0, "fear": 1}


def test_the_content_hash_is_of_the_documented_lines() -> None:
    lines = [
        '["joy", "fear"]',
        '"train"',
        '["So good, so good", 0]',
        '["Good grief", 1]',
        '"validation"',
        '["Bad", 1]',
        '"test"',
        '["Fine é", 0]',
    ]
    expected = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    assert describe(kept(ROWS), DATASET).sha256 == expected


def test_the_content_hash_changes_with_a_label_an_order_or_a_split() -> None:
    relabelled: list[TextRow] = [ROWS[0], ("Good grief", "joy", "train"), *ROWS[2:]]
    reordered = [ROWS[1], ROWS[0], *ROWS[2:]]
    moved: list[TextRow] = [ROWS[0], ("Good grief", "fear", "validation"), *ROWS[2:]]
    hashes = {describe(kept(rows), DATASET).sha256 for rows in (ROWS, relabelled, reordered, moved)}
    assert len(hashes) == 4


def test_every_figure_is_finite() -> None:
    for length in describe(kept(ROWS), DATASET).text_length.values():
        assert all(
            math.isfinite(value) for value in (length.mean, length.p5, length.p95) if value is not None
        )


def test_splits_are_hashed_in_one_order_whatever_the_order_of_their_files_is() -> None:
    assert describe(kept(ROWS), DATASET).sha256 == describe(kept(ROWS[2:] + ROWS[:2]), DATASET).sha256
