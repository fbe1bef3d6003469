"""The live view of a run: states, times and one log per step, read from the output of kfp.local."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

State = Literal["waiting", "running", "succeeded", "reused", "failed", "skipped"]

ANSI_CODE = re.compile(r"\x1b\[[0-9;]*m")
# kfp.local indents what a step prints, so only its own lines start with a time.
TASK_STARTED = re.compile(r"^[\d:.]+ - INFO - Executing task '([^']+)'")
TASK_ENDED = re.compile(r"^[\d:.]+ - (?:INFO|ERROR) - Task '([^']+)' finished with status (SUCCESS|FAILURE)")
REUSED = re.compile(r"^    reused: (\S+)$")  # what `gauntlet.pipelines.local.step_cache` prints
# Among it the echoed input, as JSON.
NOISE = re.compile(r"^\s*(\[KFP Executor|[{}\[\]\"]|-?[\d.]+,?$|-{10,}|$)")

SYMBOLS: dict[State, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "cyan"),
    "succeeded": ("✓", "green"),
    "reused": ("✓", "cyan"),
    "failed": ("✗", "red"),
    "skipped": ("–", "dim"),
}


@dataclass
class StepView:
    """The state of one step during the run. Times are of the monotonic clock, in seconds."""

    name: str
    state: State = "waiting"
    started: float = 0.0
    ended: float = 0.0
    line: str = ""
    reused_from: str = ""

    def seconds(self) -> float:
        """Time since the step's start; of a step that has ended, its duration."""
        if self.state == "waiting" or not self.started:
            return 0.0
        return (self.ended or time.monotonic()) - self.started


class StepTable:
    """The steps of a run and their states. Renders as a table for `rich.live.Live`."""

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = {name: StepView(name) for name in steps}
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A row per step: state, time, and the running step's latest line."""
        table = Table.grid(padding=(0, 2))
        for step in self.steps.values():
            symbol, style = SYMBOLS[step.state]
            mark = self._spinner if step.state == "running" else Text(symbol, style)
            seconds = f"{step.seconds():6.1f} s" if step.started else ""
            shown = step.line if step.state in {"running", "failed"} else ""
            shown = f"reused from {step.reused_from}" if step.reused_from else shown
            cells = (Text(step.name, style), Text(seconds, style), Text(shown, "dim", overflow="ellipsis"))
            table.add_row(mark, *cells)
        yield table


class RunView(StepTable):
    """Follows a run's output line by line."""

    def __init__(self, steps: Sequence[str], log_folder: Path) -> None:
        super().__init__(steps)
        log_folder.mkdir(parents=True, exist_ok=True)
        self._log_folder = log_folder
        self.running: StepView | None = None
        self._log: TextIO | None = None

    def feed(self, raw: str) -> StepView | None:
        """Process one line of output; returns the step whose state it changed, if any."""
        line = ANSI_CODE.sub("", raw.rstrip("\n"))
        if started := TASK_STARTED.match(line):
            return self._start(started[1])
        if self._log is not None:
            self._log.write(line.removeprefix("    ") + "\n")
        if ended := TASK_ENDED.match(line):
            return self._end(ended[1], "succeeded" if ended[2] == "SUCCESS" else "failed")
        if self.running and (reused := REUSED.match(line)):
            self.running.reused_from = reused[1]
            return None
        if self.running and line.startswith("    ") and not NOISE.match(line):
            self.running.line = line.strip()
        return None

    def close(self) -> None:
        """The output has ended: a step that is running has failed, and one that never started was skipped."""
        for step in self.steps.values():
            if step.state == "running":
                self._end(step.name, "failed")
            elif step.state == "waiting":
                step.state = "skipped"
        if self._log is not None:
            self._log.close()

    def _start(self, name: str) -> StepView:
        step = self.steps.setdefault(name, StepView(name))
        step.state, step.started = "running", time.monotonic()
        self.running = step
        if self._log is not None:
            self._log.close()
        self._log = (self._log_folder / f"{name}.log").open("w", encoding="utf-8", buffering=1)
        return step

    def _end(self, name: str, state: State) -> StepView:
        step = self.steps[name]
        step.state = "reused" if state == "succeeded" and step.reused_from else state
        step.ended = time.monotonic()
        self.running = None
        return step
