"""The page of validate-data: what the data is and what its checks found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from markupsafe import Markup

from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.pages.formatting import count, short_hash
from gauntlet.pages.page import Masthead, Section, partial, render

CHECKS = "gauntlet.components.validate_data:checks.html.jinja"


class Statistics(Protocol):
    """What the page says of any dataset."""

    @property
    def name(self) -> str:
        """Of the dataset."""

    @property
    def version(self) -> str:
        """Of the dataset."""

    @property
    def uri(self) -> str:
        """Where it was read."""

    @property
    def commit_hash(self) -> str | None:
        """Of the dataset, if it has one."""

    @property
    def sha256(self) -> str:
        """Of the content."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each split."""


def validation_page(
    statistics: Statistics, inspection: Inspection, rows_read: int, described: Markup, rows: str = "rows"
) -> str:
    """The page of a dataset; `described` is what its kind shows of its statistics, `rows` what a row is."""
    failed, results = inspection.failed, inspection.results
    facts: dict[str, str] = {"Read from": Markup("<code>{}</code>").format(statistics.uri)}
    if statistics.commit_hash:
        facts["Commit"] = Markup("<code>{}</code>").format(statistics.commit_hash)
    facts["Content"] = short_hash(statistics.sha256)
    headline = f"All {len(results)} checks let the data through"
    lead = f"{count(rows_read)} {rows} were read, {count(sum(statistics.rows.values()))} are kept."
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
    checks = Section("checks", "Checks", partial(CHECKS, checks=results))
    return render(masthead, [checks, Section("data", "Data", described)])
