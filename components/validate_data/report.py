"""The data report: the page of validate-data, of bounded size however many rows there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
from markupsafe import Markup

from gauntlet.components.validate_data.checks import TEXT_COLUMNS, Alike, Examination
from gauntlet.components.validate_data.classes import each_label
from gauntlet.components.validate_data.text import EXCERPT_LEAD, excerpt
from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.kinds import TaskKind
from gauntlet.pages import charts
from gauntlet.pages.formatting import capitalize_first, count, short_hash, words
from gauntlet.pages.page import NOTHING, Masthead, Section, partial, render

CHECKS = "gauntlet.components.validate_data:checks.html.jinja"
REPORT = "gauntlet.components.validate_data:report.html.jinja"
BINS = 40  # of the times of rows
MOST_SAMPLED = 200_000  # rows that examples are chosen from
SHOWN_CLASSES, SHOWN_SAMPLES = 40, 3
SHOWN_ROWS = 10  # of data without classes


@dataclass(frozen=True)
class ShownRow:
    """A row that is like another; `picture` is a PNG in a data URI, if rows are images."""

    place: str
    split: str
    label: str
    words: Sequence[Word]
    picture: str = ""


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
    """Rows by time and split; nothing if the rows have no times, or none that the splits needed to read."""
    rows = examined.checked.rows
    if "time" not in rows or not len(rows) or not pd.api.types.is_numeric_dtype(rows["time"]):
        return NOTHING
    times = rows["time"].to_numpy(dtype=np.float64)
    splits = np.asarray(rows["split"])
    edges = np.histogram_bin_edges(times, BINS)
    counts: dict[str, list[int]] = {
        split: np.histogram(times[splits == split], edges)[0].tolist() for split in SPLITS
    }
    first = examined.table.loc[[rows.index[0]]]["time"].iloc[0]
    chart = charts.timeline("Rows over time", "rows", edges.tolist(), counts, _are_dates(first))
    return partial(f"{REPORT}#time", chart=chart)


def _are_dates(first: object) -> bool:
    """Whether the times are dates in the data, and not numbers, as their first one says."""
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
            groups = [(_shown(one, examined), one.similarity) for one in finding.alike]
            are_pairs = finding.alike[0].similarity is not None
            body = partial(f"{REPORT}#alike", groups=groups, found=len(finding.affected), are_pairs=are_pairs)
            yield Section(name, capitalize_first(words(name)), body)


def _shown(one: Alike, examined: Examination) -> list[ShownRow]:
    """The rows in their order; of two texts, the words that differ are marked."""
    rows, kept = examined.table.loc[list(one.rows)], examined.checked.rows
    texts = _texts(rows)
    marked = [[Word(excerpt(text)[1:-1], is_new=False)] for text in texts]
    if one.similarity is not None:
        around = max(0, len(os.path.commonprefix(texts)) - EXCERPT_LEAD)  # noqa: RUF071 (of texts)
        marked = list(compared(*(excerpt(text, around)[1:-1] for text in texts)))
    labels = one.labels or (rows["label"] if "label" in rows else [None] * len(rows))
    return [
        ShownRow(
            place=place,
            split=str(kept["split"].get(row, split)),
            label="" if pd.isna(label) else str(label),
            words=marked_words,
            picture=examined.picture(row) if examined.picture else "",
        )
        for row, place, split, label, marked_words in zip(
            one.rows, rows["place"], rows["split"], labels, marked, strict=True
        )
    ]


def _texts(rows: pd.DataFrame) -> list[str]:
    """What represents rows as they were read."""
    column = next((name for name in TEXT_COLUMNS if name in rows), "place")
    return [str(text) for text in rows[column]]


def compared(first: str, second: str) -> tuple[list[Word], list[Word]]:
    """The words of two texts; those that are not in both, in the same order, are new."""
    words = first.split(), second.split()
    blocks = SequenceMatcher(None, *words, autojunk=False).get_matching_blocks()
    in_first = {block.a + offset for block in blocks for offset in range(block.size)}
    in_second = {block.b + offset for block in blocks for offset in range(block.size)}
    return (
        [Word(word, at not in in_first) for at, word in enumerate(words[0])],
        [Word(word, at not in in_second) for at, word in enumerate(words[1])],
    )


def _samples(examined: Examination) -> Markup:
    """Some training rows of each class, or of all if there are no classes; nothing if rows are images."""
    rows = examined.checked.rows
    if examined.picture is not None or not len(rows):
        return NOTHING
    of_train = np.flatnonzero(rows["split"] == "train")
    if len(of_train) > MOST_SAMPLED:
        of_train = of_train[np.linspace(0, len(of_train) - 1, MOST_SAMPLED, dtype=np.int64)]
    train = rows.iloc[of_train]
    labels = each_label(train)["label"].astype("str")
    names = list(examined.statistics.labels or examined.groups) or labels.unique().tolist()
    of_name = labels.groupby(labels, sort=False).indices if len(names) <= len(train) / 2 else {}
    groups = {name: labels.index[of_name[name]] for name in names[:SHOWN_CLASSES] if name in of_name}
    number = SHOWN_SAMPLES if groups else SHOWN_ROWS
    samples = []
    for name, index in (groups or {"": train.index}).items():
        few = index[np.linspace(0, len(index) - 1, min(number, len(index)), dtype=np.int64)]
        samples.append((name, _texts(examined.table.loc[few.unique().tolist()])))
    left = max(0, len(names) - SHOWN_CLASSES) if groups else 0
    return partial(f"{REPORT}#samples", samples=samples, left=left)
