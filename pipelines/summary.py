"""What `gauntlet run` says at the end: the figures, the gates, the outcome, what to do next."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.write_report.next_steps import next_steps
from pipelines.local_run import FinishedRun

STYLES = {"pass": "green", "fail": "red", "not applicable": "dim"}


def print_summary(finished: FinishedRun, console: Console) -> None:
    """Print the gate table if the run came that far, the outcome, and where everything lies."""
    verdict = finished.collected.verdict
    if verdict is not None:
        table = Table("gate", "value", "", "bound", "verdict", box=None, pad_edge=False)
        for rule in verdict.rules:
            style = STYLES.get(rule.verdict, "")
            value, bound = _number(rule.value), _number(rule.bound)
            table.add_row(escape(rule.rule), value, rule.operator, bound, f"[{style}]{rule.verdict}[/]")
        console.print()
        console.print(table)
    console.print()
    colour = "green" if finished.outcome.exit_code == 0 else "red"
    console.print(f"[bold {colour}]{escape(finished.outcome.headline)}[/]", soft_wrap=True)
    console.print(escape(finished.outcome.detail), soft_wrap=True, highlight=False)
    for step in next_steps(finished.collected, finished.outcome):
        about = f"{step.about}: " if step.about else ""
        text = escape(about + step.text.replace("`", ""))
        command = f"  [bold]{escape(step.command)}[/]" if step.command else ""
        console.print(f"[dim]→[/] {text}{command}", soft_wrap=True, highlight=False)
    console.print(f"report: {escape(str(finished.report))}", soft_wrap=True, highlight=False)
    console.print(f"logs:   {escape(str(finished.folder / 'logs'))}", soft_wrap=True, highlight=False)


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else escape(str(value))
