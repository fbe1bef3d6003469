"""Tables that are read and checked in pieces: the same as when they are read whole."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.backends import memory
from gauntlet.components.validate_data.run import run
from gauntlet.components.validate_data.text import normalise
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.text_classification.data import read_table
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts import pieces
from gauntlet.tasks.texts.data import TokenCounter, _CountedWords, count_words
from gauntlet.tasks.texts.encoder_files import READING_FILES, find_encoder
from gauntlet.tasks.texts.files import SourceFile
from gauntlet.tasks.texts.pieces import NotPlain, Piece, readers
from gauntlet.tasks.texts.rows import number_keys
from tests.text_tables import text_rows

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SIGNS = [
    *"abc ABC  ,;\"\n\r\t'",
    "\r\n",
    "é",
    "e\u0301",
    "你",
    "ไ",
    "😂",
    "\u00ad",
    "[SEP]",
    "\ufffd",
    "\x07",
    "don't",
]
LABELS = ["joy", "fear", "NA", "null", "None", "nan", "True", "1.0"]


def dataset(uri: Path, **more: Any) -> TextDataset:
    return TextDataset.model_validate({"name": "d", "version": "1", "uri": str(uri), "labels": LABELS} | more)


def random_rows(seed: int, rows: int = 40) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    texts = ["".join(draw.choices(SIGNS, k=draw.randint(0, 12))) for _ in range(rows)]
    return [(text, draw.choice([*LABELS, "", " joy ", "7"])) for text in texts]


def as_csv(rows: list[tuple[str, str]], delimiter: str = ",", line_end: str = "\n") -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    return stream.getvalue().encode()


def as_simple_csv(rows: list[tuple[str, str]], quoting: Any, line_end: str = "\n") -> bytes:
    """Lines that are one row each, but for the first twelve rows and every fortieth."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=line_end, quoting=quoting)
    writer.writerow(("text", "label"))
    for at, (text, label) in enumerate(rows):
        is_simple = at >= 12 and at % 40
        writer.writerow((" ".join(text.splitlines()) if is_simple else text, label))
    return stream.getvalue().encode()


def as_lines(rows: list[tuple[str, str]]) -> bytes:
    values: dict[str, Any] = {"7": 7, "1.0": 1.0, "True": True, "": None}
    objects = [
        {"id": at, "text": text, "label": values.get(label, label)} for at, (text, label) in enumerate(rows)
    ]
    return "\n".join(json.dumps(one, ensure_ascii=at % 2 == 0) for at, one in enumerate(objects)).encode()


def as_array(rows: list[tuple[str, str]]) -> bytes:
    return b"[" + as_lines(rows).replace(b"\n", b",\n") + b"]"


def found(read: Callable[[], Iterator[Piece]]) -> list[tuple[Any, ...]]:
    return [
        (text, fault, repr(piece.values[code]), f"{piece.unit} {line}")
        for piece in read()
        for text, fault, code, line in zip(piece.texts, piece.faults, piece.codes, piece.lines, strict=True)
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", as_csv),
        ("a.tsv", lambda rows: as_csv(rows, "\t", "\r\n")),
        ("b.csv", lambda rows: as_csv(rows, ";", "\r")),
        ("c.csv", lambda rows: b"\xef\xbb\xbf" + as_csv(rows).replace(b"\n", b"\n\n \n", 3)),
        ("d.csv", lambda rows: as_csv(rows).replace("é".encode(), b"\xe9")),
        ("e.csv", lambda rows: as_simple_csv(rows * 3, csv.QUOTE_ALL)),
        ("f.csv", lambda rows: as_simple_csv(rows * 3, csv.QUOTE_MINIMAL, "\r\n")),
        ("a.jsonl", as_lines),
        ("b.jsonl", lambda rows: as_lines(rows).replace(b"\n", b"\n\n", 5) + b"\n"),
        ("c.json", as_lines),
        ("d.json", lambda rows: b"\xef\xbb\xbf \n" + as_array(rows)),
        ("e.jsonl", as_array),
    ],
)
def test_pieces_of_a_plain_file_have_the_rows_that_the_whole_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, name: str, content: Callable[..., bytes]
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 7)
    path = tmp_path / name
    path.write_bytes(content(random_rows(seed)))
    columns = {"text": "text", "label": "label"}
    plain, whole = readers(dataset(path, columns=columns), SourceFile("train", name, str(path)))
    assert found(plain) == found(whole)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("delimiter", ["\t", ";", "|", ","])
def test_pieces_of_a_file_without_a_header_have_the_rows_that_the_whole_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, delimiter: str
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 7)
    rows = [
        (" ".join(f"{text} x".split()), label or "joy", at)
        for at, (text, label) in enumerate(random_rows(seed))
    ]
    lines = [
        delimiter.join(str(one).translate({ord(sign): "_" for sign in '\t;|,"'}) for one in row)
        for row in rows
    ]
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    columns = {"text": 0, "label": 1}
    plain, whole = readers(dataset(path, columns=columns), SourceFile("train", path.name, str(path)))
    assert found(plain) == found(whole)
    assert len(found(plain)) == len(rows)


@pytest.mark.parametrize(
    "content",
    ["a b\tjoy\nc\td\tjoy\n", "a, b\tjoy\nc\td, e\tjoy\n", 'a "b\tjoy\nc"\tfear\n', "no tabs\njoy\n"],
)
def test_a_file_without_a_header_that_needs_a_decision_is_left_to_the_parser_of_whole_files(
    tmp_path: Path, content: str
) -> None:
    """Lines of different lengths, a quote, and no separator."""
    path = tmp_path / "lines.txt"
    path.write_text(content)
    plain, _ = readers(
        dataset(path, columns={"text": 0, "label": 1}), SourceFile("train", path.name, str(path))
    )
    with pytest.raises(NotPlain):
        list(plain())


def test_what_is_read_whole_is_refused_if_the_memory_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.csv"
    path.write_text('text,label\n"It" is so,joy\n')
    monkeypatch.setattr(memory, "usable_memory", lambda: 10 * path.stat().st_size)
    assert len(read_table(dataset(path))) == 1
    monkeypatch.setattr(memory, "usable_memory", lambda: 10 * path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"^train.csv: found 0.00 GiB that are read whole, expected at most"):
        read_table(dataset(path))
    path.write_text("text,label\nIt is so,joy\n")
    assert len(read_table(dataset(path))) == 1  # by RFC 4180, in pieces


def test_pieces_of_parquet_have_the_values_of_the_file_in_every_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 3)
    texts = ["a", None, "b", " ", "c", "d", "e"]
    labels = {
        "strings": pa.array(["joy", None, "fear", "NA", "joy", "x", "1.0"]),
        "categories": pa.array(["joy", None, "fear", "NA", "joy", "x", "1.0"]).dictionary_encode(),
        "numbers": pa.array([0, None, 1, 7, 2, 0, 1]),
        "floats": pa.array([0.0, float("nan"), 1.0, 7.5, 2.0, 0.0, None]),
        "flags": pa.array([True, None, False, True, True, False, True]),
        "lists": pa.array([["joy"], None, [], ["fear", "joy"], ["joy"], [], ["NA"]]),
    }
    for name, column in labels.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": texts, "label": column}), path, row_group_size=2)
        plain, whole = readers(dataset(path), SourceFile("train", path.name, str(path)))
        assert found(plain) == found(whole), name


def test_what_is_written_does_not_depend_on_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        (f"{text} number {at} of {at % 13}", label) for at, (text, label) in enumerate(random_rows(3, 900))
    ]
    rows += [(text.upper() + "!", label) for text, label in rows[:40]]
    path = tmp_path / "train.csv"
    path.write_bytes(as_csv(rows))
    checks = {
        name: {"severity": "drop", "max_fraction": 1}
        for name in (
            "encoding",
            "empty_values",
            "unknown_labels",
            "conflicting_labels",
            "exact_duplicates",
            "leakage",
        )
    }
    checks |= {name: {"severity": "warn"} for name in ("rows_per_class", "class_balance", "unknown_tokens")}
    written: list[dict[str, Any]] = []
    for number in (1_000_000, 7):
        monkeypatch.setattr(pieces, "ROWS", number)
        out = tmp_path / str(number)
        section = dataset(path, checks=checks, tokenizer=DEFAULT_ENCODER, max_tokens=16)
        run("text_classification", section, out / "splits", out / "checks.json", out / "report.html")
        splits = {
            split: pq.read_table(out / f"splits/{split}.parquet") for split in ("train", "validation", "test")
        }
        files = {path.name: path.read_bytes() for path in out.rglob("*.*") if path.suffix != ".parquet"}
        written.append({**{name: table.to_pylist() for name, table in splits.items()}, **files})
    assert len(written[0]["train"]) > 100
    assert written[0] == written[1]


def test_counting_the_tokens_of_words_gives_those_of_the_text(tmp_path: Path) -> None:
    counter = TokenCounter(find_encoder(DEFAULT_ENCODER, READING_FILES).tokenizer)
    texts = [text for text, _ in random_rows(5, 3_000)] + ["  two  spaces ", "[MASK] it", "x" * 200 + " x"]
    texts = [text for text in texts if text]
    tokens, unknown = counter.count(pl.Series(texts))
    encodings = counter._tokenizer.encode_batch(texts)
    assert tokens.tolist() == [len(encoding.ids) for encoding in encodings]
    assert unknown.tolist() == [encoding.ids.count(100) for encoding in encodings]  # [UNK] of BERT
    assert unknown.sum() > 0


def test_only_the_words_of_its_own_texts_are_counted_while_other_threads_number_theirs() -> None:
    asked: list[str] = []

    def lengths(words: Sequence[str]) -> np.ndarray:
        asked.extend(words)
        return np.array([[len(word) for word in words], [word == "ccc" for word in words]], dtype=np.int32)

    counted = _CountedWords(lengths)
    counted._numbered.of(pl.Series(["a word of another thread", "ccc"]))  # numbered, and not yet counted
    assert counted.summed(pl.Series(["a bb", "bb ccc"])).tolist() == [[3, 5], [0, 1]]
    assert sorted(asked) == ["a", "bb", "ccc"]
    assert counted.summed(pl.Series(["dddd a", "ccc"])).tolist() == [[5, 3], [0, 1]]
    assert sorted(asked) == ["a", "bb", "ccc", "dddd"]


def test_words_are_counted_in_every_script() -> None:
    spaced = [text for text, _ in random_rows(8, 500) if not {"你", "ไ"} & {*text}]
    table = text_rows([(text, "joy", "train") for text in [*spaced, "今天天气很好 ok", "สวัสดี"]])
    rows = table.index[table.small["has_text"]]
    keys = number_keys(table, rows)
    normal = [normalise(text) for text in table.loc[rows]["text"]]
    assert keys.numbers.tolist() == [list(dict.fromkeys(normal)).index(key) for key in normal]
    expected = Counter(word for key in normal[:-2] for word in key.split())
    expected.update(["今天", "天天", "天气", "气很", "很好", "ok", "สวั", "วัส", "ัสด", "สดี"])
    assert dict(count_words(keys.distinct, keys.numbers).iter_rows()) == expected


# --- bad input ---------------------------------------------------------------------------------------


def test_labels_that_look_like_missing_values_or_other_types_are_the_strings_they_are(tmp_path: Path) -> None:
    words = ["NA", "null", "None", "nan", "True", "1.0"]
    rows = [(f"text {at}", word) for at, word in enumerate(words)]
    (tmp_path / "a.csv").write_bytes(as_csv(rows))
    pq.write_table(pa.table({"text": [text for text, _ in rows], "label": words}), tmp_path / "a.parquet")
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        assert read_table(dataset(tmp_path / name))["label"].tolist() == words, name


def test_a_text_column_that_changes_its_type_between_files_or_pieces_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 2)
    for at, texts in enumerate((["one", "two"], [3, 4])):
        pq.write_table(
            pa.table({"text": texts, "label": ["joy", "fear"]}), tmp_path / f"train-0000{at}-of-00002.parquet"
        )
    with pytest.raises(
        DataError, match=r"00001-of-00002.parquet row 0: found “3” \(int\) in the text column"
    ):
        read_table(dataset(tmp_path))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": {text}, "label": "joy"}}\n' for text in ('"a"', '"b"', '"c"', "4")))
    with pytest.raises(
        DataError, match=r"a.jsonl line 4: found “4” \(int\) in the text column, expected a string"
    ):
        read_table(dataset(path))


def test_a_hundred_thousand_different_labels_are_one_message(tmp_path: Path) -> None:
    number = 100_000
    table = {"text": [f"text {at}" for at in range(number)], "label": [f"label {at}" for at in range(number)]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        out = tmp_path / "out"
        run(
            "text_classification",
            dataset(tmp_path / "a.parquet"),
            out / "splits",
            out / "checks",
            out / "report",
        )
    assert "unknown_labels: found 100,000 rows (100 %)" in str(caught.value)
    examples = json.loads((out / "checks").read_text())["checks"][2]["examples"]
    assert examples[10] == "and 99990 more labels"


def test_a_field_of_a_hundred_megabytes_is_a_text_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write('text,label\nshort,joy\n"')
        file.writelines("long words, " * 100_000 + "\n" for _ in range(84))
        file.write('",fear\n')
    table = read_table(dataset(path))
    assert table.small["length"].tolist() == [5, 84 * 1_200_001]
    assert table.places(table.index) == ["a.csv line 2", "a.csv line 3"]


def test_a_quote_that_never_closes_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "ROWS", 2)
    path = tmp_path / "a.csv"
    path.write_text('text,label\none,joy\ntwo,joy\nthree,joy\n"four, and,joy\nfive,fear\n')
    with pytest.raises(DataError, match="the quote that opens in line 5 is never closed"):
        read_table(dataset(path))


def test_nul_bytes_and_other_encodings_are_faults_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"text,label\nfine words here,joy\nnul \0 byte,joy\nlatin caf\xe9,fear\nutf caf\xc3\xa9,fear\n"
    )
    table = read_table(dataset(path))
    assert table["fault"].isna().tolist() == [True, False, False, True]
    assert table["fault"][1].startswith("control character U+0000 at character 5")
    assert table["fault"][2].startswith("byte 0xe9, which is not UTF-8, at character 10")
    assert table["text"].tolist()[2:] == ["latin caf\ufffd", "utf café"]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label,text\none,joy,two\n")
    with pytest.raises(DataError, match="found several columns text, expected one of a name"):
        read_table(dataset(tmp_path / "a.csv", columns={"label": "label"}))
