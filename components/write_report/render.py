"""The page: a run's record in, one self-contained HTML file out.

Pure: the same record gives the same bytes.
"""

from __future__ import annotations

import re
from datetime import datetime

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from gauntlet.components.write_report import comparison, dag, figures, latency
from gauntlet.components.write_report.bill import bill
from gauntlet.components.write_report.charts import training_charts
from gauntlet.components.write_report.headline import tiles
from gauntlet.components.write_report.lineage import lineage
from gauntlet.components.write_report.next_steps import next_steps
from gauntlet.components.write_report.outcome import Kind, outcome
from gauntlet.components.write_report.pareto import pareto_picture
from gauntlet.components.write_report.record import RunRecord

TEMPLATE = "report.html.jinja"
CODE = re.compile(r"`([^`]+)`")
OUTCOME_TONES: dict[Kind, str] = {
    "promoted": "good",
    "registered": "good",
    "unchanged": "good",
    "rejected": "bad",
    "data refused": "bad",
    "failed": "bad",
    "cancelled": "idle",
}
VERDICT_TONES = {"pass": "good", "warn": "warn", "drop": "warn", "fail": "bad", "not applicable": "idle"}


def render(record: RunRecord, name: str, run_id: str, manifest_sha256: str) -> str:
    """The page of a run of the system `name`. Whatever the run left is escaped."""
    ended = outcome(record)
    scores = record.scores
    return render_page(
        page_environment().get_template(TEMPLATE),
        record=record,
        name=name,
        run_id=run_id,
        manifest_sha256=manifest_sha256,
        outcome=ended,
        outcome_tone=OUTCOME_TONES[ended.kind],
        state_tones=dag.STATE_TONES,
        verdict_tones=VERDICT_TONES,
        started=first_start(record),
        finished=last_end(record),
        tiles=tiles(record),
        next_steps=next_steps(record, ended),
        message_chars=figures.MESSAGE_CHARS,
        lineage=lineage(record, manifest_sha256),
        dags=(dag.lay_out(record, lying=True), dag.lay_out(record, lying=False)),
        training_charts=training_charts(record.history) if record.history else (),
        latency_panels=latency.latency_panels(record.candidates) if record.candidates else (),
        pareto=pareto_picture(record.candidates) if record.candidates else None,
        bill=bill(record.history) if record.history else (),
        local="://" not in record.pipeline_root,
        metrics=comparison.metric_table(scores) if scores else None,
        classes=comparison.class_rows(scores) if scores else (),
        confusions=comparison.confusions(scores) if scores else (),
    )


def page_environment(*packages: str) -> Environment:
    """The templates of this package, and before them those of others, with the filters that they use."""
    loaders = [
        PackageLoader(package, "templates") for package in (*packages, "gauntlet.components.write_report")
    ]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figures.FILTERS)
    environment.filters["code_spans"] = code_spans
    return environment


def render_page(template: Template, **content: object) -> str:
    """The page, which UTF-8 can hold whatever the content."""
    # JSON may hold half a surrogate pair, which UTF-8 cannot: it must not cost the reader the page
    return template.render(**content).encode("utf-8", errors="backslashreplace").decode("utf-8")


def code_spans(text: str) -> Markup:
    """Escape a text of ours, and set what stands between backquotes as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def first_start(record: RunRecord) -> datetime | None:
    """When the first step that is known to have started did."""
    return min((step.started for step in record.steps if step.started), default=None)


def last_end(record: RunRecord) -> datetime | None:
    """When the last step ended."""
    return max((step.ended for step in record.steps if step.ended), default=None)
