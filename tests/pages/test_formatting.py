"""Figures as the report writes them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gauntlet.pages import formatting as figures


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (161, "2 min 41 s"),
        (3599.7, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (None, "–"),
        (math.nan, "–"),
        (timedelta(seconds=42), "42 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float | timedelta | None, text: str) -> None:
    assert figures.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (figures.decimal(0.88234), "0.882"),
        (figures.signed(-0.0041), "−0.004"),
        (figures.signed(0.012), "+0.012"),
        (figures.general(2.3e-05), "2.3e-5"),
        (figures.general(-0.01), "−0.01"),
        (figures.general(100.0), "100"),
        (figures.general(1e10), "1e10"),
        (figures.general(12_500.0), "12,500"),
        (figures.general(True), "true"),
        (figures.general("anything"), "anything"),
        (figures.percent(0.00001), "< 1 %"),
        (figures.percent(0.95), "95 %"),
        (figures.percent(0.0), "0 %"),
        (figures.percent(0.9945, 1), "99.5 %"),
        (figures.dollars(0.00823), "$0.0082"),
        (figures.dollars(1234.5), "$1,234.50"),
        (figures.dollars(0.0), "$0.00"),
        (figures.milliseconds(1.894), "1.89 ms"),
        (figures.milliseconds(104.2), "104 ms"),
        (figures.times(2.257), "2.26×"),
        (figures.times(12.34), "12.3×"),
        (figures.times(0.87), "0.87×"),
        (figures.count(16000), "16,000"),
        (figures.megabytes(22.86), "22.9 MB"),
        (figures.short_hash("a" * 64), "a" * 12 + "…"),
        (figures.short_hash("unknown-commit-of-a-tarball"), "unknown-commit-of-a-tarball"),
        (figures.sign(">="), "≥"),
        (figures.words("class_f1_drop"), "class-F1 drop"),
        (figures.words("near_duplicates"), "near duplicates"),
    ],
)
def test_figures_are_short_and_exact(shown: str, text: str) -> None:
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    "write", [figures.decimal, figures.signed, figures.count, figures.times, figures.dollars]
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_figure_that_is_no_number_is_a_dash(write: object, value: float | None) -> None:
    assert callable(write) and write(value) == "–"


def test_times_are_written_in_utc_wherever_they_were_taken() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert figures.moment(datetime(2026, 11, 21, 18, 3, tzinfo=tokyo)) == "2026-11-21 09:03 UTC"
    assert figures.moment(datetime(2026, 11, 21, 9, 3, tzinfo=UTC)) == "2026-11-21 09:03 UTC"


def test_a_text_of_ten_million_characters_is_cut_and_its_length_is_told() -> None:
    shown = figures.excerpt("x" * 10_000_000)
    assert len(shown) < 450 and shown.endswith("(10,000,000 characters)")
