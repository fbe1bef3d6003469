"""One model in a process of its own, timed on request.

    python -m gauntlet.components.convert_to_onnx.timing_worker FORWARD MODEL BATCHES THREADS CLOCK DEVICE

It prints `ready` once the model is loaded and compiled. It answers each line `BATCH_SIZE START STOP` with the
seconds of those batches and the seconds that its threads ran and waited for a CPU (zeros if the system does
not say), and `memory` with its peak memory in MB. It ends when its input does.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import Device
from gauntlet.serving.cpu import CpuWait

STATUS_FILE = Path("/proc/self/status")
PEAK_MEMORY = "VmHWM:"  # in units of 1,024 bytes, which Linux calls kB
MB_PER_KB = 1024 / 1e6
SECONDS_TO_SETTLE = 0.02
COMPILING_BATCHES = 3  # of each size: torch compiles again for some of the first shapes that it sees

Forward = Callable[[int, int], None]
"""Runs the batch of a size and an index."""
Batches = Mapping[int, list[dict[str, npt.NDArray[Any]]]]
Load = Callable[[Path, Batches, int, Device], Forward]
"""Loads the checkpoint or graph at a path, with a number of threads, on a device."""


def load_batches(path: Path) -> Batches:
    """Batches by size, from an archive whose keys are `SIZE.INDEX.INPUT`."""
    batches: dict[int, list[dict[str, npt.NDArray[Any]]]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            size, index, name = key.split(".")
            of_size = batches.setdefault(int(size), [])
            if int(index) == len(of_size):
                of_size.append({})
            of_size[int(index)][name] = archive[key]
    return batches


def eager_forward(folder: Path, batches: Batches, threads: int, device: Device) -> Forward:
    """The checkpoint in PyTorch's inference mode, with fused SDPA attention."""
    return _pytorch_forward(folder, batches, threads, is_compiled=False, device=device)


def compiled_forward(folder: Path, batches: Batches, threads: int, device: Device) -> Forward:
    """The same by `torch.compile`, for batches and texts of any size."""
    forward = _pytorch_forward(folder, batches, threads, is_compiled=True, device=device)
    for size, of_size in batches.items():
        for index in range(min(COMPILING_BATCHES, len(of_size))):
            forward(size, index)
    return forward


def _pytorch_forward(
    folder: Path, batches: Batches, threads: int, is_compiled: bool, device: Device
) -> Forward:
    import torch

    from gauntlet.trainer.saved_model import load_model

    torch.set_num_threads(threads)
    model: Any = load_model(folder, attention="sdpa")
    if device == "gpu":
        model = _OnGpu(model)
    if is_compiled:
        model.compile(dynamic=True)
    tensors = {
        size: [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in of_size]
        for size, of_size in batches.items()
    }

    def forward(size: int, index: int) -> None:
        with torch.inference_mode():
            model(**tensors[size][index])

    return forward


class _OnGpu:
    """A model on a GPU, from tensors on the CPU to scores there, in bf16 if it is native, else in fp16.

    Layers store their weights in that format: autocast would cast them for each batch.
    """

    def __init__(self, model: Any) -> None:
        import torch

        from gauntlet.trainer.device import has_bf16

        self._format = torch.bfloat16 if has_bf16(torch.device("cuda")) else torch.float16
        self._model = model.to("cuda")
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.to(self._format)

    def compile(self, dynamic: bool) -> None:
        self._model.compile(dynamic=dynamic)

    def __call__(self, **batch: Any) -> Any:
        import torch

        with torch.autocast("cuda", self._format):
            found = self._model(**{name: tensor.to("cuda") for name, tensor in batch.items()})
        return getattr(found, "logits", found).cpu()


def onnx_forward(path: Path, batches: Batches, threads: int, device: Device) -> Forward:
    """The graph as serving runs it."""
    from gauntlet.serving.bundle import open_session

    session: Any = open_session(path, threads, device)

    def forward(size: int, index: int) -> None:
        session.run(["logits"], batches[size][index])

    return forward


CLOCKS: Mapping[str, Callable[[], float]] = {"wall": perf_counter, "cpu": thread_time}


def peak_memory_mb() -> float:
    """The peak memory of this process; NaN if the system does not say."""
    lines = STATUS_FILE.read_text().splitlines() if STATUS_FILE.is_file() else []
    kilobytes = next((line.split()[1] for line in lines if line.startswith(PEAK_MEMORY)), math.nan)
    return float(kilobytes) * MB_PER_KB


def timed(
    forward: Forward, size: int, indices: range, lead_in: int, clock: Callable[[], float]
) -> list[float]:
    """Seconds of each batch, then the seconds that threads ran and waited in all of them.

    First the other process gets time to stop spinning, and an untimed batch of size `lead_in` fills the
    caches.
    """
    sleep(SECONDS_TO_SETTLE)
    forward(lead_in, 0)
    wait = CpuWait()
    seconds = []
    for index in indices:
        start = clock()
        forward(size, index)
        seconds.append(clock() - start)
    took = wait.since()
    return [*seconds, took.running, took.waiting]


def main(forward_path: str, model: str, batches_file: str, threads: str, clock: str, device: Device) -> None:
    """Serve timing requests from standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with answers
    batches = load_batches(Path(batches_file))
    module, _, name = forward_path.partition(":")
    load: Load = getattr(import_module(module), name)
    forward = load(Path(model), batches, int(threads), device)
    smallest = min(batches)
    gc.disable()
    print("ready", file=answers)
    for request in sys.stdin:
        if request.strip() == "memory":
            # The CPU's memory says nothing about a model on a GPU.
            print(math.nan if device == "gpu" else peak_memory_mb(), file=answers)
            continue
        size, start, stop = map(int, request.split())
        print(*timed(forward, size, range(start, stop), smallest, CLOCKS[clock]), file=answers)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])  # type: ignore[arg-type]
    except KeyboardInterrupt:  # Ctrl-C reaches every process of the terminal; the step itself reports it
        sys.exit(130)
