"""Do converted models give the same answers on every class of CPU and in every batch, and how fast are they?

    python benchmarks/cpu_classes.py RUN [--quick]

RUN is the `steps/<pipeline>-<time>` folder of a finished run of a text classifier. Its checkpoint is
converted once. The graphs score the validation and test rows and are timed on this CPU and on the same
CPU as if it had AVX2 alone (`tests/cpu_class/run.py`). On a CPU with AVX2 alone both are the same.

Aims, for every int8 candidate:
- no logit differs between the classes by more than 0.25, the bound of the tests
- no more than 1 % of the labels differ between the classes
And for `int8_per_token`:
- the rows and the padding of its batch change no probability of a row by more than 0.001, on either class
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from gauntlet.components.convert_to_onnx.candidates import Failed, Source, build_graphs
from gauntlet.components.convert_to_onnx.export import signature_of_texts
from gauntlet.components.convert_to_onnx.processor import describe_processor
from gauntlet.components.convert_to_onnx.scoring import (
    measure_neighbours,
    onnx_forward,
    pytorch_forward,
    sample,
)
from gauntlet.components.convert_to_onnx.timing import WORKER, Contender, draw_rows, measure
from gauntlet.manifests.conversion import CandidateName
from gauntlet.tasks.text_classification import KIND
from gauntlet.tasks.texts.conversion import TextRows
from gauntlet.trainer.saved_model import load_model, read_record

LARGEST_DIFFERENCE, DIFFERENT_LABELS, NEIGHBOUR_DIFFERENCE = 0.25, 0.01, 0.001
CANDIDATES: tuple[CandidateName, ...] = (
    "plain", "fused", "int8_per_token", "int8", "int8_static", "weights_int8",
)  # fmt: skip
QUANTISED = ("int8_per_token", "int8", "int8_static")
INDEPENDENT = "int8_per_token"
BATCH_SIZES = (1, 8, 32)
SEED = 7
RESTRICTED = Path(__file__).parents[1] / "tests" / "cpu_class" / "run.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--quick", action="store_true", help="batches of one row alone are timed")
    parser.add_argument("--worker", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = BATCH_SIZES[:1] if options.quick else BATCH_SIZES
    if options.worker:
        answer(options.run, options.worker, sizes)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = convert(options.run, folder)
        command = [sys.executable, __file__, str(options.run), "--worker", str(folder)]
        command += ["--quick"] if options.quick else []
        here = json.loads(output(command))
        avx2 = json.loads(output([sys.executable, str(RESTRICTED), "avx2", "--", *command]))
    missed = print_tables(names, here, avx2, sizes)
    worst = max(difference(name, here, avx2)[0] for name in names if name in QUANTISED)
    print(f"largest difference of an int8 logit between the classes: {worst:.3f} (aim {LARGEST_DIFFERENCE})")
    sys.exit(1 if missed else 0)


def convert(run: Path, folder: Path) -> list[str]:
    """Make the candidates in `folder`; return the names of those that could be made."""
    checkpoint = run / "train-model/checkpoint"
    record = read_record(checkpoint)
    if record.task != KIND.name:
        sys.exit(f"{run}: found a model of {record.task}, expected a run of a text classifier")
    rows = TextRows.read(run / "validate-data/splits", "train", checkpoint, record)
    model = load_model(checkpoint, attention="eager")
    source = Source(model, signature_of_texts(), 17, sample(rows, SEED), rows.used_ids())
    graphs = build_graphs(CANDIDATES, source, folder)
    for graph in graphs:
        if isinstance(graph, Failed):
            print(f"{graph.name} {graph.reason}", file=sys.stderr)
    return [graph.name for graph in graphs if not isinstance(graph, Failed)]


def answer(run: Path, folder: Path, sizes: tuple[int, ...]) -> None:
    """Print what the graphs in `folder` answer on this class of CPU, and how long they take."""
    checkpoint, splits = run / "train-model/checkpoint", run / "validate-data/splits"
    record = read_record(checkpoint)
    torch.set_num_threads(1)
    validation, test = (TextRows.read(splits, name, checkpoint, record) for name in ("validation", "test"))
    batches = [
        rows.batch(np.arange(start, min(start + 32, len(rows))))
        for rows in (validation, test)
        for start in range(0, len(rows), 32)
    ]
    graphs = {path.stem: path for path in folder.glob("*.onnx") if path.stem in CANDIDATES}
    forwards = {name: onnx_forward(path, 1, "cpu") for name, path in graphs.items()}
    forwards["eager"] = pytorch_forward(load_model(checkpoint))
    logits = {name: np.concatenate([run(b) for b in batches]).tolist() for name, run in forwards.items()}
    neighbours = {name: measure_neighbours(validation, run, SEED) for name, run in forwards.items()}
    contenders = {"eager": Contender(f"{WORKER}:eager_forward", checkpoint)}
    contenders |= {name: Contender(f"{WORKER}:onnx_forward", path) for name, path in graphs.items()}
    timed = {
        size: [validation.batch(drawn) for drawn in draw_rows(len(validation), size, SEED)] for size in sizes
    }
    with tempfile.TemporaryDirectory() as scratch:
        timing = measure(contenders, timed, 1, Path(scratch))
    medians = {name: [by[size].median for size in sizes] for name, by in timing.latencies.items()}
    print(json.dumps({
        "cpu": describe_processor(), "clock": timing.clock, "logits": logits, "milliseconds": medians,
        "neighbours": {
            name: [found.max_difference, found.label_changes] for name, found in neighbours.items()
        },
    }))  # fmt: skip


def output(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def difference(name: str, one: dict, other: dict) -> tuple[float, float]:
    """The largest difference of a logit between two classes, and the share of labels that differ."""
    first, second = np.array(one["logits"][name]), np.array(other["logits"][name])
    return float(np.abs(first - second).max()), float(np.mean(first.argmax(1) != second.argmax(1)))


def agreement(name: str, found: dict) -> float:
    """The share of rows with the label that eager PyTorch gives them on the same class."""
    own, eager = (np.argmax(found["logits"][of], axis=1) for of in (name, "eager"))
    return float(np.mean(own == eager))


def print_tables(names: list[str], here: dict, avx2: dict, sizes: tuple[int, ...]) -> bool:
    """Print answers and speed by class; whether an aim is missed."""
    for title, found in (("here", here), ("avx2", avx2)):
        print(f"{title}: {found['cpu']}, one thread, {found['clock']} clock")
    print("\ncandidate      labels as eager PyTorch's: here    avx2   logits differ   labels differ")
    missed = False
    for name in names:
        largest, labels = difference(name, here, avx2)
        missed |= name in QUANTISED and not (largest <= LARGEST_DIFFERENCE and labels <= DIFFERENT_LABELS)
        same = f"{agreement(name, here):31.4f} {agreement(name, avx2):7.4f}"
        print(f"{name:14} {same} {largest:15.4f} {labels:15.4f}")
    print("\nlargest change of a probability with the rows and padding of its batch (labels that change)")
    for name in names:
        found = [of["neighbours"][name] for of in (here, avx2)]
        missed |= name == INDEPENDENT and not all(change <= NEIGHBOUR_DIFFERENCE for change, _ in found)
        shown = [f"{change:.4f} ({labels})" for change, labels in found]
        print(f"{name:14} here {shown[0]:20} avx2 {shown[1]}")
    print(f"\ntimes as fast as eager PyTorch at batches of {', '.join(map(str, sizes))}")
    for name in names:
        speed = [
            " / ".join(
                f"{eager / own:.1f}"
                for eager, own in zip(of["milliseconds"]["eager"], of["milliseconds"][name], strict=True)
            )
            for of in (here, avx2)
        ]
        print(f"{name:14} here {speed[0]:20} avx2 {speed[1]}")
    return missed


if __name__ == "__main__":
    main()
