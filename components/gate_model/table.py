"""The verdicts as a table: Markdown for the pipeline's page, rich for the terminal and the log."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.contracts.verdict import Decision, Outcome, RuleVerdict

LOG_WIDTH = 140
COLOURS: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "not applicable": "dim"}


def markdown(decision: Decision) -> str:
    """A heading with the decision, the rules, and the reasons of a rejection."""
    rows = ["| " + " | ".join(_escape(cell) for cell in _cells(rule)) + " |" for rule in decision.rules]
    reasons = [f"- {_escape(reason)}" for reason in decision.reasons]
    header = ["| rule | found | expected | verdict | note |", "|---|---:|---:|---|---|"]
    return "\n".join([f"# Gate: {decision.decision}", "", *header, *rows, "", *reasons]).rstrip() + "\n"


def print_table(decision: Decision, console: Console | None = None) -> None:
    """Print the rules: in colour on a terminal, plain and `LOG_WIDTH` wide in a log."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=LOG_WIDTH, color_system=None)
    table = Table(title=f"Gate: {decision.decision}", title_justify="left")
    for column in ("rule", "found", "expected", "verdict", "note"):
        table.add_column(column, justify="right" if column in ("found", "expected") else "left")
    for rule in decision.rules:
        table.add_row(*map(Text, _cells(rule)), style=COLOURS[rule.verdict])
    console.print(table)


def _cells(rule: RuleVerdict) -> tuple[str, str, str, str, str]:
    return (
        rule.rule,
        "–" if rule.value is None else _written(rule.value),
        f"{rule.operator} {_written(rule.bound)}",
        rule.verdict,
        rule.note,
    )


def _written(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
