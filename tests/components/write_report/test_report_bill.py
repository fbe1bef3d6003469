"""The bill of a run's training."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import finished_runs as runs
from test_report_page import html_of

from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.next_steps import next_steps
from gauntlet.components.write_report.record import outcome
from gauntlet.components.write_report.report import render
from gauntlet.components.write_report.sections import bill
from gauntlet.contracts.training import History, Usage

HISTORY = History(
    stopped="max_cost reached",
    seconds=9000.0,
    machine="g2-standard-8 + 1 × NVIDIA_L4",
    usd_per_hour=0.981664,
    cost_usd=2.45416,
    max_hours=4.0,
    max_cost_usd=2.45,
    host="trainer-0",
    usage=Usage(
        examples_per_second=1234.4,
        cpu_utilisation=0.251,
        cpu_wait=0.063,
        peak_memory_gb=3.456,
        gpu_utilisation=0.87,
        peak_gpu_memory_gb=20.1,
    ),
)


def shown(history: History) -> dict[str, str]:
    return {entry.label: entry.value.replace("\N{NO-BREAK SPACE}", " ") for entry in bill(history)}


def test_the_bill_of_a_training_that_used_its_budget() -> None:
    assert shown(HISTORY) == {
        "Machine": "g2-standard-8 + 1 × NVIDIA_L4",
        "Price of an hour": "$0.9817",
        "Time": "2 h 30 min",
        "Cost": "$2.45",
        "Hours used": "62 %",  # 2.5 of 4 h are 62.5 %
        "Budget used": "100 %",
        "Ended with": "max_cost reached",
        "Examples per second": "1,234",
        "CPU utilisation": "25 %",
        "Waited for a CPU": "6 %",
        "Peak memory": "3.46 GB",
        "GPU utilisation": "87 %",
        "Peak GPU memory": "20.10 GB",
    }


def test_what_was_not_measured_has_no_line_and_what_is_unknown_a_dash() -> None:
    assert shown(HISTORY.model_copy(update={"usage": Usage(), "max_hours": None, "seconds": None})) == {
        "Machine": "g2-standard-8 + 1 × NVIDIA_L4",
        "Price of an hour": "$0.9817",
        "Time": "–",
        "Cost": "$2.45",
        "Budget used": "100 %",
        "Ended with": "max_cost reached",
    }


def text_of(html: str) -> str:
    words = re.sub(r"<[^>]+>", " ", html).replace("\N{NO-BREAK SPACE}", " ")
    return " ".join(unescape(words).split())


def test_the_page_of_a_local_run_says_that_nothing_was_bought(tmp_path: Path) -> None:
    text = text_of(html_of(tmp_path, runs.promoted))
    assert "This run was local, so nothing was bought: the time is that of workstation-7" in text
    assert "Price of an hour $0.1900" in text
    assert "Hours used 1 % of 4 h" in text
    assert "Budget used < 1 % of $10.00" in text
    assert "CPU utilisation 87 %" in text
    assert "Waited for a CPU 11 %" in text
    assert "GPU utilisation" not in text


def test_the_page_of_a_run_in_the_cloud_does_not(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    record = replace(collect(str(tmp_path), runs.JOB, runs.TASK), pipeline_root="gs://bucket/runs")
    text = text_of(render(record, name="emotion", run_id="run-17", manifest_sha256="a" * 64))
    assert "Cost $0.0081" in text
    assert "nothing was bought" not in text


def test_a_rejected_model_whose_training_was_cut_short_has_advice_on_the_limit(tmp_path: Path) -> None:
    runs.rejected(runs.local(tmp_path))
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.history is not None
    cut = replace(record, history=record.history.model_copy(update={"stopped": "max_cost reached"}))
    steps = next_steps(cut, outcome(cut))
    assert [step.text for step in steps if step.about == "max_cost reached"] == [
        "Training ended before all its epochs; `training.resources.max_cost_usd` is the limit."
    ]
    assert not [step for step in next_steps(record, outcome(record)) if "limit" in step.text]


def test_a_run_that_never_trained_has_no_bill_and_says_why(tmp_path: Path) -> None:
    html = html_of(tmp_path, runs.bad_data)
    section = html[html.index('<section id="bill"') :]
    section = section[: section.index("</section>")]
    assert "Not reached" in section
    assert "$" not in section
