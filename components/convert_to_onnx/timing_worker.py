"""One model in a process of its own, timed on request.

    python -m components.convert_to_onnx.timing_worker {pytorch,onnx} MODEL BATCHES THREADS

It prints `ready` once the model is loaded. Each line it then reads, `BATCH_SIZE START STOP`, is answered with
the seconds of those batches, separated by spaces, and last the seconds that it waited for a CPU meanwhile
(nan where the system does not tell). It ends when its input does.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

SCHEDULE_FILE = Path(
    "/proc/self/schedstat"
)  # of the main thread: ns on a CPU, ns waiting for one, time slices
NANOSECONDS = 1e9

Forward = Callable[[int, int], None]
Batches = Mapping[int, list[dict[str, npt.NDArray[np.int64]]]]


def load_batches(path: Path) -> Batches:
    """Batches by size, from an archive whose keys are `SIZE.INDEX.INPUT`."""
    batches: dict[int, list[dict[str, npt.NDArray[np.int64]]]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            size, index, name = key.split(".")
            of_size = batches.setdefault(int(size), [])
            if int(index) == len(of_size):
                of_size.append({})
            of_size[int(index)][name] = archive[key]
    return batches


def pytorch_forward(folder: Path, batches: Batches, threads: int) -> Forward:
    """The checkpoint as PyTorch serves it best without compiling: inference mode and fused SDPA attention."""
    import torch

    from trainer.checkpoint import load_model

    torch.set_num_threads(threads)
    model = load_model(folder, attention="sdpa")
    tensors = {
        size: [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in of_size]
        for size, of_size in batches.items()
    }

    def forward(size: int, index: int) -> None:
        with torch.inference_mode():
            model(**tensors[size][index])

    return forward


def onnx_forward(path: Path, batches: Batches, threads: int) -> Forward:
    """The graph as serving runs it."""
    from serving.bundle import open_session

    session: Any = open_session(path, threads)

    def forward(size: int, index: int) -> None:
        session.run(["logits"], batches[size][index])

    return forward


def waited() -> float:
    """Seconds since its start that the main thread would have run, had a CPU been free."""
    if not SCHEDULE_FILE.is_file():
        return math.nan
    return int(SCHEDULE_FILE.read_text().split()[1]) / NANOSECONDS


def timed(forward: Forward, size: int, indices: range, lead_in: int) -> list[float]:
    """Seconds of each batch, then the seconds waited in all of them.

    An untimed batch of size `lead_in` goes first: the process that was timed before this one had the caches.
    """
    forward(lead_in, 0)
    waited_before = waited()
    seconds = []
    for index in indices:
        start = perf_counter()
        forward(size, index)
        seconds.append(perf_counter() - start)
    return [*seconds, waited() - waited_before]


def main(kind: str, model: str, batches_file: str, threads: str) -> None:
    """Serve timing requests from standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with answers
    batches = load_batches(Path(batches_file))
    load = {"pytorch": pytorch_forward, "onnx": onnx_forward}[kind]
    forward = load(Path(model), batches, int(threads))
    smallest = min(batches)
    gc.disable()
    print("ready", file=answers)
    for request in sys.stdin:
        size, start, stop = map(int, request.split())
        print(*timed(forward, size, range(start, stop), lead_in=smallest), file=answers)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:  # Ctrl-C reaches every process of the terminal; the step itself reports it
        sys.exit(130)
