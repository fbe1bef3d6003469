"""The geometry of the report's charts and of the picture of the DAG."""

from __future__ import annotations

import math
from pathlib import Path

import finished_runs as runs
import pytest

from gauntlet.components.write_report import dag
from gauntlet.components.write_report.artifacts import Candidates, Epoch, History, OptimizerStep
from gauntlet.components.write_report.charts import (
    MOST_POINTS,
    Series,
    line_chart,
    nice_ticks,
    spread,
    thinned,
    tick_labels,
    training_charts,
    whole_ticks,
)
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.comparison import class_rows, confusions, metric_table
from gauntlet.components.write_report.latency import latency_panels
from gauntlet.components.write_report.record import RunRecord


def record_of(root: Path, **kwargs: bool) -> RunRecord:
    runs.promoted(runs.local(root), **kwargs)
    return collect(str(root), runs.JOB)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.842, 0.9241, (0.84, 0.86, 0.88, 0.9, 0.92, 0.94)),
        (3.0, 97.0, (0.0, 20.0, 40.0, 60.0, 80.0, 100.0)),
        (-0.05, 0.05, (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)),
        (0.0, 1e-4, (0.0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4)),
        (5.0, 5.0, (4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6)),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_tick_labels_have_the_same_decimals() -> None:
    assert tick_labels((0.88, 0.9, 0.92)) == ("0.88", "0.90", "0.92")
    assert tick_labels((0.0, 0.5, 1.0)) == ("0.0", "0.5", "1.0")
    assert tick_labels((0.0, 5e-5, 1e-4, 1.5e-4)) == ("0", "5e-5", "1e-4", "1.5e-4")
    assert tick_labels((0.0, 5_000.0, 10_000.0)) == ("0", "5,000", "10,000")


def test_epochs_are_marked_at_whole_numbers_only() -> None:
    assert whole_ticks(1, 4) == (1, 2, 3, 4)
    assert whole_ticks(1, 1) == (1,)
    assert whole_ticks(1, 2000) == (500, 1000, 1500, 2000)


def test_a_line_runs_from_corner_to_corner_of_the_plot_with_y_downwards() -> None:
    chart = line_chart("t", "x", [Series("a", "line-accent", ((0.0, 0.0), (4.0, 1.0)), "1")])
    assert chart is not None
    (line,) = chart.lines
    assert line.dots == ((chart.left, chart.bottom), (chart.right, chart.top))
    assert line.path == f"M{chart.left} {chart.bottom}L{chart.right} {chart.top}"


def test_a_single_epoch_is_a_dot_in_the_middle() -> None:
    (loss, *_) = training_charts(History(epochs=(Epoch(1, {"loss": 0.5}, {"loss": 0.4}),), best_epoch=1))
    assert [len(line.dots) for line in loss.lines] == [1, 1]
    assert loss.lines[0].dots[0][0] == (loss.left + loss.right) / 2 == loss.marker


def test_a_figure_that_is_absent_or_infinite_leaves_a_gap_and_no_chart_is_made_of_gaps() -> None:
    epochs = tuple(Epoch(at, {"loss": loss}) for at, loss in enumerate((0.5, math.inf, 0.1), start=1))
    charts = training_charts(History(epochs=epochs))
    assert [chart.title for chart in charts] == ["Loss"]
    assert len(charts[0].lines) == 1 and len(charts[0].lines[0].dots) == 2
    assert training_charts(History()) == ()


def test_a_long_series_is_drawn_as_means_and_keeps_its_ends() -> None:
    points = tuple((float(x), float(x % 2)) for x in range(1, 2001))
    drawn = thinned(points)
    assert len(drawn) <= MOST_POINTS
    assert (drawn[0][0], drawn[-1][0]) == (1.0, 2000.0)
    # Runs of nine neighbours of 1, 0, 1, …: five ones in the first, four in the second.
    assert [y for _, y in drawn[:2]] == pytest.approx([5 / 9, 4 / 9])
    assert thinned(points[:10]) == points[:10]


def test_the_learning_rate_names_its_peak() -> None:
    steps = tuple(OptimizerStep(at, 1.0, rate) for at, rate in enumerate((0.0, 1e-4, 5e-5), start=1))
    rate = training_charts(History(steps=steps))[-1]
    assert rate.title == "Learning rate" and rate.lines[0].value == "peak 0.0001"


def test_labels_do_not_overlap_and_keep_their_order() -> None:
    assert spread([50.0, 52.0, 51.0], 15, 0, 200) == [50.0, 80.0, 65.0]
    assert spread([195.0, 199.0], 15, 0, 200) == [185.0, 200.0]


def test_bars_are_drawn_to_the_scale_of_the_slowest_in_their_panel(tmp_path: Path) -> None:
    candidates = record_of(tmp_path).candidates
    assert candidates is not None
    first, *_, last = latency_panels(candidates)
    assert (first.batch_size, first.is_objective, last.batch_size, last.is_objective) == (1, True, 32, False)
    assert [(bar.name, bar.role) for bar in first.bars] == [
        ("PyTorch, eager", "reference"),
        ("plain", "admitted"),
        ("fused", "refused"),
        ("int8", "chosen"),
    ]
    assert first.bars[0].p99_share == 1.0 and first.bars[0].share == pytest.approx(9.84 / 12.1)
    assert first.bars[3].speedup == pytest.approx(5.206, abs=1e-3)
    assert latency_panels(Candidates()) == ()


def test_intervals_of_both_models_share_one_axis(tmp_path: Path) -> None:
    scores = record_of(tmp_path).scores
    assert scores is not None
    table = metric_table(scores)
    assert [tick.label for tick in table.ticks] == ["0.85", "0.90", "0.95"]
    macro = table.rows[0]
    assert macro.whisker is not None and macro.champion_whisker is not None
    # (0.8943 - 0.85) / (0.95 - 0.85), and the champion 0.021 lower
    assert macro.whisker.at == pytest.approx(44.3)
    assert macro.champion_whisker.at == pytest.approx(23.3)
    assert macro.difference == pytest.approx(0.021)


def test_a_class_stands_beside_the_champions_same_class(tmp_path: Path) -> None:
    scores = record_of(tmp_path).scores
    assert scores is not None
    love = class_rows(scores)[2]
    assert (love.score.label, love.score.f1, love.champion_f1) == ("love", 0.848, pytest.approx(0.827))
    assert love.interval == pytest.approx((-0.014, 0.056))


def test_a_cell_of_the_confusion_is_shaded_by_its_share_of_the_true_class(tmp_path: Path) -> None:
    scores = record_of(tmp_path, with_champion=False).scores
    assert scores is not None
    ((title, matrix),) = confusions(scores)
    assert title == "Confusion"
    assert matrix[5][5].is_correct and not matrix[5][4].is_correct
    assert matrix[5][4].share == pytest.approx(14 / 72)
    assert matrix[5][4].shade == pytest.approx(math.sqrt(14 / 72), abs=1e-4)


@pytest.mark.parametrize("lying", [True, False])
def test_boxes_of_the_dag_lie_inside_the_picture_and_do_not_overlap(tmp_path: Path, lying: bool) -> None:
    picture = dag.lay_out(record_of(tmp_path), lying)
    for at, node in enumerate(picture.nodes):
        assert node.x >= 0 and node.x + node.width <= picture.width
        assert node.y >= 0 and node.y + node.height <= picture.height
        for other in picture.nodes[at + 1 :]:
            apart_x = node.x + node.width < other.x or other.x + other.width < node.x
            apart_y = node.y + node.height < other.y or other.y + other.height < node.y
            assert apart_x or apart_y


def ways(root: Path) -> list[str]:
    return [edge.way for edge in dag.lay_out(collect(str(root), runs.JOB), lying=True).edges]


def test_the_promoted_way_is_drawn_as_taken(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    assert ways(tmp_path) == [*["taken"] * 5, "promoted", "not taken"]


def test_the_rejected_way_is_drawn_as_taken(tmp_path: Path) -> None:
    runs.rejected(runs.local(tmp_path))
    assert ways(tmp_path) == [*["taken"] * 5, "not taken", "rejected"]


def test_no_branch_is_taken_before_the_gate_has_decided(tmp_path: Path) -> None:
    runs.died_in_training(runs.local(tmp_path))
    assert ways(tmp_path) == ["taken", "taken", *["open"] * 5]
