"""The data report: the page of validate-data, of bounded size however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
from markupsafe import Markup

from gauntlet.components.validate_data.checks import Alike, Examination
from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.kinds import TaskKind
from gauntlet.pages import charts
from gauntlet.pages.formatting import capitalize_first, count, short_hash, words
from gauntlet.pages.page import NOTHING, Masthead, Section, partial, render

CHECKS = "gauntlet.components.validate_data:checks.html.jinja"
REPORT = "gauntlet.components.validate_data:report.html.jinja"
BINS = 40  # of the times of rows
SHOWN_SAMPLES = 40


@dataclass(frozen=True)
class Word:
    """A word of one of two rows; `is_new` if the other row does not have it there."""

    text: str
    is_new: bool


def page(kind: TaskKind, examined: Examination) -> str:
    """The page of a dataset that was read and checked. Whatever comes from the data is escaped."""
    statistics, checked = examined.statistics, examined.checked
    failed, results = checked.failed, checked.results
    code = Markup("<code>{}</code>")
    facts: dict[str, str] = {"Read from": code.format(statistics.uri)}
    if statistics.commit_hash:
        facts["Commit"] = code.format(statistics.commit_hash)
    facts["Content"] = short_hash(statistics.sha256)
    rows = kind.function("report", "ROWS")
    headline = f"All {len(results)} checks let the data through"
    lead = f"{count(checked.rows_read)} {rows} were read, {count(sum(statistics.rows.values()))} are kept."
    if failed:
        headline = f"{len(failed)} of {len(results)} checks failed"
        lead = f"Nothing is trained on this data: {', '.join(result.check for result in failed)}. {lead}"
    masthead = Masthead(
        name=f"{statistics.name} {statistics.version}",
        kind="data validation",
        headline=headline,
        lead=lead,
        tone="bad" if failed else "good",
        facts=facts,
    )
    described: Markup = kind.function("report", "data")(statistics, examined.pictures)
    sections = [
        Section("checks", "Checks", partial(CHECKS, checks=results)),
        Section("data", "Data", described),
        Section("time", "Rows over time", over_time(examined)),
        *_alike(examined),
        Section("samples", "Examples", _samples(examined)),
    ]
    return render(masthead, [section for section in sections if section.body])


def over_time(examined: Examination) -> Markup:
    """Rows by time and split; nothing if the rows have no times."""
    rows = examined.checked.rows
    if "time" not in rows or not len(rows):
        return NOTHING
    times = rows["time"].to_numpy(dtype=np.float64)
    splits = rows["split"].to_numpy()
    edges = np.histogram_bin_edges(times, BINS)
    counts: dict[str, list[int]] = {
        split: np.histogram(times[splits == split], edges)[0].tolist() for split in SPLITS
    }
    chart = charts.timeline("Rows over time", "rows", edges.tolist(), counts, _are_dates(examined.table))
    return partial(f"{REPORT}#time", chart=chart)


def _are_dates(table: pd.DataFrame) -> bool:
    """Whether the times were dates in the data, and not numbers."""
    first = table["time"].iloc[0]
    if isinstance(first, str):
        try:
            float(first)
        except ValueError:
            return True
    return not isinstance(first, str | int | float) or isinstance(first, datetime)


def _alike(examined: Examination) -> Iterator[Section]:
    """A section for each check that compares rows and found some."""
    for name, finding in examined.checked.findings.items():
        if finding.alike:
            rows = [_shown(one, examined) for one in finding.alike]
            affected = len(finding.affected)
            body = partial(f"{REPORT}#alike", groups=rows, affected=affected, is_pair=rows[0]["similarity"])
            yield Section(name, capitalize_first(words(name)), body)


def _shown(one: Alike, examined: Examination) -> dict[str, object]:
    pictures = [examined.picture(row.number) if examined.picture else "" for row in one.rows]
    texts = [row.text.removeprefix("“").removesuffix("”") for row in one.rows]
    if one.similarity is None or len(texts) != 2:
        marked: Sequence[Sequence[Word]] = [[Word(text, is_new=False)] for text in texts]
    else:
        marked = compared(*texts)
    rows = list(zip(one.rows, marked, pictures, strict=True))
    return {"rows": rows, "similarity": one.similarity}


def compared(first: str, second: str) -> tuple[list[Word], list[Word]]:
    """The words of two texts; those that are not in both, in the same order, are new."""
    ours, theirs = first.split(), second.split()
    same = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    in_ours = {block.a + offset for block in same for offset in range(block.size)}
    in_theirs = {block.b + offset for block in same for offset in range(block.size)}
    return (
        [Word(word, at not in in_ours) for at, word in enumerate(ours)],
        [Word(word, at not in in_theirs) for at, word in enumerate(theirs)],
    )


def _samples(examined: Examination) -> Markup:
    if not examined.samples:
        return NOTHING
    left = len(examined.samples) - SHOWN_SAMPLES
    return partial(f"{REPORT}#samples", samples=examined.samples[:SHOWN_SAMPLES], left=max(0, left))
