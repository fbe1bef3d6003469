"""What the sections of the report draw: latency, quality, the steps of the run, a classifier's tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import finished_runs as runs
import pytest

from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.record import CollectedRun, outcome
from gauntlet.components.write_report.report import render
from gauntlet.components.write_report.sections import latency_panels, pareto, sections
from gauntlet.contracts.conversion import Candidates
from gauntlet.tasks.classification.report import confusions, evaluation, metric_rows


def record_of(root: Path, **kwargs: bool) -> CollectedRun:
    runs.promoted(runs.local(root), **kwargs)
    return collect(str(root), runs.JOB, runs.TASK)


def test_every_batch_size_has_a_panel_with_all_that_was_timed(tmp_path: Path) -> None:
    candidates = record_of(tmp_path).candidates
    assert candidates is not None
    panels = latency_panels(candidates)
    assert list(panels) == [1, 8, 32]
    shown = re.findall(r"<title>(.*?)</title>", panels[1].replace("\N{NO-BREAK SPACE}", " "))
    assert shown == [
        "PyTorch, eager: 9.84 ms",
        "plain: 4.11 ms · 2.39×",
        "fused: 3.16 ms · 3.11×",
        "int8: 1.89 ms · 5.21×",
    ]
    assert latency_panels(Candidates()) == {}


def test_quality_against_latency_is_drawn_by_the_first_metric_that_was_measured(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    assert record.candidates is not None and record.kind is not None
    chart = pareto(record.candidates, record.kind.metrics)
    assert "macro-F1" in chart and "fused, refused" in chart
    assert pareto(Candidates(), record.kind.metrics) == pareto(record.candidates, ()) == ""


def test_a_difference_is_of_the_rows_that_both_models_are_compared_on(tmp_path: Path) -> None:
    macro_f1, *others = metric_rows(record_of(tmp_path).scores)
    assert (macro_f1.name, macro_f1.ours, macro_f1.interval) == ("Macro-F1", 0.8943, (0.8751, 0.9117))
    assert macro_f1.difference == pytest.approx(0.021)
    assert [row.name for row in others] == ["Weighted F1", "Accuracy"]


def test_a_class_is_shown_beside_the_champions_same_class(tmp_path: Path) -> None:
    body = evaluation(record_of(tmp_path).scores)
    love = next(row for row in body.split("<tr>") if row.startswith('<th scope="row">love</th>'))
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", love)]
    assert cells[3:] == ["0.8480", "0.8270", "+0.0210", "−0.014 to +0.056"]


def test_a_cell_of_the_confusion_is_shaded_by_its_share_of_the_true_class(tmp_path: Path) -> None:
    ((title, matrix),) = confusions(record_of(tmp_path, with_champion=False).scores)
    assert title == "Confusion"
    assert (matrix[5][5].tone, matrix[5][4].tone) == ("good", "bad")
    assert matrix[5][4].shade == pytest.approx(math.sqrt(14 / 72), abs=1e-4)
    assert matrix[5][4].title.replace("\N{NO-BREAK SPACE}", " ") == "19.4 % of the row"


@pytest.mark.parametrize(
    ("build", "states", "ways"),
    [
        (runs.promoted, {"succeeded": 7}, {"promote": "taken", "reject": "not-taken"}),
        (runs.rejected, {"succeeded": 6, "skipped": 1}, {"promote": "not-taken", "reject": "taken"}),
        (
            runs.died_in_training,
            {"succeeded": 2, "failed": 1, "not reached": 4},
            {"promote": "open", "reject": "open"},
        ),
    ],
)
def test_the_steps_of_the_run_lead_to_the_branch_that_the_gate_took(
    tmp_path: Path, build: Callable[[runs.FolderOf], None], states: dict[str, int], ways: dict[str, str]
) -> None:
    build(runs.local(tmp_path))
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    (steps, *_) = sections(record, outcome(record), "a" * 64)
    assert re.findall(r'href="#([\w-]+)"', steps.body) == [
        *(step.name for step in record.steps),
        "gate-model",
    ]
    assert dict(re.findall(r'<li class="(promote|reject) ([\w-]+)"', steps.body)) == ways
    shown = [step.state for step in record.steps]
    assert {state: shown.count(state) for state in states} == states
    assert all(state in steps.body for state in states if state != "succeeded")


def test_a_task_kind_whose_report_module_is_broken_costs_its_own_section_alone(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    assert record.kind is not None
    broken = replace(record, kind=replace(record.kind, report="a_module_that_is_not_there"))
    page = render(broken, "moods", "run-1", "0" * 64)
    assert "a_module_that_is_not_there" in page
    assert "Try the new champion." in page
    assert "Bootstrap lower limit of macro-F1" in page  # the gate's section
