from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from gauntlet.contracts.training import Usage
from gauntlet.serving.cpu import TASKS, usable_cpus
from gauntlet.trainer.watch import Sample, UsageMonitor, with_sample

CPU = torch.device("cpu")


def test_a_summary_holds_means_over_time_and_peaks() -> None:
    first = Sample(
        seconds=10, rows=300, step_seconds=6, cpu_utilisation=0.5, memory_gb=2.0, peak_memory_gb=3.0
    )
    second = Sample(
        seconds=30, rows=500, step_seconds=14, cpu_utilisation=0.9, memory_gb=1.0, peak_memory_gb=2.5
    )
    usage = with_sample(with_sample(Usage(), first), second)
    assert (usage.seconds, usage.rows, usage.step_seconds) == (40, 800, 20)
    assert usage.examples_per_second == 40
    assert usage.cpu_utilisation == pytest.approx(0.8)  # (10 × 0.5 + 30 × 0.9) / 40
    assert usage.peak_memory_gb == 3.0
    assert (usage.gpu_utilisation, usage.peak_gpu_memory_gb) == (None, None)


def test_a_gpu_is_summed_up_like_the_rest() -> None:
    measured = {"rows": 0, "step_seconds": 0.0, "cpu_utilisation": 0.1, "memory_gb": 1, "peak_memory_gb": 1}
    first = Sample(seconds=1, **measured, gpu_utilisation=1.0, gpu_memory_gb=8, peak_gpu_memory_gb=9)
    second = Sample(seconds=3, **measured, gpu_utilisation=0.6, gpu_memory_gb=7, peak_gpu_memory_gb=11)
    usage = with_sample(with_sample(Usage(), first), second)
    assert usage.gpu_utilisation == pytest.approx(0.7)  # (1 × 1.0 + 3 × 0.6) / 4
    assert usage.peak_gpu_memory_gb == 11
    assert usage.examples_per_second is None  # no step was counted
    assert first.metrics()["system/gpu_utilisation"] == 1.0


def test_without_a_gpu_its_figures_are_absent_and_not_zero() -> None:
    sample = UsageMonitor(CPU).take()
    without_gpu = {"system/cpu_utilisation", "system/cpu_wait", "system/memory_gb"}
    assert set(sample.metrics()) == {
        name for name in without_gpu if name != "system/cpu_wait" or TASKS.is_dir()
    }


def test_examples_per_second_are_those_of_the_steps_since_the_last_sample() -> None:
    sampler = UsageMonitor(CPU)
    sampler.count(rows=32, seconds=0.5)
    sampler.count(rows=16, seconds=0.25)
    assert sampler.take().metrics()["step/examples_per_second"] == 64
    sampler.count(rows=8, seconds=0.5)
    assert sampler.take().metrics()["step/examples_per_second"] == 16


def test_a_sample_is_due_at_once_and_then_not_before_some_seconds() -> None:
    sampler = UsageMonitor(CPU)
    assert sampler.due
    sampler.take()
    assert not sampler.due


def test_cpu_utilisation_is_the_cpu_time_of_this_process_over_what_there_was() -> None:
    sampler = UsageMonitor(CPU)
    began, cpu_began = time.monotonic(), time.process_time()
    while time.process_time() - cpu_began < 0.5:
        sum(range(1000))
    found = sampler.take().cpu_utilisation
    expected = (time.process_time() - cpu_began) / (time.monotonic() - began) / usable_cpus()
    assert found == pytest.approx(expected, rel=0.15)


def test_memory_that_is_held_is_counted_and_memory_that_was_held_is_its_peak() -> None:
    sampler = UsageMonitor(CPU)
    before = sampler.take()
    rows = np.ones(1 + int((before.peak_memory_gb - before.memory_gb + 0.25) * 1e9), dtype=np.uint8)
    held = sampler.take()
    assert held.memory_gb - before.memory_gb == pytest.approx(len(rows) / 1e9, abs=0.03)
    assert held.peak_memory_gb >= before.peak_memory_gb + 0.2
    del rows
    freed = sampler.take()
    assert freed.memory_gb < held.memory_gb - 0.2
    assert freed.peak_memory_gb >= held.peak_memory_gb - 0.01


def test_what_a_child_process_takes_is_counted() -> None:
    sampler = UsageMonitor(CPU)
    before = sampler.take()
    program = "x = b'1' * 200_000_000; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        during = sampler.take()
        child.communicate("\n")
    assert 0.2 < during.memory_gb - before.memory_gb < 0.25
    assert during.cpu_utilisation > 0
