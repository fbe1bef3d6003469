from __future__ import annotations

import csv
import io

import pytest

from components.validate_data.texts.delimited import split_rows
from manifests.errors import DataError


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


def test_two_stray_quotes_on_different_lines_do_not_swallow_the_rows_between() -> None:
    content = 'text;label\n"opened here;joy\nbetween;fear\nclosed here";anger\n'
    assert [row[1] for row in _fields(content, ";")] == ["label", "joy", "fear", "anger"]


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
