from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.texts.manifest import Columns
from gauntlet.tasks.texts.records import Records, parse

BY_POSITION = Columns(text=0, label=1)


def _pairs(records: Records) -> list[tuple[object, object]]:
    return list(zip(records.texts, records.labels, strict=True))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_tells_the_delimiter(delimiter: str) -> None:
    others = "".join({",", ";", "\t", "|"} - {delimiter})
    content = f"text{delimiter}mood\nwell{others}then{delimiter}joy\n"
    records = parse(content.encode(), "data.csv", "auto", Columns())
    assert _pairs(records) == [(f"well{others}then", "joy")]


def test_the_label_is_the_only_other_column_unless_the_manifest_names_it() -> None:
    data = b"id,text,mood\n1,well,joy\n"
    with pytest.raises(DataError, match=r"set dataset.columns.label.* id, text, mood"):
        parse(data, "data.csv", "auto", Columns())
    assert _pairs(parse(data, "data.csv", "auto", Columns(label="mood"))) == [("well", "joy")]


def test_missing_columns_are_reported_together_with_the_columns_there_are() -> None:
    with pytest.raises(DataError) as caught:
        parse(b"sentence,mood\nwell,joy\n", "data.csv", "auto", Columns(label="emotion"))
    message = str(caught.value)
    assert "no column text: set dataset.columns.text" in message
    assert "no column emotion: set dataset.columns.label" in message
    assert "sentence, mood" in message


def test_a_column_that_is_there_twice_is_refused_in_every_format() -> None:
    columns = Columns(text="text", label="label")
    words = [pa.array(["well"]), pa.array(["joy"]), pa.array(["joy"])]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(words, names=["text", "label", "label"]), parquet)
    csv = b"text,label,label\nwell,joy,joy\n"
    for data, name in ((csv, "data.csv"), (parquet.getvalue(), "data.parquet")):
        with pytest.raises(DataError, match="found several columns label, expected one of a name"):
            parse(data, name, "auto", columns)


def test_a_header_of_a_thousand_columns_is_not_listed_whole() -> None:
    header = ",".join(f"column{number}" for number in range(1_000))
    with pytest.raises(DataError, match=r"column11 and 988 more$"):
        parse(f"{header}\n".encode(), "data.csv", "auto", Columns())


@pytest.mark.parametrize("delimiter", ["\t", ";", "|", ","])
def test_a_file_without_a_header_is_split_where_every_line_has_as_many_fields(delimiter: str) -> None:
    lines = [["well then", "3", "a1"], ["so so", "3,4", "b2"], ["no", "0", "c3"]]
    lines[1][1] = "4" if delimiter == "," else "3,4"
    content = "\n".join(delimiter.join(line) for line in lines).encode()
    assert _pairs(parse(content, "data.txt", "auto", BY_POSITION)) == [(line[0], line[1]) for line in lines]


def test_a_tsv_without_a_header_is_split_at_tabs_though_commas_would_fit() -> None:
    assert _pairs(parse(b"a, b\t1\nc, d\t0\n", "data.tsv", "auto", BY_POSITION)) == [
        ("a, b", "1"),
        ("c, d", "0"),
    ]


def test_the_label_position_may_be_left_out_where_there_are_two_columns() -> None:
    assert _pairs(parse(b"joy\twell\n", "a.tsv", "auto", Columns(text=1))) == [("well", "joy")]
    with pytest.raises(DataError, match="found 3 columns"):
        parse(b"joy\twell\tx\n", "a.tsv", "auto", Columns(text=1))


def test_a_position_that_no_line_has_is_an_error_that_says_what_was_tried() -> None:
    with pytest.raises(DataError, match="at least 6, in every line") as caught:
        parse(b"a;b\nc;d\n", "a.csv", "auto", Columns(text=0, label=5))
    assert "2 a line with semicolon" in str(caught.value)


def test_a_header_that_a_mac_wrote_in_another_form_has_the_same_names() -> None:
    data = "re\u0301ponse,label\na,joy\n".encode()
    assert _pairs(parse(data, "a.csv", "auto", Columns(text="r\u00e9ponse"))) == [("a", "joy")]


def test_a_quote_that_could_be_either_is_named_without_a_header_too() -> None:
    data = b'"Hello,\nmy parcel is late",1\n"Wow" she said,0\n'
    with pytest.raises(DataError, match=r"a.csv line 1: this quote may close in line 2,"):
        parse(data, "a.csv", "auto", BY_POSITION)


def test_a_name_and_a_position_do_not_mix() -> None:
    with pytest.raises(UsageError, match="both to be positions"):
        parse(b"a;b\n", "a.csv", "auto", Columns(text=0, label="mood"))
    with pytest.raises(UsageError, match="expected a name"):
        parse(b'{"text": "a", "label": 1}\n', "a.jsonl", "auto", BY_POSITION)


def test_jsonl_keeps_the_types_of_labels_and_reports_a_missing_value_as_none() -> None:
    data = b'{"text": "a", "label": 1}\n\n{"text": null, "label": "joy"}\n{"label": [1, 2]}\n'
    records = parse(data, "a.jsonl", "auto", Columns())
    assert _pairs(records) == [("a", 1), (None, "joy"), (None, [1, 2])]
    assert records.places == ["line 1", "line 3", "line 4"]


def test_every_line_that_is_no_json_object_is_counted() -> None:
    with pytest.raises(DataError, match=r"2 lines are not JSON objects: line 2: .*line 3: found “7”"):
        parse(b'{"text": "a", "label": 1}\n{"text": \n7\n', "a.jsonl", "auto", Columns())


def test_parquet_reads_strings_categories_and_integers() -> None:
    stream = io.BytesIO()
    frame = pd.DataFrame({"n": [1, 2], "text": ["a", None], "label": pd.Categorical(["joy", "fear"])})
    frame.to_parquet(stream)
    records = parse(stream.getvalue(), "a.parquet", "auto", Columns(label="label"))
    assert _pairs(records) == [("a", "joy"), (None, "fear")]
    assert records.places == ["row 0", "row 1"]


def test_parquet_strings_that_are_not_utf8_are_not_lost() -> None:
    texts = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "label": [0]}), stream)
    assert parse(stream.getvalue(), "a.parquet", "auto", Columns()).texts == ["caf\udce9"]


def test_a_gzip_file_is_read_by_the_suffix_before_gz() -> None:
    data = gzip.compress(json.dumps({"text": "a", "label": "joy"}).encode())
    assert _pairs(parse(data, "a.jsonl.gz", "auto", Columns())) == [("a", "joy")]
    with pytest.raises(DataError, match="not a whole gzip file"):
        parse(data[:-4], "a.jsonl.gz", "auto", Columns())


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert parse(b"\xef\xbb\xbftext,label\na,joy\n", "a.csv", "auto", Columns()).texts == ["a"]


@pytest.mark.parametrize(
    ("written", "declared"),
    [
        ("utf-16", None),
        ("utf-32", None),
        ("utf-16", "utf-16"),
        ("utf-16-be", "utf-16-be"),
        ("cp1252", "cp1252"),
        ("utf-8-sig", "utf-8"),
        ("utf-8-sig", None),
        ("mac-roman", "mac-roman"),
    ],
)
def test_text_is_read_in_its_declared_encoding_or_by_its_byte_order_mark(
    written: str, declared: str | None
) -> None:
    data = "text,label\ncafé – “ok”,joy\n".encode(written)
    records = parse(data, "a.csv", "auto", Columns(), declared)
    assert _pairs(records) == [("café – “ok”", "joy")]


@pytest.mark.parametrize("order", ["le", "be"])
def test_utf16_without_a_mark_is_refused_with_the_key_that_reads_it(order: str) -> None:
    with pytest.raises(
        DataError, match=rf"found a zero in every other byte.*dataset.encoding: utf-16-{order}"
    ):
        parse("text,label\na,joy\n".encode(f"utf-16-{order}"), "a.csv", "auto", Columns())


def test_parquet_has_no_encoding_to_declare() -> None:
    with pytest.raises(UsageError, match=r"a.parquet: dataset.encoding: found utf-8, expected none"):
        parse(b"PAR1", "a.parquet", "auto", Columns(), "utf-8")


def test_bytes_that_the_declared_encoding_has_not_are_named_with_their_line() -> None:
    with pytest.raises(DataError, match=r"a.csv line 2: found the bytes 0x81, expected cp1252 text"):
        parse(b"text,label\na\x81,joy\n", "a.csv", "auto", Columns(), "cp1252")


def _zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _arrow(opened: Callable[..., Any]) -> bytes:
    stream, table = io.BytesIO(), pa.table({"text": ["a"], "label": ["joy"]})
    with opened(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv.bz2", bz2.compress(b"text,label\na,joy\n")),
        ("a.csv.xz", lzma.compress(b"text,label\na,joy\n")),
        ("a.csv.zst", pa.compress(b"text,label\na,joy\n", codec="zstd", asbytes=True)),
        ("a.feather", _arrow(pa.ipc.new_file)),
        ("a.arrow", _arrow(pa.ipc.new_stream)),
        ("a.zip", _zipped(**{"folder/a.csv": "text,label\na,joy\n", "__MACOSX/._a.csv": "x"})),
        ("a.csv.zip", _zipped(**{"a.csv": "text,label\na,joy\n"})),
        ("a.json", b' [{"text": "a", "label": "joy"}]'),
        ("a.json", b'{"text": "a", "label": "joy"}\n'),
        ("a.csv", b"sep=;\ntext;label\na;joy\n"),
        ("a.csv", b"text,label\ra,joy\r"),
        ("a.csv", b'"text","la\nbel"\na,joy\n'),
        ("a.csv", b'text,"mood"\n"a",joy\n'),
    ],
)
def test_the_forms_of_one_table_are_read_alike(name: str, data: bytes) -> None:
    assert _pairs(parse(data, name, "auto", Columns())) == [("a", "joy")]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.zip", _zipped(**{"a.csv": "", "b.csv": ""}), r"found 2 files in the archive \(a.csv, b.csv\)"),
        ("a.zip", b"PK", "not a whole zip archive"),
        ("a.csv.bz2", b"BZh", "not a whole bzip2 file"),
        ("a.json", b'[{"text": "a"}, 7]', "1 items of the array are not JSON objects, first object 2"),
        ("a.xlsx", b"PK", "found an Excel workbook. Save the sheet as CSV UTF-8"),
        ("a.sqlite", b"SQLite", "found a database. Export the table: sqlite3"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), "found an archive. Unpack it"),
    ],
)
def test_a_form_that_is_not_read_is_refused_with_what_to_do(name: str, data: bytes, words: str) -> None:
    with pytest.raises(GauntletError, match=words):
        parse(data, name, "auto", Columns())


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"", "a.csv", "found an empty file"),
        (b"\n \n", "a.jsonl", "found an empty file"),
        (b"text,label\n", "a.csv", "found a header and no rows"),
        (b"PAR1 and then nothing", "a.parquet", "not a whole parquet file"),
        (b"ARROW1", "a.feather", "not a whole arrow file"),
        (b"FEA1 of before 2017", "a.feather", "not a whole arrow file"),
    ],
)
def test_a_file_without_rows_says_so(data: bytes, name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse(data, name, "auto", Columns())


def test_a_name_that_tells_no_format_asks_for_one() -> None:
    with pytest.raises(UsageError, match=r"Set dataset\.format"):
        parse(b"text,label\na,joy\n", "data", "auto", Columns())
    assert parse(b"text,label\na,joy\n", "data", "csv", Columns()).texts == ["a"]
