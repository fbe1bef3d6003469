"""The bill of a run: what its training cost, what of the budget that is, and what the machine did for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gauntlet.components.write_report.artifacts import Figure, History
from gauntlet.components.write_report.figures import (
    ABSENT,
    count,
    decimal,
    dollars,
    duration,
    general,
    gigabytes,
    is_figure,
    percent,
)

HOUR = 3600


@dataclass(frozen=True)
class Entry:
    """One line: what it is of, its figure, and a remark. `total` marks what is to be paid."""

    label: str
    value: str
    remark: str = ""
    total: bool = False


def bill(history: History) -> tuple[Entry, ...]:
    """The lines of the bill; of what was not measured, such as a GPU that is not there, there is none."""
    return (*_cost(history), *_budget(history), *_machine(history))


def _cost(history: History) -> Iterator[Entry]:
    yield Entry("Machine", history.machine or ABSENT, "the one that the manifest buys")
    rate = f"${decimal(history.usd_per_hour, 4)}" if is_figure(history.usd_per_hour) else ABSENT
    yield Entry("Price of an hour", rate, "list price")
    yield Entry("Time", duration(history.seconds), "training and validation, across interruptions")
    how = "time × price"
    if history.training_tokens is not None:
        yield Entry("Tokens", count(history.training_tokens), "of all epochs")
        million = dollars(history.usd_per_million_tokens)
        yield Entry("Price of a million tokens", million, "list price of tuning")
        how = "tokens × price, and the time of the machine that waited"
    yield Entry("Cost", dollars(history.cost_usd), how, total=True)


def _budget(history: History) -> Iterator[Entry]:
    hours = history.seconds / HOUR if is_figure(history.seconds) else None
    for label, used, limit, unit in (
        ("Hours used", hours, history.max_hours, f"of {general(history.max_hours)} h"),
        ("Budget used", history.cost_usd, history.max_cost_usd, f"of {dollars(history.max_cost_usd)}"),
    ):
        if is_figure(limit):
            yield Entry(label, percent(_share(used, limit)), unit)
    yield Entry("Ended with", history.stopped or ABSENT)


def _machine(history: History) -> Iterator[Entry]:
    usage = history.usage
    entries = (
        ("Examples per second", usage.examples_per_second, count, "mean over all optimizer steps"),
        ("CPU utilisation", usage.cpu_utilisation, percent, "mean, of the CPUs that it might use"),
        ("Waited for a CPU", usage.cpu_wait, percent, "mean share of its threads' time, while others ran"),
        ("Peak memory", usage.peak_memory_gb, gigabytes, "resident, of all its processes"),
        ("GPU utilisation", usage.gpu_utilisation, percent, "mean, share of the time that a kernel ran"),
        ("Peak GPU memory", usage.peak_gpu_memory_gb, gigabytes, "reserved by torch"),
    )
    for label, figure, shown, remark in entries:
        if is_figure(figure):
            yield Entry(label, shown(figure), remark)


def _share(used: Figure, limit: float) -> Figure:
    return used / limit if is_figure(used) else None
