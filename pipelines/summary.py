"""What `gauntlet run` prints at the end: the gates, the outcome, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gauntlet.components.write_report.next_steps import NextStep, next_steps, rejected_file
from gauntlet.components.write_report.record import freshness
from gauntlet.contracts.data import Checks
from gauntlet.pipelines.local.run import RUN_LOG, FinishedRun
from gauntlet.pipelines.terminal import LiteralConsole, borderless, plain, styled

EXAMPLES_SHOWN = 3
LINES_SHOWN = 12  # of the log of a run whose step did not start
STYLES = {"pass": "green", "fail": "red", "not applicable": "dim"}


def print_summary(finished: FinishedRun, console: LiteralConsole) -> None:
    """Print the gate table if the run has one, the outcome, and the paths of report and logs."""
    checks = finished.collected.checks
    if checks is not None and not checks.passed:
        console.print()
        console.print(_failed_checks(checks))
    failed = finished.collected.failed_step
    message = failed.message if failed else None
    if message and checks is None and message not in finished.outcome.detail:
        console.print()
        console.say(message)
    verdict = finished.collected.verdict
    if verdict is not None:
        table = borderless("gate", "value", "", "bound", "verdict", "what is judged")
        for rule in verdict.rules:
            bound = (_number(rule.value), rule.operator, _number(rule.bound))
            judged = Text(rule.verdict, STYLES.get(rule.verdict, ""))
            table.add_row(plain(rule.rule), *bound, judged, plain(rule.note or ""))
        console.print()
        console.print(table)
    console.print()
    colour = "green" if finished.outcome.exit_code == 0 else "red"
    console.say(Text(plain(finished.outcome.headline), f"bold {colour}"))
    console.say(finished.outcome.detail)
    if news := freshness(finished.collected):
        console.say(f"data:   {news}")
    logs = finished.folder / "logs"
    here = logs.is_dir()
    print_steps(next_steps(finished.collected, finished.outcome) if here else (), console)
    console.say(f"report: {finished.report!s}")
    if rejected := rejected_file(finished.collected):
        console.say(f"rejected: {rejected}")
    where = str(logs) if here else f"gauntlet logs {finished.record.run_id}"
    console.say(f"logs:   {where}")
    run_log = finished.folder / RUN_LOG
    if finished.outcome.kind == "failed" and failed is not None and run_log.is_file():
        console.say(f"        {run_log}")
        if not (logs / f"{failed.name}.log").is_file():  # it did not start: only the run's log has the reason
            for said in run_log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]:
                console.say(Text(plain(f"        {said}"), "dim"))


def print_steps(steps: Sequence[NextStep], console: LiteralConsole) -> None:
    """Print each piece of advice on a line, with its command."""
    for step in steps:
        about = f"{step.about}: " if step.about else ""
        line = styled("[dim]→[/] {}", about + step.text.replace("`", ""))
        if step.command:
            line.append_text(styled("  [bold]{}[/]", step.command))
        console.say(line)


def _failed_checks(checks: Checks) -> Table:
    table = Table("check", "found", "expected", "examples", show_lines=True)
    for check in checks.checks:
        if check.verdict == "fail":
            cells = (check.check, check.found, check.expected, "\n".join(check.examples[:EXAMPLES_SHOWN]))
            table.add_row(*(plain(cell or "") for cell in cells))
    return table


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else plain(str(value))
