"""The page of a window: what changed, how sure that is, what it harms and what to do."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from gauntlet.components.detect_drift.rows import Floats, LogRows
from gauntlet.contracts.drift import DriftRecord
from gauntlet.pages.charts import Bar, bars, histogram, shares
from gauntlet.pages.formatting import count, decimal, percent
from gauntlet.pages.page import Masthead, Section, Tile, partial, render

TONES = {"none": "good", "watch": "warn", "label": "warn", "too little": "idle"}
HEADLINES = {
    "none": "Nothing has changed",
    "watch": "Changed, no harm proven",
    "label": "Labels are needed",
    "too little": "Too few rows",
    "retrain": "The model is worse than promised: retrain",
    "investigate": "The log has faults",
}
MOST_COLUMNS = 12
BINS = 12


def drift_page(record: DriftRecord, reference: LogRows, window: LogRows) -> str:
    """The page, without a text of any row."""
    return render(_masthead(record), [_changes(record, reference, window), _harm(record)])


def _masthead(record: DriftRecord) -> Masthead:
    tiles = [
        Tile("Rows", count(record.rows), f"{record.reference_rows:,} of the reference"),
        Tile("Changed", str(len(record.changed)), f"of {len(record.families)} families of columns"),
    ]
    if record.harm is not None:
        share = record.harm.errors / record.harm.labelled if record.harm.labelled else None
        tiles.append(Tile("Error", percent(share, 1), f"at most {percent(record.harm.promised, 1)} promised"))
    if record.estimated is not None and record.estimated.accuracy is not None:
        low, high = percent(record.estimated.accuracy_low, 1), percent(record.estimated.accuracy_high, 1)
        tiles.append(Tile("Estimated accuracy", percent(record.estimated.accuracy, 1), f"{low} to {high}"))
    return Masthead(
        record.model,
        "drift",
        HEADLINES[record.outcome],
        lead=f"{record.next_step}",
        tone=TONES.get(record.outcome, "bad"),
        reasons=record.faults or (record.reason,),
        facts={"bundle": record.bundle, "from": record.start[:16], "to": record.end[:16]},
        tiles=tiles,
    )


def _changes(record: DriftRecord, reference: LogRows, window: LogRows) -> Section:
    ordered = [one for one in record.changes if one.statistic == "KS"]
    largest = sorted(ordered, key=lambda one: -one.effect)[:MOST_COLUMNS]
    rows = [
        Bar(
            one.column,
            one.effect,
            max(one.effect, one.detectable or 0),
            decimal(one.effect, 3),
            "second" if one.family in record.changed and one.effect >= record.tolerance else "accent",
        )
        for one in largest
    ]
    body = partial(
        "gauntlet.components.detect_drift:changes.html.jinja",
        record=record,
        effects=bars("The largest difference of the distribution functions, by column", rows),
        classes=_class_shares(reference, window),
        distribution=_distribution(largest[0].column, reference, window) if largest else Markup(),
        shown=largest[0].column if largest else "",
    )
    state = ("changed", "warn") if record.changed else ("no change proven", "good")
    return Section("changes", "What changed", body, state=state)


def _class_shares(reference: LogRows, window: LogRows) -> Markup:
    if reference.predicted is None or window.predicted is None:
        return Markup()
    counts = {}
    for group, rows in (("reference", reference.predicted), ("window", window.predicted)):
        names, numbers = np.unique(rows, return_counts=True)
        counts[group] = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    totals = {"reference": reference.answered, "window": window.answered}
    return shares("Predicted classes", "rows", counts, totals)


def _distribution(column: str, reference: LogRows, window: LogRows) -> Markup:
    groups = {"reference": _values(column, reference), "window": _values(column, window)}
    present = {group: values[~np.isnan(values)] for group, values in groups.items()}
    both = np.concatenate(list(present.values()))
    edges = np.linspace(both.min(), max(both.max(), both.min() + 1e-9), BINS + 1)
    counts = {group: np.histogram(values, edges)[0].tolist() for group, values in present.items()}
    return histogram(f"{column}, by share of the rows", column, "rows", edges.tolist(), counts)


def _values(column: str, rows: LogRows) -> Floats:
    if column in rows.scalars:
        return rows.scalars[column]
    assert rows.probabilities is not None
    place = int(column.partition("[")[2].rstrip("]"))
    return rows.probabilities[:, place]


def _harm(record: DriftRecord) -> Section:
    body = partial("gauntlet.components.detect_drift:harm.html.jinja", record=record)
    state = ("no labels", "idle")
    if record.harm is not None:
        state = ("harm proven", "bad") if record.harm.is_proven else ("no harm proven", "good")
    return Section("harm", "What it harms", body, state=state)
