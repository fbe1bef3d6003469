from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from gauntlet.components.training_rows import (
    NO_FINGERPRINTS,
    OTHER_FINGERPRINTS,
    bundled_file,
    clean_rows,
    describe_overlap,
    fingerprints_of,
    read_test_rows,
    trained_on,
    write_fingerprints,
)
from gauntlet.components.validate_data.run import run
from gauntlet.components.validate_data.text import KEY_FORM, normalise
from gauntlet.serving.bundle import BundleInfo, write_bundle
from gauntlet.tasks.text_classification.manifest import TextDataset

PRINTS = ["5b37ad52ad02248d", "e7850fd669e4ca36", "c08ac997e627f1fd", "658e5562f447b921", "73bb5f85a8a65043"]
NINE = "the parcel that you sent me came without its"  # nine words


def moods(count: int) -> list[tuple[str, str]]:
    return [(f"entry {n} tells of mood {n * 7}", ("joy", "fear")[n % 2]) for n in range(count)]


def validate(folder: Path, rows: list[tuple[str, str]], **settings: Any) -> Path:
    """Validate rows of text and label; return the folder of the splits."""
    folder.mkdir()
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(folder / "rows.csv", index=False)
    content = {"name": "moods", "version": "1", "uri": str(folder / "rows.csv"), "labels": ["joy", "fear"]}
    section = TextDataset.model_validate(content | settings)
    run("text_classification", section, folder / "splits", folder / "checks", folder / "report")
    return folder / "splits"


def texts_of(splits: Path, split: str) -> list[str]:
    return [row["text"] for row in pq.read_table(splits / f"{split}.parquet").to_pylist()]


def bundle_of(folder: Path, splits: Path | None) -> tuple[Path, BundleInfo]:
    """A bundle of a model that was trained on the splits; of an older release without them."""
    (folder.parent / "endpoint.json").write_text("{}")
    info = BundleInfo(
        name="moods",
        task="managed_causal_lm",
        labels=(),
        inputs=(),
        outputs=(),
        opset=0,
        candidate="managed",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    files = {"endpoint.json": folder.parent / "endpoint.json"}
    return folder, write_bundle(folder, info, files | (bundled_file(splits) if splits else {}))


def test_a_champion_of_earlier_data_was_trained_on_no_test_row_of_the_grown_data(tmp_path: Path) -> None:
    champion = bundle_of(tmp_path / "champion", validate(tmp_path / "v1", moods(400)))
    grown = validate(tmp_path / "v2", list(reversed(moods(460))))
    seen = trained_on(*champion, read_test_rows(grown))
    assert not isinstance(seen, str)
    assert (seen.sum(), len(seen)) == (0, len(texts_of(grown, "test")))


def test_of_splits_that_are_drawn_anew_every_row_that_the_champion_was_trained_on_is_found(
    tmp_path: Path,
) -> None:
    old = validate(tmp_path / "v1", moods(400))
    champion = bundle_of(tmp_path / "champion", old)
    new = validate(tmp_path / "v2", moods(400), split={"key": "again"})
    seen = trained_on(*champion, read_test_rows(new))
    trained = set(texts_of(old, "train"))
    assert not isinstance(seen, str)
    assert seen.tolist() == [text in trained for text in texts_of(new, "test")]
    assert 0.5 < seen.mean() < 0.9


def test_a_text_is_recognised_in_other_spelling_and_by_a_near_duplicate(tmp_path: Path) -> None:
    key, near = normalise(f"{NINE} lid"), normalise(f"{NINE} lid today")
    splits = tmp_path / "old"
    splits.mkdir()
    write_fingerprints(splits, KEY_FORM, pd.DataFrame({"split": ["train"], "key": [key]}), {key: "a"})
    champion = bundle_of(tmp_path / "champion", splits)
    (tmp_path / "new").mkdir()
    table = pd.DataFrame({"split": "test", "key": [near, normalise("THE PARCEL!"), key]})
    groups = {near: "one", key: "one", "the parcel": "two"}
    write_fingerprints(tmp_path / "new", KEY_FORM, table, groups)
    seen = trained_on(*champion, read_test_rows(tmp_path / "new"))
    assert not isinstance(seen, str) and seen.tolist() == [True, False, True]


def test_a_near_duplicate_that_was_dropped_still_tells(tmp_path: Path) -> None:
    """The champion learned `key`; today's data keep only a row that is like it."""
    (tmp_path / "old").mkdir()
    write_fingerprints(
        tmp_path / "old", "k", pd.DataFrame({"split": ["train"], "key": ["key"]}), {"key": "a"}
    )
    champion = bundle_of(tmp_path / "champion", tmp_path / "old")
    (tmp_path / "new").mkdir()
    kept = pd.DataFrame({"split": ["test", "test"], "key": ["like it", "other"]})
    write_fingerprints(tmp_path / "new", "k", kept, {"key": "a", "like it": "a", "other": "b"})
    seen = trained_on(*champion, read_test_rows(tmp_path / "new"))
    assert not isinstance(seen, str) and seen.tolist() == [True, False]


def test_a_chain_of_near_duplicates_across_given_splits_is_no_overlap(tmp_path: Path) -> None:
    """`train` is like `dropped`, which is like `test`; the leakage check found the two others unlike."""
    table = pd.DataFrame(
        {"split": ["train", "test", "test", "train"], "key": ["train", "test", "same", "same"]}
    )
    write_fingerprints(tmp_path, "k", table, {"train": "a", "dropped": "a", "test": "a", "same": "b"})
    seen = trained_on(*bundle_of(tmp_path / "bundle", tmp_path), read_test_rows(tmp_path))
    assert not isinstance(seen, str) and seen.tolist() == [False, True]


def test_what_is_not_known_is_said_and_never_counted_as_none(tmp_path: Path) -> None:
    splits = validate(tmp_path / "v1", moods(400))
    tested = read_test_rows(splits)
    assert trained_on(*bundle_of(tmp_path / "old", None), tested) == NO_FINGERPRINTS
    other = tmp_path / "other"
    other.mkdir()
    write_fingerprints(other, "another kind", pd.DataFrame({"split": [], "key": []}), {})
    assert trained_on(*bundle_of(tmp_path / "champion", other), tested) == OTHER_FINGERPRINTS
    assert read_test_rows(tmp_path) is None
    assert "no fingerprints of test rows" in str(trained_on(*bundle_of(tmp_path / "b", splits), None))


def test_the_bundle_lists_the_fingerprints_and_they_are_small(tmp_path: Path) -> None:
    splits = validate(tmp_path / "v1", moods(400))
    folder, info = bundle_of(tmp_path / "champion", splits)
    size = (folder / "training_rows.npz").stat().st_size
    assert "training_rows.npz" in info.files
    assert size < 8 * len(texts_of(splits, "train")) + 1_000
    assert (folder / "training_rows.npz").read_bytes() == (splits / "training_rows.npz").read_bytes()


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (validate(tmp_path / name, moods(400)) for name in ("one", "two"))
    for file in ("training_rows.npz", "test_rows.npz"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_a_row_has_the_same_fingerprint_in_every_release() -> None:
    """If this fails, bundles made before know nothing of their rows: count `KEY_FORM` up with the change."""
    texts = ["I don't feel WELL, at all!", "ﬁne… “quoted”", "Füße 100 %", "!?", "你好 吗"]
    assert [f"{print:016x}" for print in fingerprints_of([normalise(text) for text in texts])] == PRINTS
    assert KEY_FORM == "normal form 1"


HALF = np.arange(41) < 28
NONE = np.zeros(41, dtype=bool)


@pytest.mark.parametrize(
    ("challenger", "champion", "words"),
    [
        (
            NONE,
            HALF,
            "28 of 41 test rows were in the champion's training split; compared on the 13 clean rows.",
        ),
        (NONE, NONE, "None of the 41 test rows was in the champion's training split."),
        (NONE, None, "None of the 41 test rows was in this model's own training split."),
        (np.arange(41) < 1, None, "1 of 41 test rows was in this model's own training split."),
        (
            np.arange(41) > 38,
            HALF,
            "2 of 41 test rows were in this model's own training split. 28 of 41 test rows were in the "
            "champion's training split; compared on the 11 clean rows.",
        ),
    ],
)
def test_the_overlap_is_said_in_plain_words(challenger: Any, champion: Any, words: str) -> None:
    assert describe_overlap(41, challenger, champion).summary == words


def test_without_fingerprints_all_rows_are_compared_and_the_doubt_is_said() -> None:
    overlap = describe_overlap(41, NONE, NO_FINGERPRINTS)
    assert (overlap.champion, overlap.clean_rows) == (None, 41)
    assert "not known how many of the 41 test rows" in overlap.summary
    assert "a model that passes is no worse" in overlap.summary
    assert clean_rows(41, NONE, NO_FINGERPRINTS).all()
