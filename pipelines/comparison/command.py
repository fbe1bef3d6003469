"""`gauntlet compare RUN RUN`: the tables in the terminal, and the page with the pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from gauntlet.components.step import write_text
from gauntlet.components.write_report.comparison import CONFIDENCE, Difference
from gauntlet.pages.formatting import NBSP, decimal, signed
from gauntlet.pipelines.comparison.page import Comparison, compare, render, shown_interval
from gauntlet.pipelines.comparison.runs import read_pair
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.terminal import NAME_COLUMN, LiteralConsole, borderless, plain, print_json, styled

COLOURS = {"good": "green", "bad": "red"}


def compare_runs(home: Home, first: str, second: str, console: LiteralConsole, as_json: bool = False) -> Path:
    """Print two runs side by side, and write their page; returns where it lies.

    Raises:
        UsageError: The runs cannot be compared; see `gauntlet.pipelines.comparison.runs`.
    """
    comparison = compare(*read_pair(home, first, second))
    ids = comparison.first.run_id, comparison.second.run_id
    page = home.folder / "comparisons" / f"{ids[0]}--{ids[1]}.html"
    write_text(page, render(comparison))
    if as_json:
        print_json(_rows(comparison))
        return page
    _print(comparison, console)
    console.say(f"page: {page}")
    return page


def _rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    """The rows of all tables, each with the name of its table."""
    for setting in comparison.settings:
        yield {"table": "settings", **setting._asdict()}
    tables = {
        "test": comparison.tested.values(),
        "classes": comparison.paired.classes,
        "validation": comparison.validated.values(),
    }
    for table, rows in tables.items():
        for row in rows:
            yield {"table": table, **asdict(row), "difference": row.difference, "verdict": row.tone}
    for name, first, second in comparison.costs:
        yield {
            "table": "costs",
            "name": name,
            "first": first.replace(NBSP, " "),
            "second": second.replace(NBSP, " "),
        }


def _print(comparison: Comparison, console: LiteralConsole) -> None:
    for name, run in (("A", comparison.first), ("B", comparison.second)):
        console.say(styled("{}  [bold]{}[/]  {}", name, run.run_id, run.outcome))
    settings = borderless(NAME_COLUMN("differs in"), "A", "B")
    for setting in comparison.settings:
        settings.add_row(*map(plain, (setting.key, setting.first or "–", setting.second or "–")))
    costs = borderless("cost and speed", "A", "B")
    for row in comparison.costs:
        costs.add_row(*(plain(cell.replace(NBSP, " ")) for cell in row))
    for table in (
        settings,
        _table("test split", comparison.tested.values()),
        _table("class, F1", comparison.paired.classes),
        _table("validation", comparison.validated.values()),
        costs,
    ):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    evidence = f": {comparison.evidence}" if comparison.evidence else ""
    console.say(styled("[bold]{}[/]{}", comparison.headline, evidence))


def _table(title: str, rows: Iterable[Difference]) -> Table:
    rows = list(rows)
    has_intervals = any(row.interval for row in rows)
    columns = [title, "A", "B", "B − A", *([f"{CONFIDENCE:.0%} interval"] if has_intervals else [])]
    table = borderless(*columns)
    for row in rows:
        difference = Text(signed(row.difference, 4), COLOURS.get(row.tone, ""))
        cells = (plain(row.name), decimal(row.first, 4), decimal(row.second, 4))
        table.add_row(*cells, difference, *([shown_interval(row)] if has_intervals else []))
    return table
