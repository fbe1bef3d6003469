"""What `gauntlet run` says at the end: the figures, the gates, the outcome, what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.write_report.artifacts import Checks
from gauntlet.components.write_report.next_steps import NextStep, next_steps, rejected_file
from gauntlet.pipelines.local.run import RUN_LOG, FinishedRun
from gauntlet.pipelines.terminal import plain, styled

EXAMPLES_SHOWN = 3
LINES_SHOWN = 12  # of the log of a run whose step did not start
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
                Text(rule.verdict, style),
                plain(rule.note or ""),
            )
        console.print()
        console.print(table)
    console.print()
    colour = "green" if finished.outcome.exit_code == 0 else "red"
    console.print(Text(plain(finished.outcome.headline), f"bold {colour}"), soft_wrap=True)
    console.print(plain(finished.outcome.detail), soft_wrap=True, highlight=False)
    logs = finished.folder / "logs"
    here = logs.is_dir()
    print_steps(next_steps(finished.collected, finished.outcome) if here else (), console)
    console.print(f"report: {plain(str(finished.report))}", soft_wrap=True, highlight=False)
    if rejected := rejected_file(finished.collected):
        console.print(f"rejected: {plain(rejected)}", soft_wrap=True, highlight=False)
    where = str(logs) if here else f"gauntlet logs {finished.record.run_id}"
    console.print(f"logs:   {plain(where)}", soft_wrap=True, highlight=False)
    run_log = finished.folder / RUN_LOG
    if finished.outcome.kind == "failed" and failed is not None and run_log.is_file():
        console.print(f"        {plain(run_log)}", soft_wrap=True, highlight=False)
        if not (logs / f"{failed.name}.log").is_file():  # it did not start, so only the run's log says why
            for said in run_log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]:
                console.print(Text(plain(f"        {said}"), "dim"), soft_wrap=True, highlight=False)


def print_steps(steps: Sequence[NextStep], console: Console) -> None:
    """Print advice, each piece on a line with the command that does it."""
    for step in steps:
        about = f"{step.about}: " if step.about else ""
        line = styled("[dim]→[/] {}", about + step.text.replace("`", ""))
        if step.command:
            line.append_text(styled("  [bold]{}[/]", step.command))
        console.print(line, soft_wrap=True, highlight=False)


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
