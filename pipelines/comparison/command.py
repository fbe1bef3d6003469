"""`gauntlet compare RUN RUN`: the tables in the terminal, and the page with the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.step import write_text
from gauntlet.components.write_report.comparison import CONFIDENCE, Difference
from gauntlet.pages.formatting import NBSP, decimal, signed
from gauntlet.pipelines.comparison.page import Comparison, compare, render, shown_interval
from gauntlet.pipelines.comparison.runs import read_pair
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.terminal import NAME_COLUMN, plain, styled

COLOURS = {"good": "green", "bad": "red"}


def compare_runs(home: Home, first: str, second: str, console: Console) -> Path:
    """Print two runs side by side, and write their page; returns where it lies.

    Raises:
        UsageError: The runs cannot be compared; see `gauntlet.pipelines.comparison.runs`.
    """
    comparison = compare(*read_pair(home, first, second))
    ids = comparison.first.run_id, comparison.second.run_id
    page = home.folder / "comparisons" / f"{ids[0]}--{ids[1]}.html"
    write_text(page, render(comparison))
    _print(comparison, console)
    console.print(f"page: {plain(page)}", soft_wrap=True, highlight=False)
    return page


def _print(comparison: Comparison, console: Console) -> None:
    for name, run in (("A", comparison.first), ("B", comparison.second)):
        console.print(styled("{}  [bold]{}[/]  {}", name, run.run_id, run.outcome), soft_wrap=True)
    settings = Table(NAME_COLUMN("differs in"), "A", "B", box=None, pad_edge=False)
    for setting in comparison.settings:
        settings.add_row(*map(plain, (setting.key, setting.first or "–", setting.second or "–")))
    costs = Table("cost and speed", "A", "B", box=None, pad_edge=False)
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
    console.print(styled("[bold]{}[/]{}", comparison.headline, evidence), soft_wrap=True, highlight=False)


def _table(title: str, rows: Iterable[Difference]) -> Table:
    rows = list(rows)
    has_intervals = any(row.interval for row in rows)
    columns = [title, "A", "B", "B − A", *([f"{CONFIDENCE:.0%} interval"] if has_intervals else [])]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        difference = Text(signed(row.difference, 4), COLOURS.get(row.tone, ""))
        cells = (plain(row.name), decimal(row.first, 4), decimal(row.second, 4))
        table.add_row(*cells, difference, *([shown_interval(row)] if has_intervals else []))
    return table
