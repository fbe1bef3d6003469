"""`gauntlet doctor` without a project: what this machine has, and what it costs if something is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from gauntlet.serving.cpu import SATURATING_CLASSES, cpu_class, cpu_fields, usable_cpus

State = Literal["ok", "limited", "missing"]
GIB = 2**30
MEMORY_ADVISED, DISK_ADVISED = 8, 10  # GiB
DOCKER_SECONDS = 60.0
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")  # cgroup v2: bytes, or "max"


@dataclass(frozen=True)
class MachineFinding:
    """One thing that runs use. `meaning`: what works less well without it, and what to do; empty if ok."""

    what: str
    found: str
    state: State
    meaning: str = ""


def examine(home: Path) -> Iterator[MachineFinding]:
    """Look at the machine. `home` is the folder that runs are kept in, which need not exist yet."""
    import torch

    from gauntlet.trainer.device import COMPILERS, has_bf16
    from gauntlet.trainer.gpus import gpu_fault, look_at_gpus

    yield MachineFinding("Python", platform.python_version(), "ok")
    yield cpu_finding(cpu_class(), cpu_fields().get("model name", platform.machine()), usable_cpus())
    yield bf16_finding(has_bf16(torch.device("cpu")))
    yield memory_finding(usable_memory())
    yield disk_finding(home)
    yield compiler_finding(next(filter(None, map(shutil.which, COMPILERS)), None))
    yield gpu_finding(str(look_at_gpus()), look_at_gpus().present, gpu_fault())
    yield docker_finding(*ask_docker())


def cpu_finding(kind: str, name: str, cpus: int) -> MachineFinding:
    """By the class of the CPU, as `cpu_class` names it, and how many of its CPUs a process may use."""
    found = f"{name}, {cpus} usable, {kind}"
    if kind in SATURATING_CLASSES:
        return MachineFinding(
            "CPU",
            found,
            "limited",
            "A sum of 8-bit products saturates on it (no VNNI). int8 candidates may fail their proof here, "
            "and a bundle that was proved on a CPU with VNNI may be refused: docs/explanation/conversion.md.",
        )
    return MachineFinding("CPU", found, "ok")


def bf16_finding(native: bool) -> MachineFinding:
    """Whether the CPU multiplies bf16 matrices."""
    if native:
        return MachineFinding("bf16", "native", "ok")
    return MachineFinding(
        "bf16",
        "not on this CPU",
        "limited",
        "`training.precision: auto` trains in fp32 here, and in bf16 on a CPU or GPU that has it, so the "
        "weights differ between the two. Set `training.precision: fp32` for the same on both.",
    )


def usable_memory(limit_file: Path = CGROUP_MEMORY) -> int:
    """Bytes of memory of the machine, or of its container if that has less."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = limit_file.read_text().strip()
    except OSError:
        return total
    return total if limit == "max" else min(total, int(limit))


def memory_finding(memory: int) -> MachineFinding:
    """By bytes."""
    found = f"{memory / GIB:.1f} GiB"
    if memory < MEMORY_ADVISED * GIB:
        return MachineFinding(
            "memory",
            found,
            "limited",
            f"Under {MEMORY_ADVISED} GiB, training and conversion may be ended by the system. Set a smaller "
            "`training.batch_size`, and `training.resources.max_memory_gb`, to fail early with a message.",
        )
    return MachineFinding("memory", found, "ok")


def disk_finding(home: Path) -> MachineFinding:
    """The free space where `home` is, or will be."""
    folder = home.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free for {home}"
    if not os.access(folder, os.W_OK):
        return MachineFinding(
            "disk", found, "missing", f"{folder} is not writable: set GAUNTLET_HOME to a folder that is."
        )
    if free < DISK_ADVISED * GIB:
        return MachineFinding(
            "disk",
            found,
            "limited",
            f"Under {DISK_ADVISED} GiB, a run may fill the disk. `gauntlet prune` removes old runs; "
            "GAUNTLET_HOME names another folder.",
        )
    return MachineFinding("disk", found, "ok")


def compiler_finding(compiler: str | None) -> MachineFinding:
    """By the path of a C++ compiler."""
    if compiler is not None:
        return MachineFinding("C++ compiler", compiler, "ok")
    return MachineFinding(
        "C++ compiler",
        "none",
        "missing",
        "`training.compile` and the timing of PyTorch's compiled model need one: install g++.",
    )


def gpu_finding(stack: str, present: tuple[str, ...], fault: str | None) -> MachineFinding:
    """By what torch and the driver report, the GPUs' names, and why torch cannot use them if it cannot."""
    if fault is None:
        return MachineFinding("GPU", stack, "ok")
    if present:
        return MachineFinding("GPU", stack, "missing", f"Training runs on the CPU: {fault}.")
    return MachineFinding(
        "GPU",
        "none",
        "limited",
        "Training runs on the CPU: minutes for the sample, hours for a data set such as emotion's. "
        "`gauntlet submit` trains on a GPU of Vertex AI.",
    )


def ask_docker() -> tuple[str | None, str]:
    """The version of Docker's server, or None and why it cannot be used."""
    if shutil.which("docker") is None:
        return None, "not installed"
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DOCKER_SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {DOCKER_SECONDS:.0f} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return done.stdout.strip(), ""


def docker_finding(version: str | None, why: str) -> MachineFinding:
    """By the answer of `ask_docker`."""
    if version:
        return MachineFinding("Docker", version, "ok")
    return MachineFinding(
        "Docker",
        why,
        "missing",
        "Only building images needs it: `make images`, and the serving image. Cloud Build builds them too.",
    )
