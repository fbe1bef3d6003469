"""One model in a process of its own, timed on request.

    python -m gauntlet.components.convert_to_onnx.timing_worker KIND MODEL BATCHES THREADS CLOCK

KIND is one of `KINDS`, CLOCK of `CLOCKS`. It prints `ready` once the model is loaded, and compiled. Each line
that it then reads, `BATCH_SIZE START STOP`, is answered with the seconds of those batches, separated by
spaces, and last the seconds that its threads ran and that they waited for a CPU meanwhile, all threads
together (zeros where the system does not say); `memory` is answered with the most that it had in memory, in
MB. It ends when its input does.
"""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.serving.cpu import CpuWait

STATUS_FILE = Path("/proc/self/status")
PEAK_MEMORY = "VmHWM:"  # in units of 1,024 bytes, which Linux calls kB
MB_PER_KB = 1024 / 1e6
SECONDS_TO_SETTLE = 0.02
NEW_TOKENS = 16  # by which a language model continues each prompt of a batch
COMPILING_BATCHES = 3  # of each size: torch compiles anew for some of the first shapes that it sees

Forward = Callable[[int, int], None]
Batches = Mapping[int, list[dict[str, npt.NDArray[Any]]]]


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


def eager_forward(folder: Path, batches: Batches, threads: int, on_gpu: bool = False) -> Forward:
    """The checkpoint as PyTorch serves it best without compiling: inference mode and fused SDPA attention.

    On a GPU as `_OnGpu` says.
    """
    return _pytorch_forward(folder, batches, threads, is_compiled=False, on_gpu=on_gpu)


def compiled_forward(folder: Path, batches: Batches, threads: int, on_gpu: bool = False) -> Forward:
    """The same by `torch.compile`, for batches and texts of any size."""
    forward = _pytorch_forward(folder, batches, threads, is_compiled=True, on_gpu=on_gpu)
    for size, of_size in batches.items():
        for index in range(min(COMPILING_BATCHES, len(of_size))):
            forward(size, index)
    return forward


def _pytorch_forward(
    folder: Path, batches: Batches, threads: int, is_compiled: bool, on_gpu: bool
) -> Forward:
    import torch

    from gauntlet.trainer.saved_model import load_model

    torch.set_num_threads(threads)
    model: Any = load_model(folder, attention="sdpa")
    if on_gpu:
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
    """A model on a GPU, from tensors on the CPU to scores there, in bf16 where it is native, else in fp16.

    What holds most weights has them in that format, as autocast would cast them anew for each batch.
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
        """Have the model compiled at its first batch."""
        self._model.compile(dynamic=dynamic)

    def __call__(self, **batch: Any) -> Any:
        """Scores of a batch, for which the GPU must be done."""
        import torch

        with torch.autocast("cuda", self._format):
            found = self._model(**{name: tensor.to("cuda") for name, tensor in batch.items()})
        return getattr(found, "logits", found).cpu()


def onnx_forward(path: Path, batches: Batches, threads: int, on_gpu: bool = False) -> Forward:
    """The graph as serving runs it."""
    from gauntlet.serving.session import open_session

    session: Any = open_session(path, threads, "gpu" if on_gpu else "cpu")

    def forward(size: int, index: int) -> None:
        session.run(["logits"], batches[size][index])

    return forward


def generating(folder: Path, batches: Batches, threads: int) -> Forward:
    """A language model's checkpoint as transformers continues prompts, greedily and with its cache."""
    import torch

    from gauntlet.tasks.causal_lm.training import network_of

    torch.set_num_threads(threads)
    network: Any = network_of(folder)

    def forward(size: int, index: int) -> None:
        inputs = {name: torch.from_numpy(array) for name, array in batches[size][index].items()}
        with torch.inference_mode():
            network.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )

    return forward


def generating_onnx(path: Path, batches: Batches, threads: int) -> Forward:
    """A language model's graph as serving continues prompts, greedily and with its cache."""
    from gauntlet.serving.generation import Decoder

    decoder = Decoder(path, threads)
    decoder.stop_tokens = []  # as many tokens as the other makes

    def forward(size: int, index: int) -> None:
        batch = batches[size][index]
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        decoder.continue_tokens([ids[mask == 1].tolist() for ids, mask in rows], NEW_TOKENS)

    return forward


KINDS: Mapping[str, Callable[[Path, Batches, int], Forward]] = {
    "eager": eager_forward,
    "compiled": compiled_forward,
    "onnx": onnx_forward,
    "eager_gpu": partial(eager_forward, on_gpu=True),
    "compiled_gpu": partial(compiled_forward, on_gpu=True),
    "onnx_gpu": partial(onnx_forward, on_gpu=True),
    "generate": generating,
    "generate_onnx": generating_onnx,
}


CLOCKS: Mapping[str, Callable[[], float]] = {"wall": perf_counter, "cpu": thread_time}


def peak_memory_mb() -> float:
    """The most that this process had in memory; nan where the system does not tell."""
    lines = STATUS_FILE.read_text().splitlines() if STATUS_FILE.is_file() else []
    kilobytes = next((line.split()[1] for line in lines if line.startswith(PEAK_MEMORY)), math.nan)
    return float(kilobytes) * MB_PER_KB


def timed(
    forward: Forward, size: int, indices: range, lead_in: int, clock: Callable[[], float]
) -> list[float]:
    """Seconds of each batch, then the seconds that threads ran and waited in all of them.

    First the threads of the process that was timed last get the time to stop spinning; then an untimed batch
    of size `lead_in` goes ahead, since that process had the caches.
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


def main(kind: str, model: str, batches_file: str, threads: str, clock: str) -> None:
    """Serve timing requests from standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with answers
    batches = load_batches(Path(batches_file))
    forward = KINDS[kind](Path(model), batches, int(threads))
    smallest = min(batches)
    gc.disable()
    print("ready", file=answers)
    for request in sys.stdin:
        if request.strip() == "memory":
            on_gpu = kind.endswith("_gpu")  # then the CPU's memory says nothing of the model
            print(math.nan if on_gpu else peak_memory_mb(), file=answers)
            continue
        size, start, stop = map(int, request.split())
        print(*timed(forward, size, range(start, stop), smallest, CLOCKS[clock]), file=answers)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:  # Ctrl-C reaches every process of the terminal; the step itself reports it
        sys.exit(130)
