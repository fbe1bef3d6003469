from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gauntlet.backends.processes import TOKENS_VARIABLE
from gauntlet.serving.texts import open_tokenizer
from gauntlet.tasks.language.packing import TokenRows, token_rows
from gauntlet.tasks.texts.training import TokenizedRows, class_indices
from gauntlet.trainer.mapped import map_texts, map_tokens
from gauntlet.trainer.splits import ROWS_AT_ONCE, map_array, read_split, read_targets
from tests.conftest import CLASS_WORDS

MOST = 6
MAP = (
    "import sys; from pathlib import Path; from gauntlet.serving.texts import open_tokenizer;"
    "from gauntlet.trainer.mapped import map_tokens;"
    "tokenizer = open_tokenizer(Path(sys.argv[1])).tokenizer;"
    "columns, _ = map_tokens(Path(sys.argv[2]), 'train', tokenizer, ['text']);"
    "print(len(columns['text']), columns['text'].lengths.sum())"
)
"""A program: the arguments are a tokenizer's file and the folder of the splits."""

WORDS = [word for words in CLASS_WORDS.values() for word in words]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where token ids go."""
    monkeypatch.setenv(TOKENS_VARIABLE, str(tmp_path / "tokens"))
    return tmp_path / "tokens"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """More rows than are read at once, in row groups of other sizes; some of them empty."""
    generator = np.random.default_rng(0)
    count = 2 * ROWS_AT_ONCE + 7
    texts = [" ".join(generator.choice(WORDS, size)) for size in generator.integers(0, 9, count)]
    others = [" ".join(generator.choice(WORDS, size)) for size in generator.integers(1, 12, count)]
    frame = pd.DataFrame({"text": texts, "prompt": texts, "target": others, "label": range(count)})
    frame.to_parquet(tmp_path / "train.parquet", row_group_size=ROWS_AT_ONCE - 300)
    return tmp_path


def test_mapped_tokens_are_those_of_the_tokenizer_text_by_text(
    tiny_encoder: Path, many: Path, folder: Path
) -> None:
    tokenizer = open_tokenizer(tiny_encoder / "tokenizer.json").tokenizer
    tokenizer.enable_truncation(MOST)
    rows = TokenizedRows(many, "train", class_indices, tokenizer)
    texts = read_split(many, "train")["text"].tolist()
    assert len(rows.ids) == len(texts) == 4_007
    alone = [tokenizer.encode(text) for text in texts]
    assert [row.tolist() for row in rows.ids] == [one.ids for one in alone]
    assert rows.ids.lengths.tolist() == [len(one.ids) for one in alone]
    assert rows.cut == sum(bool(one.overflowing) for one in alone) > 0
    assert rows.ids.used().tolist() == sorted({number for one in alone for number in one.ids})
    assert rows.targets.tolist() == list(range(4_007))
    ids, mask, targets = rows.batch([4_006, 3, 2_000], pad_id=0)
    assert ids.dtype == mask.dtype == targets.dtype == torch.int64
    assert [row[kept == 1].tolist() for row, kept in zip(ids, mask, strict=True)] == [
        alone[at].ids for at in (4_006, 3, 2_000)
    ]
    assert [path.suffix for path in folder.iterdir() if path.stat().st_size] == [".arrow"]


def test_a_conversations_tokens_are_cut_as_rows_in_memory_are(
    tiny_encoder: Path, many: Path, folder: Path
) -> None:
    tokenizer = open_tokenizer(tiny_encoder / "tokenizer.json").tokenizer
    for most in (1, 5, 8, 100):
        mapped = TokenRows(many, "train", tokenizer, most)
        expected = token_rows(read_split(many, "train"), tokenizer, most)
        assert list(mapped) == expected
        assert mapped.lengths.tolist() == [len(row) for row in expected]
        assert mapped.targets.tolist() == [len(row.target) for row in expected]
    assert mapped.largest_id == max(max(row.whole) for row in expected)


def test_tokens_are_made_once_for_equal_files_and_tokenizers(
    tiny_encoder: Path, many: Path, folder: Path
) -> None:
    def made(most: int) -> set[tuple[str, int]]:
        tokenizer = open_tokenizer(tiny_encoder / "tokenizer.json").tokenizer
        tokenizer.enable_truncation(most)
        map_tokens(many, "train", tokenizer, ["text"])
        return {(path.name, path.stat().st_ino) for path in folder.glob("*.arrow")}

    first = made(4)
    assert made(4) == first
    assert len(made(5)) == 2
    frame = read_split(many, "train")
    frame.loc[0, "text"] = f"{WORDS[0]} {WORDS[1]}"
    frame.to_parquet(many / "train.parquet")
    assert len(made(5)) == 3


def test_processes_that_need_the_same_tokens_at_the_same_time_write_them_once(
    tiny_encoder: Path, many: Path, folder: Path
) -> None:
    command = [sys.executable, "-c", MAP, str(tiny_encoder / "tokenizer.json"), str(many)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {one.communicate()[0].strip() for one in running}
    words = sum(len(text.split()) for text in read_split(many, "train")["text"])
    assert said == {f"4007 {words + 2 * 4_007}"}  # [CLS] and [SEP]
    assert len(list(folder.glob("*.arrow"))) == 1
    assert not list(folder.glob("*.tmp"))


def test_tokens_that_do_not_fit_on_the_disk_are_an_error_and_leave_nothing_behind(
    tiny_encoder: Path, many: Path, folder: Path
) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    command = [sys.executable, "-c", limited + MAP, str(tiny_encoder / "tokenizer.json"), str(many)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"GauntletError: {folder}: token ids cannot be written (File too large). Make room" in ended.stderr
    assert not list(folder.glob("*.arrow")) and not list(folder.glob("*.tmp"))


def test_mapped_texts_are_those_of_the_split(many: Path) -> None:
    expected = read_split(many, "train")["text"].tolist()
    texts = map_texts(many, "train")
    assert list(texts) == expected
    assert [texts[at] for at in (0, 2_000, -1)] == [expected[at] for at in (0, 2_000, -1)]
    assert texts[1_999:2_001] == expected[1_999:2_001]
    assert texts.lengths.tolist() == list(map(len, expected))


def test_targets_are_read_without_the_texts(many: Path) -> None:
    def targets(frame: pd.DataFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        assert "text" not in frame
        return class_indices(frame)

    assert read_targets(many, "train", targets).tolist() == list(range(4_007))


@pytest.mark.parametrize("shape", [(0, 3, 2), (7, 3, 2), (7, 3, 2, 3)])
def test_an_array_of_an_npz_file_is_mapped_and_not_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, label=np.arange(shape[0]), images=images, row=np.arange(shape[0]))
    mapped = map_array(tmp_path / "a.npz", "images")
    assert np.array_equal(mapped, images) and mapped.dtype == np.uint8
    assert isinstance(mapped, np.memmap) == bool(shape[0])
    assert np.array_equal(map_array(tmp_path / "a.npz", "label"), np.arange(shape[0]))


def test_an_array_that_numpy_compressed_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.arange(5))
    assert map_array(tmp_path / "a.npz", "images").tolist() == [0, 1, 2, 3, 4]
