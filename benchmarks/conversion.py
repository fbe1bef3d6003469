"""Speed and quality of the converted model against PyTorch and against what else converts it.

    python -m venv optimum && optimum/bin/pip install "optimum-onnx[onnxruntime]"
    python benchmarks/conversion.py RUN --optimum optimum/bin/python --runs 3

RUN is the `steps/<pipeline>-<time>` folder of a finished run of an emotion manifest: its checkpoint is
converted anew, its training rows calibrate, its validation rows are timed and its test rows scored. Compared:

- PyTorch, eager and compiled; a speed-up is over the faster of the two at that batch size
- each candidate of convert-to-onnx, also of the student where the checkpoint has one: against its teacher
- plain: `torch.onnx.export` as it comes, then `quantize_dynamic` as it comes
- Optimum's avx512_vnni after its O3, or the next lower level that it can quantize, made and timed by the
  interpreter of an environment of its own (it pins an older transformers). It exports the encoder alone:
  pooling and head are computed separately for its scores, and are not part of its times.

With `--target gpu` PyTorch, in bf16, and the candidates for a GPU run on one; the other two rivals are made
for CPUs and stay out. PyTorch's labels are those of fp32 on the CPU, wherever it is timed.
Every model has a process of its own; they take turns in rounds, and a run's figure is the median of its
batches. Batches are real texts, drawn as requests would come and padded to their longest. Printed: median and
range over the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from safetensors.torch import save_file

from gauntlet.components.convert_to_onnx.candidates import (
    Failed,
    Source,
    build_graphs,
    describe,
)
from gauntlet.components.convert_to_onnx.export import signature_of_texts
from gauntlet.components.convert_to_onnx.processor import describe_device, require_device
from gauntlet.components.convert_to_onnx.scoring import Forward, onnx_forward, pytorch_forward, sample
from gauntlet.components.convert_to_onnx.scoring import score as scores_of
from gauntlet.components.convert_to_onnx.timing import WORKER, Contender, draw_rows, measure
from gauntlet.manifests.conversion import STUDENT, Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.bundle import Device, open_session
from gauntlet.serving.cpu import usable_cpus
from gauntlet.tasks.classification.conversion import Rows, labels_of, macro_f1
from gauntlet.tasks.texts.conversion import TextRows, build_student_graphs
from gauntlet.trainer.saved_model import STUDENT_FOLDER, load_model, read_record

BATCH_SIZES = (1, 8, 32)
SORTED_BATCH = 32
PYTORCH = ("eager", "compiled")
OPTIMUM = """
import sys
from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer, ORTQuantizer
from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

encoder, out = sys.argv[1:]
model = ORTModelForFeatureExtraction.from_pretrained(encoder, export=True)
vnni = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
for level in ("O3", "O2", "O1"):
    folder = f"{out}/{level}"
    optimization = getattr(AutoOptimizationConfig, level)()
    ORTOptimizer.from_pretrained(model).optimize(save_dir=folder, optimization_config=optimization)
    try:
        quantizer = ORTQuantizer.from_pretrained(folder, file_name="model_optimized.onnx")
        quantizer.quantize(save_dir=folder, quantization_config=vnni)
    except RuntimeError as error:
        print(f"Optimum {level} + avx512_vnni: {str(error)[:120]}...", file=sys.stderr)
        continue
    print(level)
    break
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--candidates", nargs="+", metavar="NAME", help="these alone; by default all")
    parser.add_argument("--target", choices=("cpu", "gpu"), default="cpu", help="where all of them run")
    parser.add_argument(
        "--pytorch", choices=PYTORCH, nargs="+", default=PYTORCH, help="what is compared with"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table's figures here too")
    parser.add_argument("--optimum", metavar="PYTHON", help="interpreter of an environment that has it")
    options = parser.parse_args()
    section = Conversion(target=options.target)
    require_device(section.device)
    if options.optimum and section.device == "gpu":
        parser.error("--optimum: its graph is made for CPUs, leave it out with --target gpu")
    checkpoint, splits = options.run / "train-model/checkpoint", options.run / "validate-data/splits"
    record, threads = read_record(checkpoint), usable_cpus()
    torch.set_num_threads(threads)
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    training_rows, rows, test_rows = (TextRows.read(splits, name, checkpoint, record) for name in names)
    print(f"{threads} threads, {describe_device(section.device)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        graphs = candidates(checkpoint, training_rows, options.seed, folder, section, options.candidates)
        if section.device == "cpu":
            attempt(graphs, "plain torch.onnx + quantize_dynamic", lambda: naive(checkpoint, folder))
        contenders = {
            mode: Contender(f"{WORKER}:{mode}_forward", checkpoint, section.device)
            for mode in options.pytorch
        }
        contenders |= {
            name: Contender(f"{WORKER}:onnx_forward", path, section.device) for name, path in graphs.items()
        }
        if options.optimum:
            level, path = optimum(options.optimum, checkpoint, folder)
            rival = Contender(f"{WORKER}:onnx_forward", path, interpreter=options.optimum)
            contenders[f"Optimum {level} + avx512_vnni"] = rival
        labels = {
            name: score(name, by.path, test_rows, checkpoint, section.device)
            for name, by in contenders.items()
        }
        timings = []
        for run in range(options.runs):
            batches = {
                size: [rows.batch(drawn) for drawn in draw_rows(len(rows), size, options.seed + run)]
                for size in BATCH_SIZES
            }
            timings.append(measure(contenders, batches, threads, folder))
            took = timings[-1]
            waited = "an unknown share" if took.contention is None else f"{took.contention:.0%}"
            print(
                f"run {run + 1}: models waited for a CPU {waited} of the time; {took.clock} clock, "
                f"threads: {took.threads}",
                flush=True,
            )
        if len({(took.clock, took.threads) for took in timings}) > 1:
            raise SystemExit(
                "Other processes disturbed some runs, which were timed by CPU time: run it again."
            )
    print_table(list(contenders), timings, labels, test_rows.truth)
    if options.json:
        figures = {
            name: {f"batch of {size}": speed(name, timings, size)._asdict() for size in BATCH_SIZES}
            for name in contenders
        }
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def candidates(
    checkpoint: Path,
    training_rows: TextRows,
    seed: int,
    folder: Path,
    section: Conversion,
    wanted: Sequence[str] | None,
) -> dict[str, Path]:
    """The candidates of convert-to-onnx that are wanted and can be made."""
    source = Source(
        load_model(checkpoint, attention="eager"),
        signature_of_texts(),
        opset=17,
        calibration=sample(training_rows, seed),
        used_ids=training_rows.used_ids(),
    )
    made = {}
    names = [name for name in section.candidates if not wanted or name in wanted]
    of_student = [name for name in section.candidates if wanted and STUDENT + name in wanted]
    graphs = build_graphs(names, source, folder)
    student = checkpoint / STUDENT_FOLDER
    if student.is_dir():
        asked = of_student if wanted else section.student.candidates
        graphs += build_student_graphs(asked, source, student, folder)
    for graph in graphs:
        if isinstance(graph, Failed):
            print(f"{graph.name}: {graph.reason}")
        else:
            made[graph.name] = graph.path
    return made


def attempt(graphs: dict[str, Path], name: str, make: Callable[[], Path]) -> None:
    try:
        graphs[name] = make()
    except Exception as error:
        print(f"{name}: {describe(error)}")


def naive(checkpoint: Path, folder: Path) -> Path:
    """What both libraries' guides do; the TorchScript exporter where the graph of the newer one fails."""
    model = load_model(checkpoint)
    example = (torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64))
    names: dict[str, Any] = {"input_names": ["input_ids", "attention_mask"], "output_names": ["logits"]}
    exported, path = folder / "naive.onnx", folder / "naive-int8.onnx"
    axes = {name: {0: "batch", 1: "tokens"} for name in names["input_names"]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(model, example, str(exported), dynamic_shapes=axes, dynamo=True, **names)
            quantize_dynamic(exported, path)
            open_session(path, threads=1)
        except Exception as error:
            print(f"torch.onnx's newer exporter, then quantize_dynamic: {describe(error)}")
            torch.onnx.export(
                model,
                example,
                str(exported),
                dynamic_axes={**axes, "logits": {0: "batch"}},
                dynamo=False,
                **names,
            )
            quantize_dynamic(exported, path)
    return path


def optimum(python: str, checkpoint: Path, folder: Path) -> tuple[str, Path]:
    """The encoder by Optimum, from the checkpoint, at the highest level that it can quantize."""
    encoder, out = folder / "encoder", folder / "optimum"
    encoder.mkdir()
    weights = load_model(checkpoint).encoder.state_dict()
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json"):
        (encoder / name).write_bytes((checkpoint / name).read_bytes())
    done = subprocess.run([python, "-c", OPTIMUM, encoder, out], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Optimum: {done.stderr}")
    print(done.stderr)
    level = done.stdout.split()[-1]
    return level, with_our_names(out / level / "model_optimized_quantized.onnx")


def with_our_names(path: Path) -> Path:
    """The same graph, made to take two inputs and to call its output `logits`; nothing is computed anew."""
    model = onnx.load(path)
    graph = model.graph
    for tensor in [tensor for tensor in graph.input if tensor.name == "token_type_ids"]:
        graph.input.remove(tensor)
        graph.node.insert(0, helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"]))
    states = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["logits" if name == states else name for name in node.output]
    graph.output[0].name = "logits"
    renamed = path.with_name("renamed.onnx")
    onnx.save(model, renamed)
    return renamed


def score(name: str, path: Path, rows: Rows, checkpoint: Path, device: Device) -> np.ndarray:
    """Labels (N,) that a model gives the rows."""
    order = np.argsort(rows.lengths, kind="stable")
    batches = [order[start : start + SORTED_BATCH] for start in range(0, len(order), SORTED_BATCH)]

    def labels_of(forward: Forward) -> np.ndarray:
        return scores_of(rows, forward, len(rows.labels), [], batches).right.argmax(axis=1)

    if name in PYTORCH:
        return labels_of(pytorch_forward(load_model(checkpoint)))
    if not name.startswith("Optimum"):
        return labels_of(onnx_forward(path, usable_cpus(), device))
    session, model = open_session(path, usable_cpus(), device), load_model(checkpoint)

    def forward(batch: Any) -> np.ndarray:
        states = session.run(["logits"], dict(batch))[0]  # (B, T, H)
        mask = batch["attention_mask"][..., np.newaxis]
        pooled = (states * mask).sum(axis=1) / mask.sum(axis=1)
        with torch.no_grad():
            return model.classifier(torch.from_numpy(pooled.astype(np.float32))).numpy()

    return labels_of(forward)


class Speed(NamedTuple):
    """A model's median latency over the runs, and what it is over PyTorch's, with the range over the runs."""

    milliseconds: float
    speedup: float
    lowest: float
    highest: float


def speed(name: str, timings: Sequence[Any], size: int) -> Speed:
    """A model's speed at a batch size; the speed-up is over the faster PyTorch of the same run."""
    medians = [timing.latencies[name][size].median for timing in timings]
    fastest = [
        min(timing.latencies[mode][size].median for mode in PYTORCH if mode in timing.latencies)
        for timing in timings
    ]
    ratios = [pytorch / median for pytorch, median in zip(fastest, medians, strict=True)]
    return Speed(statistics.median(medians), statistics.median(ratios), min(ratios), max(ratios))


def print_table(
    names: Sequence[str], timings: Sequence[Any], labels: dict[str, np.ndarray], truth: np.ndarray
) -> None:
    pytorch = next(name for name in names if name in PYTORCH)
    reference = labels[pytorch]
    classes = truth.max() + 1
    f1 = {name: macro_f1(labels_of(labels[name], classes), labels_of(truth, classes)) for name in names}
    header = "".join(f"{f'batch of {size}':>29}" for size in BATCH_SIZES)
    print(f"\n{'':38}{header}   macro-F1     drop  same label")
    for name in names:
        cells = ""
        for size in BATCH_SIZES:
            found = speed(name, timings, size)
            spread = f"({found.lowest:.2f}-{found.highest:.2f})"
            cells += f"{found.milliseconds:8.2f} ms {found.speedup:5.2f}x {spread:>11}"
        same = float((labels[name] == reference).mean())
        print(f"{name:38}{cells}   {f1[name]:.4f}  {f1[pytorch] - f1[name]:+.4f}  {same:.4f}")


if __name__ == "__main__":
    main()
