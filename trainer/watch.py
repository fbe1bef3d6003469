"""What happens between steps: budget and memory are checked, trackers and the log get their lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import psutil
import torch

from gauntlet.backends.prices import hourly_rate
from gauntlet.contracts.training import BUDGET_REASONS, Epoch, Step, StopReason, TrainingHistory, Usage
from gauntlet.manifests.kinds import known_metric
from gauntlet.manifests.training import Resources
from gauntlet.serving.cpu import CpuWait, usable_cpus

SECONDS_BETWEEN_LINES = 2.0
SECONDS_BETWEEN_SAMPLES = 2.0
GB = 1e9
PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Budget:
    """The limits of a training, and the hourly price of all its machines."""

    max_hours: float
    max_cost_usd: float
    usd_per_hour: float
    notify_at: float

    @classmethod
    def of(cls, resources: Resources) -> Self:
        """A manifest's budget, at today's prices; the `UsageError` of `hourly_rate` if there is none."""
        rate = hourly_rate(resources) * resources.replica_count
        return cls(resources.max_hours, resources.max_cost_usd, rate, resources.notify_at)

    def cost_usd(self, seconds: float) -> float:
        """The cost of a training of this length."""
        return self.usd_per_hour * seconds / 3600

    def share_of_hours(self, seconds: float) -> float:
        """The share of `max_hours` that is used."""
        return seconds / 3600 / self.max_hours

    def share_of_cost(self, seconds: float) -> float:
        """The share of `max_cost_usd` that is used."""
        return self.cost_usd(seconds) / self.max_cost_usd

    def stop_reason(self, seconds: float) -> StopReason | None:
        """The limit that has been reached, if any; of both, the one that was reached first."""
        hours, cost = self.share_of_hours(seconds), self.share_of_cost(seconds)
        if max(hours, cost) < 1:
            return None
        return "max_hours reached" if hours >= cost else "max_cost reached"

    def notice_due(self, seconds: float) -> bool:
        """Whether `notify_at` of the hours or of the cost is used."""
        return max(self.share_of_hours(seconds), self.share_of_cost(seconds)) >= self.notify_at

    def used(self, seconds: float) -> str:
        """In words: 3.20 of 4 h, 0.70 of 10 USD."""
        hours = f"{_amount(seconds / 3600)} of {self.max_hours:g} h"
        return f"{hours}, {_amount(self.cost_usd(seconds))} of {self.max_cost_usd:g} USD"


def _amount(value: float) -> str:
    """Two decimals, or two significant digits of a smaller amount: 3.20, 0.0042."""
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


class Tracker(Protocol):
    """Where metrics go while training; see `gauntlet.backends.tracking`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by epoch, or by optimizer step if a name has a slash, such as `step/loss`."""


@dataclass(frozen=True)
class Sample:
    """A measurement over the last `seconds`. GB are 10⁹ bytes.

    Attributes:
        rows: Rows trained on.
        step_seconds: Time spent in optimizer steps.
        cpu_utilisation: CPU time of training as a share of the usable CPUs' time.
        memory_gb: Resident memory of this process and its descendants.
        peak_memory_gb: The peak of this process since its start, plus the descendants' memory now.
        cpu_wait: Share of their time that this process's threads waited for a CPU while others ran.
        gpu_utilisation: Share of the time in which a kernel of any process ran on the GPU.
        gpu_memory_gb: Reserved by torch.
        peak_gpu_memory_gb: The peak of that.
    """

    seconds: float
    rows: int
    step_seconds: float
    cpu_utilisation: float
    memory_gb: float
    peak_memory_gb: float
    cpu_wait: float | None = None
    gpu_utilisation: float | None = None
    gpu_memory_gb: float | None = None
    peak_gpu_memory_gb: float | None = None

    def metrics(self) -> dict[str, float]:
        """The figures that the machine reports, by their names in a tracker."""
        figures = {
            "step/examples_per_second": self.rows / self.step_seconds if self.step_seconds else None,
            "system/cpu_utilisation": self.cpu_utilisation,
            "system/cpu_wait": self.cpu_wait,
            "system/memory_gb": self.memory_gb,
            "system/gpu_utilisation": self.gpu_utilisation,
            "system/gpu_memory_gb": self.gpu_memory_gb,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}


class UsageMonitor:
    """Counts steps, and measures what they used. A sample costs some milliseconds; there is no thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._cpu_wait = CpuWait()
        self._taken: float | None = None
        self._start_over()

    def count(self, rows: int, seconds: float) -> None:
        """Count optimizer steps."""
        self._rows += rows
        self._step_seconds += seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a sample: after the first step, then every few seconds."""
        return self._taken is None or time.monotonic() - self._taken >= SECONDS_BETWEEN_SAMPLES

    def take(self) -> Sample:
        """Measure since the last sample."""
        self._taken = time.monotonic()
        seconds = max(self._taken - self._began, 1e-9)
        processes = self._processes()
        cpu_seconds = sum(map(_cpu_seconds, processes)) - self._cpu_seconds_before
        others = sum(map(_resident, processes[1:]))
        sample = Sample(
            seconds=seconds,
            rows=self._rows,
            step_seconds=self._step_seconds,
            # The CPU time of a process that ended is missing until its parent has waited for it, and the
            # system counts in hundredths of a second.
            cpu_utilisation=min(max(cpu_seconds / (seconds * usable_cpus()), 0.0), 1.0),
            memory_gb=(_resident(self._process) + others) / GB,
            peak_memory_gb=(_peak_resident(self._process) + others) / GB,
            cpu_wait=self._cpu_wait.since().share_waited,
            gpu_utilisation=_gpu_utilisation(self._device),
            **_gpu_memory(self._device),
        )
        self._start_over()
        return sample

    def _start_over(self) -> None:
        self._began = time.monotonic()
        self._rows, self._step_seconds = 0, 0.0
        self._cpu_seconds_before = sum(map(_cpu_seconds, self._processes()))

    def _processes(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


def with_sample(usage: Usage, sample: Sample) -> Usage:
    """The usage, one sample later."""
    rows, step_seconds = usage.rows + sample.rows, usage.step_seconds + sample.step_seconds

    def mean(before: float | None, now: float | None) -> float | None:
        if before is None or now is None:
            return now if before is None else before
        total = usage.seconds + sample.seconds
        return (before * usage.seconds + now * sample.seconds) / total if total else now

    return Usage(
        seconds=usage.seconds + sample.seconds,
        rows=rows,
        step_seconds=step_seconds,
        examples_per_second=rows / step_seconds if step_seconds else None,
        cpu_utilisation=mean(usage.cpu_utilisation, sample.cpu_utilisation),
        cpu_wait=mean(usage.cpu_wait, sample.cpu_wait),
        peak_memory_gb=_larger(usage.peak_memory_gb, sample.peak_memory_gb),
        gpu_utilisation=mean(usage.gpu_utilisation, sample.gpu_utilisation),
        peak_gpu_memory_gb=_larger(usage.peak_gpu_memory_gb, sample.peak_gpu_memory_gb),
    )


def _larger(before: float | None, now: float | None) -> float | None:
    return max((figure for figure in (before, now) if figure is not None), default=None)


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _peak_resident(process: psutil.Process) -> int:
    """The peak of this process since its start; what it holds now if the system reports no peak."""
    try:
        lines = PROCESS_STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return _resident(process)
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return max([_resident(process), *peaks])


def _gpu_utilisation(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # NVML raises many errors: no driver library, a slice of a GPU
        return None


def _gpu_memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {
        "gpu_memory_gb": torch.cuda.memory_reserved(device) / GB,
        "peak_gpu_memory_gb": torch.cuda.max_memory_reserved(device) / GB,
    }


class Watch:
    """Watches one training in one process, which is one rank's.

    Args:
        history: Gets the summary of the training's usage.
        seconds: How long it has trained, across interruptions.
        states: The folder of its states, if they are written.
        speaks: Whether it prints; only one of several ranks does.

    Attributes:
        over_memory: The error to end training with, once it has used more memory than it may.
    """

    def __init__(
        self,
        resources: Resources,
        history: TrainingHistory,
        tracker: Tracker,
        device: torch.device,
        seconds: Callable[[], float],
        states: str | None,
        speaks: bool = True,
    ) -> None:
        self.over_memory: str | None = None
        self._resources = resources
        self._budget = Budget.of(resources)
        self._history = history
        self._tracker = tracker
        self._seconds = seconds
        self._states = states
        self._speaks = speaks
        self._monitor = UsageMonitor(device)
        self._contention = None
        if device.type == "cpu":
            from gauntlet.trainer.cpu.contention import Contention

            self._contention = Contention()
        self._noticed = False
        _limit_gpu_memory(resources, device)

    @property
    def due(self) -> bool:
        """Whether it is time to look."""
        return self._monitor.due

    def look(self, rows: int, seconds: float) -> None:
        """Check memory and budget after steps on `rows` rows, which took `seconds`."""
        self._monitor.count(rows, seconds)
        if self._monitor.due:
            self._sample()
        if not self._noticed and self._budget.notice_due(self._seconds()):
            self._noticed = True
            self._say("warning: the training's budget is running out")

    def track(self, step: Step) -> None:
        """Report one optimizer step to the tracker."""
        self._tracker.log_metrics(step.tracked(), step.step)

    def stop_reason(self) -> StopReason | None:
        """The limit of the budget that has been reached."""
        return self._budget.stop_reason(self._seconds())

    def finish(self) -> None:
        """Take the last sample, and print a line if training ends because its budget is used up."""
        self._sample()
        if self._contention:
            self._contention.finish()
        if self._history.stopped in BUDGET_REASONS:
            resume = f". Its state is in {self._states}: with a higher limit the same command resumes"
            self._say(f"training stops, {self._history.stopped}", resume if self._states else "")

    def _sample(self) -> None:
        sample = self._monitor.take()
        step = len(self._history.steps)
        self._history.usage = with_sample(self._history.usage, sample)
        self.over_memory = over_memory(self._resources, sample.peak_memory_gb, step)
        cost = {"step/cost_usd": self._budget.cost_usd(self._seconds())}
        self._tracker.log_metrics(sample.metrics() | cost, step)
        changed = self._contention and self._contention.adapt(sample.cpu_wait)
        if changed and self._speaks:
            print(changed, file=sys.stderr, flush=True)

    def _say(self, what: str, more: str = "") -> None:
        if self._speaks:
            print(f"{what}: {self._budget.used(self._seconds())}{more}", file=sys.stderr, flush=True)


class Progress:
    """Prints progress as plain lines, which read the same in a terminal, a file and Cloud Logging."""

    def __init__(self, epochs: int, steps_per_epoch: int, steps_taken: int = 0, rows_seen: int = 0) -> None:
        self._steps_taken_before = steps_taken
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._started = self._printed = time.monotonic()
        self._rows_printed = rows_seen  # of the epoch

    def due(self) -> bool:
        """Whether it is time for another line."""
        return time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES

    def step(self, epoch: int, step: int, loss: float, rows: int) -> None:
        """Print a line; `loss` is the epoch's mean over its `rows` so far."""
        now = time.monotonic()
        rate = (rows - self._rows_printed) / (now - self._printed)
        self._printed, self._rows_printed = now, rows
        done = (epoch - 1) * self._steps_per_epoch + step
        seconds_per_step = (now - self._started) / (done - self._steps_taken_before)
        left = seconds_per_step * (self._epochs * self._steps_per_epoch - done)
        print(
            f"epoch {epoch}/{self._epochs}  step {step}/{self._steps_per_epoch}  loss {loss:.4f}  "
            f"{rate:.0f} examples/s  eta {int(left) // 60}:{int(left) % 60:02d}",
            flush=True,
        )

    def epoch(self, epoch: Epoch, best: bool) -> None:
        """Print the line of an epoch that has ended."""
        self._printed, self._rows_printed = time.monotonic(), 0
        validation = epoch.validation.items()
        figures = "  ".join(f"{known_metric(key).title} {value:.4f}" for key, value in validation)
        print(
            f"epoch {epoch.epoch}/{self._epochs} done  training loss {epoch.training['loss']:.4f}, "
            f"validation: {figures}  {epoch.examples_per_second:.0f} examples/s{'  (best)' if best else ''}",
            flush=True,
        )


def _limit_gpu_memory(resources: Resources, device: torch.device) -> None:
    """Let torch reserve at most `max_gpu_memory_gb` on the GPU; beyond that it raises OutOfMemoryError."""
    if device.type != "cuda" or resources.max_gpu_memory_gb is None:
        return
    share = resources.max_gpu_memory_gb * GB / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(share, 1.0), device)


def over_memory(resources: Resources, found_gb: float, step: int) -> str | None:
    """The error of a training that used more memory than `max_memory_gb`; None if it did not."""
    limit = resources.max_memory_gb
    if limit is None or found_gb <= limit:
        return None
    return (
        f"training: by step {step} it had taken {found_gb:.2f} GB of memory, and "
        f"training.resources.max_memory_gb is {limit:g}. Lower training.batch_size or raise "
        f"training.gradient_accumulation, which begins anew, or raise max_memory_gb."
    )
