"""The page itself: complete whatever happened, self-contained, and safe with hostile texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import finished_runs as runs
import pytest
import step_outputs as outputs

from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.record import STEPS, FinalStatus
from gauntlet.components.write_report.report import render, write_page

VOID = {"meta", "link", "br", "hr", "img", "input"}
ENDINGS: dict[str, Callable[[runs.FolderOf], None]] = {
    "promoted": runs.promoted,
    "first promotion": lambda folder_of: runs.promoted(folder_of, with_champion=False),
    "rejected": runs.rejected,
    "bad data": runs.bad_data,
    "died in training": runs.died_in_training,
    "killed in training": runs.killed_in_training,
    "nothing at all": lambda _: None,
}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \" ' & </style> {{ 7 * 7 }} `code`"


class Page(HTMLParser):
    """Collects what a page holds, and checks that its tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        self.ids += [value or "" for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def html_of(root: Path, build: Callable[[runs.FolderOf], None]) -> str:
    build(runs.local(root))
    record = collect(str(root), runs.JOB, runs.TASK)
    return render(record, name="emotion", run_id="run-17", manifest_sha256="a" * 64)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_page_is_whole_and_has_every_section_however_the_run_ended(tmp_path: Path, ending: str) -> None:
    page = Page(html_of(tmp_path, ENDINGS[ending]))
    assert {*STEPS, "steps", "next", "bill", "lineage"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    links = [value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")]
    assert set(links) <= set(page.ids)
    assert "run-17" in page.text and "a" * 64 in page.text


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path, ending: str) -> None:
    html = html_of(tmp_path, ENDINGS[ending])
    page = Page(html)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form"}
    loads = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset"}]
    assert all(value.startswith(("#", "data:")) for value in loads)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", html)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_drawing_is_well_formed(tmp_path: Path, ending: str) -> None:
    html = html_of(tmp_path, ENDINGS[ending])
    charts = re.findall(r'<svg class="chart.*?</svg>', html, re.DOTALL)
    for drawing in charts:
        ElementTree.fromstring(drawing)
    assert html.count('<ol class="dag"') == 1
    trained = "Epochs</h3>" in html
    converted = "Quality against latency" in html
    # Classes and text lengths; four of the training; three batch sizes, the Pareto front and the metrics.
    assert len(charts) == 2 * ("Text length</h3>" in html) + 4 * trained + 5 * converted
    assert trained == converted == (ending in {"promoted", "first promotion", "rejected"})


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first = html_of(tmp_path, runs.promoted)
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert render(record, name="emotion", run_id="run-17", manifest_sha256="a" * 64) == first


def test_a_promoted_run_shows_its_figures(tmp_path: Path) -> None:
    text = " ".join(Page(html_of(tmp_path, runs.promoted)).text.replace("\N{NO-BREAK SPACE}", " ").split())
    for shown in (
        "Promoted as version 3",
        "0.894",  # macro-F1
        "95 % interval 0.875 to 0.912",
        "at least +0.009 at 95 % confidence",
        "5.21×",
        "22.9 MB",
        "$0.0081",
        "16,000 train, 2,000 validation, 2,000 test",
        "Epoch 3 was kept",
        "fused was refused: largest logit difference 3.1e-04 is over max_abs_logit_difference 1e-04",
        "1.89 ms · 5.21×",
        "−0.014 to +0.056",  # love's interval against the champion
        "i feel a little mellow today and that is all there is to it",
        "9377eda0c2f4",  # git commit
        "emotion version 3",
        outputs.BUNDLE_SHA256,
        "$0.1900",  # an hour of the machine
    ):
        assert shown in text


def test_the_page_says_how_many_test_rows_the_champion_was_trained_on(tmp_path: Path) -> None:
    text = " ".join(Page(html_of(tmp_path, runs.promoted)).text.replace(" ", " ").split())
    assert "120 of 2000 test rows were in the champion's training split" in text
    assert "the champion's figures and all differences are of the 1,880 clean rows" in text


def test_a_rejected_run_shows_the_reasons_at_the_top(tmp_path: Path) -> None:
    html = html_of(tmp_path, runs.rejected)
    top = html[: html.index("<main>")]
    assert "speedup: found 1.4, expected &gt;= 2.3" in top
    assert "Version 2 stays the champion." in top


def test_a_failed_run_shows_the_message_and_where_it_stopped(tmp_path: Path) -> None:
    text = Page(html_of(tmp_path, runs.died_in_training)).text
    assert "RuntimeError: CUDA error: device-side assert triggered" in text
    assert text.count("train-model failed first.") == 4
    assert "Not reached" in text


def test_refused_data_shows_the_rows_that_the_failed_check_found(tmp_path: Path) -> None:
    html = html_of(tmp_path, runs.bad_data)
    assert html.count("<details open>") == 1
    assert "14 rows (0.070%)" in html


def test_a_step_whose_artifact_is_gone_is_not_passed_over(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    (tmp_path / runs.JOB / "train-model" / "history").unlink()
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    html = render(record, name="emotion", run_id="run-17", manifest_sha256="a" * 64)
    assert "It succeeded, but left no readable <code>history</code>." in html


def test_hostile_texts_of_the_data_stay_texts(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.promoted(folder_of)
    scores = outputs.scores(with_champion=True, difference=0.02)
    scores["labels"][0] = HOSTILE
    scores["challenger"]["per_class"][0]["label"] = HOSTILE
    scores["mistakes"][0] = {"text": HOSTILE, "label": HOSTILE, "predicted": HOSTILE, "confidence": 0.9}
    scores["champion_error"] = HOSTILE
    runs.write(folder_of("evaluate-model"), "scores", scores)
    checks = outputs.checks({"leakage": 1})
    for check in checks["checks"]:
        check |= {"examples": [HOSTILE], "found": HOSTILE, "check": HOSTILE}
    runs.write(folder_of("validate-data"), "checks", checks)
    statistics = outputs.statistics()
    runs.write(
        folder_of("validate-data"), "splits/statistics.json", statistics | {"uri": HOSTILE, "name": HOSTILE}
    )
    runs.write(
        folder_of("train-model"), "history", outputs.history() | {"device": HOSTILE, "machine": HOSTILE}
    )
    record = collect(str(tmp_path), runs.JOB, runs.TASK, FinalStatus("FAILED", HOSTILE))
    html = render(record, name=HOSTILE, run_id=HOSTILE, manifest_sha256=HOSTILE)
    page = Page(html)
    assert not page.tags & {"script", "img"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "49" not in re.findall(r"\{\{(.*?)\}\}", page.text)


def test_a_hostile_failure_message_stays_a_text(tmp_path: Path) -> None:
    page = Page(html_of(tmp_path, lambda folder_of: runs.fail(folder_of("validate-data"), HOSTILE, 1)))
    assert not page.tags & {"script", "img"} and "<script>alert(1)</script>" in page.text


def test_half_a_surrogate_pair_does_not_cost_the_page(tmp_path: Path) -> None:
    def build(folder_of: runs.FolderOf) -> None:
        runs.fail(folder_of("validate-data"), "row 3: \ud83d", 4)

    build(runs.local(tmp_path))
    report = tmp_path / "out" / "report"
    record = collect(str(tmp_path), runs.JOB, runs.TASK, FinalStatus("FAILED"))
    ended = write_page(record, "emotion", "run-17", "a" * 64, report)
    assert ended.exit_code == 4
    assert "row 3: \\ud83d" in report.read_text(encoding="utf-8")
    assert [path.name for path in report.parent.iterdir()] == ["report"]


def test_the_orchestrators_word_is_shown_beside_that_of_a_step_that_left_none(tmp_path: Path) -> None:
    runs.validated(runs.local(tmp_path))
    final = FinalStatus("FAILED", "The replica workerpool0-0 exited with code 137")
    record = collect(str(tmp_path), runs.JOB, runs.TASK, final)
    html = render(record, name="emotion", run_id="run-17", manifest_sha256="a" * 64)
    assert "The replica workerpool0-0 exited with code 137" in html
