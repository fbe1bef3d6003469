"""What training makes of its machine, as data: one measurement, and what comes of all of them.

A GB is 10⁹ bytes. What there is none of, or what does not tell, is absent and not zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """What was measured over the last `seconds`.

    Attributes:
        rows: Rows trained on.
        step_seconds: The part of the time that was spent in optimizer steps.
        cpu_utilisation: CPU time of training over what the usable CPUs had to give.
        memory_gb: Resident memory of this process and all that it started.
        peak_memory_gb: The most that it was: of this process since its start, of the others now.
        cpu_wait: Share of their time that the threads of this process waited for a CPU while others ran.
        gpu_utilisation: Share of the time in which a kernel ran on the GPU, whoever's.
        gpu_memory_gb: What torch has reserved there.
        peak_gpu_memory_gb: The most that it was.
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
        """The figures that there are, as a tracker takes them."""
        figures = {
            "step/examples_per_second": self.rows / self.step_seconds if self.step_seconds else None,
            "system/cpu_utilisation": self.cpu_utilisation,
            "system/cpu_wait": self.cpu_wait,
            "system/memory_gb": self.memory_gb,
            "system/gpu_utilisation": self.gpu_utilisation,
            "system/gpu_memory_gb": self.gpu_memory_gb,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}


@dataclass(frozen=True)
class Usage:
    """The samples of a whole training, across interruptions: means over time, and peaks."""

    seconds: float = 0.0
    rows: int = 0
    step_seconds: float = 0.0
    examples_per_second: float | None = None
    cpu_utilisation: float | None = None
    cpu_wait: float | None = None
    peak_memory_gb: float | None = None
    gpu_utilisation: float | None = None
    peak_gpu_memory_gb: float | None = None

    def adding(self, sample: Sample) -> Usage:
        """With one more sample."""
        rows, step_seconds = self.rows + sample.rows, self.step_seconds + sample.step_seconds

        def mean(before: float | None, now: float | None) -> float | None:
            if before is None or now is None:
                return now if before is None else before
            total = self.seconds + sample.seconds
            return (before * self.seconds + now * sample.seconds) / total if total else now

        return Usage(
            seconds=self.seconds + sample.seconds,
            rows=rows,
            step_seconds=step_seconds,
            examples_per_second=rows / step_seconds if step_seconds else None,
            cpu_utilisation=mean(self.cpu_utilisation, sample.cpu_utilisation),
            cpu_wait=mean(self.cpu_wait, sample.cpu_wait),
            peak_memory_gb=_larger(self.peak_memory_gb, sample.peak_memory_gb),
            gpu_utilisation=mean(self.gpu_utilisation, sample.gpu_utilisation),
            peak_gpu_memory_gb=_larger(self.peak_gpu_memory_gb, sample.peak_gpu_memory_gb),
        )


def _larger(before: float | None, now: float | None) -> float | None:
    return max((figure for figure in (before, now) if figure is not None), default=None)
