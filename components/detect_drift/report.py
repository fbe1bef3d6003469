"""The page of a window: what changed, how sure that is, what it harms and what to do."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from gauntlet.components.detect_drift.counts import Window
from gauntlet.components.detect_drift.reference import Reference
from gauntlet.contracts.drift import DriftRecord
from gauntlet.pages.charts import Bar, bars, histogram, shares
from gauntlet.pages.formatting import count, decimal, percent
from gauntlet.pages.page import Masthead, Section, Tile, partial, render

TONES = {"none": "good", "watch": "warn", "label": "warn", "reweigh": "warn", "too little": "idle"}
HEADLINES = {
    "none": "Nothing has changed",
    "watch": "Changed, no harm proven",
    "label": "Labels are needed",
    "too little": "Too few rows",
    "retrain": "The model is worse than promised: retrain",
    "investigate": "The log has faults",
    "roll back": "The version before is better: roll back",
    "reweigh": "The classes come in other shares",
}
MOST_COLUMNS = 12
BINS = 12


def drift_page(record: DriftRecord, reference: Reference | None, window: Window | None) -> str:
    """The page, without a text of any row; of a window without rows it says that there are none."""
    if reference is None or window is None:
        return render(_masthead(record), [_harm(record)] if record.rescored else [])
    return render(_masthead(record), [_changes(record, reference, window), _harm(record)])


def _masthead(record: DriftRecord) -> Masthead:
    tiles = [
        Tile("Rows", count(record.rows), f"{record.reference_rows:,} of the reference"),
        Tile("Changed", str(len(record.changed)), f"of {len(record.families)} families of columns"),
    ]
    if record.harm is not None:
        tiles.append(
            Tile(
                "Error", percent(record.harm.loss, 1), f"at most {percent(record.harm.promised, 1)} promised"
            )
        )
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


def _changes(record: DriftRecord, reference: Reference, window: Window) -> Section:
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


def _class_shares(reference: Reference, window: Window) -> Markup:
    known = reference.baseline.predicted
    if not known or not window.predicted:
        return Markup()
    counts = {"reference": known, "window": window.predicted}
    totals = {"reference": reference.baseline.rows, "window": window.rows}
    return shares("Predicted classes", "rows", counts, totals)


def _distribution(column: str, reference: Reference, window: Window) -> Markup:
    """The column in bins that have about equal shares of the reference."""
    edges = reference.arrays.edges[column]
    groups = np.array_split(np.arange(len(edges) + 1), min(BINS, len(edges) + 1))
    starts = [int(group[0]) for group in groups]
    bounds = [float(edges[max(start - 1, 0)]) for start in starts] + [float(edges[-1])]
    counts = {
        name: np.add.reduceat(of[:-1], starts).tolist()
        for name, of in (
            ("reference", reference.arrays.counts[column]),
            ("window", window.counts[column]),
        )
    }
    return histogram(f"{column}, by share of the rows", column, "rows", bounds, counts)


def _harm(record: DriftRecord) -> Section:
    body = partial("gauntlet.components.detect_drift:harm.html.jinja", record=record)
    state = ("no labels", "idle")
    if record.harm is not None:
        state = ("harm proven", "bad") if record.harm.is_proven else ("no harm proven", "good")
    return Section("harm", "What it harms", body, state=state)
