from __future__ import annotations

import csv
import io
import random

import pytest

from gauntlet.manifests.errors import DataError
from gauntlet.tasks.texts.delimited import split_rows, take_separator


def _fields(content: str, delimiter: str) -> list[tuple[str, ...]]:
    return [row.fields for row in split_rows(content, delimiter, "data.csv")]


def test_well_formed_csv_reads_as_the_csv_module_reads_it() -> None:
    rows = [["text", "label"], ['he said "no", then left', "anger"], ["two\nlines", "joy"], ["plain", "fear"]]
    stream = io.StringIO()
    csv.writer(stream).writerows(rows)
    assert _fields(stream.getvalue(), ",") == [tuple(row) for row in rows]


def test_a_quote_that_opens_a_sentence_and_is_never_closed_is_text() -> None:
    content = 'text;label\n"so it goes;joy\nall fine;fear\nhe called it "art";anger\n'
    assert _fields(content, ";") == [
        ("text", "label"),
        ('"so it goes', "joy"),
        ("all fine", "fear"),
        ('he called it "art"', "anger"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quoted_text_whose_lines_look_like_rows_is_one_text(end: str) -> None:
    content = f'text,label{end}"Hello,{end}my parcel is late",delivery{end}"Hello,\nthank you",praise{end}'
    assert _fields(content, ",") == [
        ("text", "label"),
        ("Hello,\nmy parcel is late", "delivery"),
        ("Hello,\nthank you", "praise"),
    ]


def test_a_quote_that_may_open_a_text_of_several_lines_is_refused_where_another_row_is_no_csv() -> None:
    content = 'text,label\n"Hello,\nmy parcel is late",delivery\n"Wow" she said,praise\n'
    with pytest.raises(DataError) as caught:
        _fields(content, ",")
    message = str(caught.value)
    assert "data.csv line 2: this quote may close in line 3, or be part of the text" in message
    assert "line 4 has text after a closing quote" in message


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'"he said \"no\", then left"', 'he said "no", then left'),
        (r'"\"no\""', '"no"'),
        (r'"in C:\new, \"here\""', r'in C:\new, "here"'),
        (r'"ends in \\"', "ends in \\"),
        ('"two\nlines of \\"two\\" words"', 'two\nlines of "two" words'),
    ],
)
def test_quotes_after_a_backslash_are_read_as_mysql_and_spark_write_them(written: str, read: str) -> None:
    content = f'text,label\n"plain \\"quoted\\", words",joy\n{written},fear\n'
    assert _fields(content, ",")[1:] == [('plain "quoted", words', "joy"), (read, "fear")]


def test_backslashes_of_a_file_that_is_well_formed_are_text() -> None:
    assert _fields('text,label\n"C:\\",joy\n"a ""b"" \\c",fear\n', ",")[1:] == [
        ("C:\\", "joy"),
        ('a "b" \\c', "fear"),
    ]


def test_a_carriage_return_inside_a_line_is_text_where_lines_end_in_line_feeds() -> None:
    assert _fields("text;label\none\rtwo;joy\n", ";")[1] == ("one\rtwo", "joy")


def test_the_line_by_which_excel_is_told_the_separator_is_no_header() -> None:
    separator, content = take_separator("sep=;\r\ntext;label\r\na, b;joy\r\n", "data.csv")
    assert separator == ";"
    rows = split_rows(content, ";", "data.csv")
    assert [(row.line, row.fields) for row in rows] == [(2, ("text", "label")), (3, ("a, b", "joy"))]
    with pytest.raises(DataError, match=r"line 1: found sep=~, expected sep= and one of comma"):
        take_separator("sep=~\ntext~label\n", "data.csv")
    assert take_separator("separate;label\n", "data.csv") == (None, "separate;label\n")


def test_a_quote_that_is_never_closed_is_named_with_its_line() -> None:
    with pytest.raises(DataError, match="the quote that opens in line 3 is never closed"):
        _fields('text,label\n"fine, so far",joy\n"and, then,fear\n', ",")


def test_a_quoted_word_at_the_start_of_a_sentence_keeps_its_quotes() -> None:
    assert _fields('text;label\n"Wow" she said;joy\n', ";")[1] == ('"Wow" she said', "joy")


def test_rows_know_the_line_they_start_on_even_after_line_ends_inside_quotes() -> None:
    rows = split_rows('text,label\r\n"one\r\ntwo, three",joy\r\n\r\nfour,fear\r\n', ",", "data.csv")
    assert [(row.line, row.fields) for row in rows] == [
        (1, ("text", "label")),
        (2, ("one\ntwo, three", "joy")),
        (5, ("four", "fear")),
    ]


def test_a_field_longer_than_the_csv_modules_limit_is_read() -> None:
    long = "a" * 200_000
    assert _fields(f'text,label\n"{long}",joy\n', ",")[1] == (long, "joy")


def test_rows_with_another_number_of_fields_are_listed_with_their_lines() -> None:
    with pytest.raises(DataError) as caught:
        split_rows("text;label\nfine;joy\none; two;joy\nnothing\n", ";", "data.csv")
    message = str(caught.value)
    assert "data.csv: 2 rows do not have the 2 fields of the first, separated by semicolon" in message
    assert "line 3 has 3; line 4 has 1" in message


def test_unicode_line_separators_stay_inside_their_row() -> None:
    assert _fields("text;label\na\u2028b\x85c\x0bd;joy\n", ";")[1] == ("a\u2028b\x85c\x0bd", "joy")


@pytest.mark.parametrize(
    ("quoting", "end"),
    [
        (csv.QUOTE_MINIMAL, "\n"),
        (csv.QUOTE_MINIMAL, "\r\n"),
        (csv.QUOTE_ALL, "\n"),
        (csv.QUOTE_ALL, "\r"),  # the writer quotes no line feed by itself where lines end otherwise
    ],
)
def test_whatever_a_csv_writer_writes_is_read_back(quoting: int, end: str) -> None:
    chance = random.Random(5)
    pieces = ['"', '""', ",", ";", "\n", "\r\n", "\\", '\\"', "a", "é ", " b", "\u2028", ""]
    for _ in range(100):
        width = chance.randint(2, 4)
        rows = [
            ["".join(chance.choices(pieces, k=chance.randint(0, 6))) for _ in range(width)]
            for _ in range(chance.randint(1, 6))
        ]
        stream = io.StringIO(newline="")
        csv.writer(stream, quoting=quoting, lineterminator=end).writerows(rows)
        read = [tuple(field.replace("\r\n", "\n") for field in row) for row in rows]
        assert _fields(stream.getvalue(), ",") == read
