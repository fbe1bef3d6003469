"""The charts of the pages: what they show, and that they are the same everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from gauntlet.contracts.training import TrainingHistory
from gauntlet.pages import charts
from gauntlet.pages.charts import MOST_POINTS, Bar, Estimate, Mark, Series, spread, thinned
from gauntlet.trainer.curves import curves_svg, training_charts

LINE = [Series("loss", ((1.0, 0.5), (2.0, 0.25)), value="0.250")]
BARS = [Bar("PyTorch, eager", 9.84, 12.1, "9.84 ms"), Bar("int8", 1.9, 1.9, "1.90 ms")]
MARKS = [Mark("a", 1.0, 0.9, is_on_front=True), Mark("b", 2.0, 0.8)]
COUNTS = {"train": (1, 3, 0), "test": (0, 2, 0)}
HOSTILE = '<script>&"$x^2$'
DRAWN = {
    "curves": charts.curves("Loss", "epoch", LINE, (2, "best epoch")),
    "bars": charts.bars(
        "Latency", [Bar("PyTorch, eager", 9.84, 12.1, "9.84 ms"), Bar("int8", 1.9, 1.9, "1.90 ms")]
    ),
    "scatter": charts.scatter(
        "Front", "ms", "macro-F1", [Mark("a", 1.0, 0.9, is_on_front=True), Mark("b", 2.0, 0.8)]
    ),
    "intervals": charts.intervals("Metrics", [Estimate("Accuracy", 0.9, 0.85, 0.95)]),
    "shares": charts.shares(
        "Balance", "rows", {"train": {"joy": 3, "fear": 1}, "test": {"joy": 0}}, {"train": 4, "test": 0}
    ),
    "timeline": charts.timeline(
        "Time", "rows", (0.0, 86400.0, 172800.0), {"train": (5, 1), "test": (0, 2)}, are_dates=True
    ),
    "histogram": charts.histogram(
        "Length", "characters", "texts", (0, 20, 40), {"train": (1, 3, 0), "test": (0, 2, 0)}
    ),
}


def texts(chart: str) -> list[str]:
    """The texts of a chart: labels, and what its marks show when they are pointed at."""
    return [element.text or "" for element in ElementTree.fromstring(chart).iter()]


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_is_an_accessible_picture_that_changes_nothing_else_of_its_page(name: str) -> None:
    picture = ElementTree.fromstring(DRAWN[name])
    assert picture.get("role") == "img" and picture.get("aria-label")
    assert not re.search(r"url\(|<style|<script|http|fill: #|stroke: #", DRAWN[name])
    assert not re.search(r' id="(?!m[0-9a-f]{10}")', DRAWN[name])


def test_charts_show_names_and_values_as_text() -> None:
    assert {"epoch", "loss 0.250", "best epoch"} <= set(texts(DRAWN["curves"]))
    assert {"9.84 ms", "PyTorch, eager: 9.84 ms", "int8"} <= set(texts(DRAWN["bars"]))
    assert {"a", "b", "a: 1, 0.9000", "macro-F1"} <= set(texts(DRAWN["scatter"]))
    assert "Accuracy 0.9000, 0.850 to 0.950" in texts(DRAWN["intervals"])
    assert "train: 3 texts (75.0%)" in texts(DRAWN["histogram"])
    assert {"joy, train: 3 rows (75.0%)", "fear"} <= set(texts(DRAWN["shares"]))
    assert not [text for text in texts(DRAWN["shares"]) if "test" in text]  # a split without rows
    assert "test, 1970-01-02 to 1970-01-03: 2 rows" in texts(DRAWN["timeline"])


def test_of_many_classes_the_largest_are_drawn_in_their_order() -> None:
    counts = {f"class {number}": number for number in range(1_000)}
    chart = charts.shares("Balance", "rows", {"train": counts}, {"train": sum(counts.values())})
    drawn = [text for text in texts(chart) if re.fullmatch(r"class \d+", text)]
    assert drawn == [f"class {number}" for number in range(976, 1_000)]


def test_a_row_with_several_labels_counts_in_the_share_of_each() -> None:
    chart = charts.shares("Balance", "rows", {"train": {"a": 8, "b": 6}}, {"train": 10})
    assert {"a, train: 8 rows (80.0%)", "b, train: 6 rows (60.0%)"} <= set(texts(chart))


def test_a_histogram_ends_with_its_last_filled_bin() -> None:
    assert [text for text in texts(DRAWN["histogram"]) if text.isdigit()] == ["0", "20", "40"]
    assert not [text for text in texts(DRAWN["histogram"]) if "0 texts" in text]


def test_the_same_figures_give_the_same_bytes() -> None:
    assert charts.curves("Loss", "epoch", LINE, (2, "best epoch")) == DRAWN["curves"]


def test_charts_without_figures_are_empty() -> None:
    assert charts.curves("t", "x", [Series("a", ())]) == ""
    assert charts.bars("t", []) == charts.scatter("t", "x", "y", []) == charts.intervals("t", []) == ""
    assert charts.histogram("t", "x", "texts", (0, 1), {"train": (0, 0)}) == ""


def test_names_are_texts_whatever_they_hold() -> None:
    for chart in (
        charts.bars(HOSTILE, [Bar(HOSTILE, 1.0, 1.0, HOSTILE)]),
        charts.scatter("t", "x", "y", [Mark(HOSTILE, 1, 1)]),
    ):
        assert HOSTILE in texts(chart) and "<script" not in chart


def history(epochs: Sequence[float], rates: Sequence[float] = ()) -> TrainingHistory:
    content = {
        "epochs": [
            {
                "epoch": at,
                "training": {"loss": loss},
                "validation": {"loss": None, "qwk": 0.5},
                "examples_per_second": None,
                "seconds": None,
            }
            for at, loss in enumerate(epochs, start=1)
        ],
        "steps": [{"step": at, "loss": 1.0, "learning_rate": rate} for at, rate in enumerate(rates, start=1)],
        "best_epoch": 1,
    }
    return TrainingHistory.model_validate(content)


def test_a_figure_that_is_absent_or_infinite_leaves_a_gap_and_no_chart_is_made_of_gaps() -> None:
    shown = training_charts(history([0.5, math.inf, 0.1]))
    assert list(shown) == ["Loss", "Quality on the validation split"]
    assert "training 0.100" in texts(shown["Loss"]) and "validation" not in texts(shown["Loss"])
    assert training_charts(history([])) == {}


@pytest.mark.parametrize(("epochs", "ticks"), [(1, ["1"]), (4, ["1", "2", "3", "4"])])
def test_epochs_are_marked_at_whole_numbers_only(epochs: int, ticks: list[str]) -> None:
    chart = training_charts(history([0.5] * epochs))["Quality on the validation split"]
    assert [text for text in texts(chart) if text.isdigit()] == ticks


def test_the_learning_rate_names_its_peak() -> None:
    shown = training_charts(history([], [0.0, 1e-4, 5e-5]))
    assert list(shown) == ["Training loss", "Learning rate"]
    assert "rate peak 0.0001" in texts(shown["Learning rate"])


def test_the_charts_of_a_training_are_one_picture_in_a_tracker() -> None:
    picture = ElementTree.fromstring(curves_svg(history([0.5, 0.4], [1e-4])))
    assert [child.get("y") for child in picture] == ["0", "220", "440", "660"]


def test_a_long_series_is_drawn_as_means_and_keeps_its_ends() -> None:
    points = tuple((float(x), float(x % 2)) for x in range(1, 2001))
    drawn = thinned(points)
    assert len(drawn) <= MOST_POINTS
    assert (drawn[0][0], drawn[-1][0]) == (1.0, 2000.0)
    # Runs of nine neighbours of 1, 0, 1, …: five ones in the first, four in the second.
    assert [y for _, y in drawn[:2]] == pytest.approx([5 / 9, 4 / 9])
    assert thinned(points[:10]) == points[:10]


def test_labels_do_not_overlap_and_keep_their_order() -> None:
    assert spread([50.0, 52.0, 51.0], 15, 0, 200) == [50.0, 80.0, 65.0]
    assert spread([195.0, 199.0], 15, 0, 200) == [185.0, 200.0]
