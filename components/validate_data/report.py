"""The page of validate-data: what its checks found and what the data is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from gauntlet.manifests.kinds import TaskKind
from gauntlet.pages.formatting import count, short_hash
from gauntlet.pages.page import Masthead, Section, partial, render

if TYPE_CHECKING:
    from gauntlet.components.validate_data.checks import Examination

CHECKS = "gauntlet.components.validate_data:checks.html.jinja"


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
    checks = Section("checks", "Checks", partial(CHECKS, checks=results))
    return render(masthead, [checks, Section("data", "Data", described)])
