"""What `gauntlet run` says at the end: the figures, the gates, the outcome, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from components.write_report.artifacts import Checks
from components.write_report.next_steps import NextStep, next_steps, rejected_file
from pipelines.local_run import FinishedRun
from pipelines.terminal import plain

EXAMPLES_SHOWN = 3
STYLES = {"pass": "green", "fail": "red", "not applicable": "dim"}


def print_summary(finished: FinishedRun, console: Console) -> None:
    """Print the gate table if the run came that far, the outcome, and where everything lies."""
    checks = finished.collected.checks
    if checks is not None and not checks.passed:
        console.print()
        console.print(_failed_checks(checks))
    failed = finished.collected.failed_step
    if (
        failed is not None
        and failed.message
        and checks is None
        and failed.message not in finished.outcome.detail
    ):
        console.print()
        console.print(plain(failed.message), soft_wrap=True, highlight=False)
    verdict = finished.collected.verdict
    if verdict is not None:
        table = Table("gate", "value", "", "bound", "verdict", "what is judged", box=None, pad_edge=False)
        for rule in verdict.rules:
            style = STYLES.get(rule.verdict, "")
            value, bound = _number(rule.value), _number(rule.bound)
            table.add_row(
                plain(rule.rule),
                value,
                rule.operator,
                bound,
                f"[{style}]{rule.verdict}[/]",
                plain(rule.note or ""),
            )
        console.print()
        console.print(table)
    console.print()
    colour = "green" if finished.outcome.exit_code == 0 else "red"
    console.print(f"[bold {colour}]{plain(finished.outcome.headline)}[/]", soft_wrap=True)
    console.print(plain(finished.outcome.detail), soft_wrap=True, highlight=False)
    logs = finished.folder / "logs"
    here = logs.is_dir()
    print_steps(next_steps(finished.collected, finished.outcome) if here else (), console)
    console.print(f"report: {plain(str(finished.report))}", soft_wrap=True, highlight=False)
    if rejected := rejected_file(finished.collected):
        console.print(f"rejected: {plain(rejected)}", soft_wrap=True, highlight=False)
    where = str(logs) if here else f"gauntlet logs {finished.record.run_id}"
    console.print(f"logs:   {plain(where)}", soft_wrap=True, highlight=False)


def print_steps(steps: Sequence[NextStep], console: Console) -> None:
    """Print advice, each piece on a line with the command that does it."""
    for step in steps:
        about = f"{step.about}: " if step.about else ""
        text = plain(about + step.text.replace("`", ""))
        command = f"  [bold]{plain(step.command)}[/]" if step.command else ""
        console.print(f"[dim]→[/] {text}{command}", soft_wrap=True, highlight=False)


def _failed_checks(checks: Checks) -> Table:
    """The checks that stopped the run, with what they found."""
    table = Table("check", "found", "expected", "examples", show_lines=True)
    for check in checks.checks:
        if check.verdict == "fail":
            examples = "\n".join(check.examples[:EXAMPLES_SHOWN])
            table.add_row(
                *(plain(cell or "") for cell in (check.check, check.found, check.expected, examples))
            )
    return table


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else plain(str(value))
