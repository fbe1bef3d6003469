"""Every measurement that needs a GPU, in one go of at most eight minutes: called by `gpu.sh`.

Each part is one of this folder's benchmarks in a process of its own, with a budget of seconds. A part that
fails or runs over its budget is recorded as such, and the next one starts. One JSON file is rewritten after
each part. Then a table is printed; the last line is the headline. Exit code 1: an aim was missed or not
measured, or with --quick, a part failed.

--quick runs every part at tiny size, on a CPU too, to try the code. It judges no aim.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
ERROR_CHARACTERS = 3000  # of a failed part's output
GPU_PROVIDER = "CUDAExecutionProvider"

Figures = dict[str, Any]
"""What a benchmark writes with `--json`."""


# --- aims, on one H200 ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aim:
    """A bound on a figure of a part. `measured` gives None where the part has no such figure."""

    part: str
    text: str
    bound: float
    measured: Callable[[Figures], float | None]
    is_lower_bound: bool = True

    def is_met(self, value: float | None) -> bool:
        """Whether the value keeps the bound; None does not."""
        if value is None:
            return False
        return value >= self.bound if self.is_lower_bound else value <= self.bound


def ratio_over(other: str) -> Callable[[Figures], float | None]:
    """How many times as fast Gauntlet is as the contestant whose name starts so."""

    def measured(figures: Figures) -> float | None:
        found = (
            ratio
            for pair, ratio in figures["ratios"].items()
            if pair.partition(" over ")[2].startswith(other)
        )
        return next(found, None)

    return measured


def best_accuracy(figures: Figures) -> float:
    return float(max(figures["gauntlet"][0]["accuracies"]))


def last_accuracy(figures: Figures) -> float:
    return float(figures["gauntlet"][0]["accuracies"][-1])


def parameters(figures: Figures) -> float:
    return float(figures["gauntlet"][0]["parameters"])


def is_identical(figures: Figures) -> float:
    return float(figures["identical"])


AIMS = (
    Aim("emotion", "training beside Trainer, times", 1.5, ratio_over("Trainer")),
    Aim("lora", "LoRA beside Trainer with peft, times", 1.0, ratio_over("Trainer")),
    Aim("lora", "LoRA beside TRL, times", 1.0, ratio_over("TRL")),
    Aim("fashion_plain", "plain network, accuracy on the test file", 0.94, best_accuracy),
    Aim("fashion_small", "small network, accuracy after the last epoch", 0.95, last_accuracy),
    Aim("fashion_small", "small network, parameters", 999_999, parameters, is_lower_bound=False),
    Aim("resume_emotion", "encoder killed and resumed to the same bits", 1, is_identical),
    Aim("resume_lora", "LoRA killed and resumed to the same bits", 1, is_identical),
)


# --- parts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What every part is given.

    Attributes:
        folder: Where inputs and outputs of the parts lie.
        carried: The folder that `gpu.sh prepare` wrote; it need not be there.
    """

    folder: Path
    carried: Path
    quick: bool

    @property
    def machine(self) -> dict[str, Any]:
        """What the part `inputs` found out about this machine."""
        return read(self.folder / "machine.json")

    def inputs(self, name: str, *overrides: str) -> list[str]:
        """A manifest with its overrides, as a benchmark's command line takes them."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise Skipped(f"no {name}: --data names no folder of them, or the part inputs failed")
        document = read(path)
        keys = (*document["overrides"], *overrides)
        return [document["manifest"], *(part for key in keys for part in ("--set", key))]


class Skipped(Exception):
    """Why a part cannot run here."""


@dataclass(frozen=True)
class Part:
    """A benchmark, and the seconds that it may take on a GPU."""

    name: str
    seconds: int
    command: Callable[[Plan], list[str]]


def emotion(plan: Plan) -> list[str]:
    return throughput(plan, *(("32", 10, 1) if plan.quick else ("32", 150, 2)))


def emotion_large(plan: Plan) -> list[str]:
    return throughput(plan, *(("40", 10, 1) if plan.quick else ("256", 40, 1)))


def throughput(plan: Plan, batch_size: str, steps: int, runs: int) -> list[str]:
    inputs = plan.inputs("emotion", f"training.batch_size={batch_size}")
    only = ["--only", "gauntlet, bf16", "--only", "Trainer, length groups + bf16"]
    return ["training_throughput.py", *inputs, "--steps", str(steps), "--runs", str(runs), *only]


def lora(plan: Plan) -> list[str]:
    sizes = ("training.batch_size=8", "dataset.max_tokens=128") if plan.quick else ("training.batch_size=32",)
    contestants = ["gauntlet, bf16", "Trainer + peft, length groups + bf16"]
    if not plan.quick or plan.machine["packages"]["trl"]:
        contestants.append("TRL, packed + bf16")
    only = [part for name in contestants for part in ("--only", name)]
    inputs = plan.inputs("conversations", *sizes)
    return ["lora_throughput.py", *inputs, "--steps", "12" if plan.quick else "40", "--runs", "1", *only]


ONE_CYCLE = (
    "training.schedule=one_cycle",
    "training.plateau=null",
    "training.warmup_fraction=0.2",
    "training.early_stopping={metric: accuracy, patience: 100}",
)
TINY_NETWORK = ("training.filters=[4, 8]", "training.epochs=2", "training.batch_size=32")


def fashion_plain(plan: Plan) -> list[str]:
    recipe = (
        "training.epochs=40",
        "training.learning_rate=3e-3",
        "training.weight_decay=0.01",
        "training.augmentation={horizontal_flip: true, shift: 0.05}",
    )
    return fashion(plan, recipe, target="0.94")


def fashion_small(plan: Plan) -> list[str]:
    recipe = (
        "training.arch=resnet",
        "training.units=0",
        "training.dropout=0",
        "training.epochs=60",
        "training.batch_size=256",
        "training.learning_rate=4e-3",
        "training.weight_decay=0.05",
        "training.augmentation={horizontal_flip: true, shift: 0.1}",
    )
    return fashion(plan, recipe, target="1")


def fashion(plan: Plan, recipe: Sequence[str], target: str) -> list[str]:
    inputs = plan.inputs("images", *ONE_CYCLE, *recipe, *(TINY_NETWORK if plan.quick else ()))
    return ["time_to_accuracy.py", *inputs, "--runs", "1", "--only", "gauntlet", "--target", target]


def resume_emotion(plan: Plan) -> list[str]:
    size = "32" if plan.quick else "256"
    settings = ("training.epochs=2", "training.dropout=0.1", f"training.batch_size={size}")
    inputs = plan.inputs("emotion", *settings)
    return ["exact_resume.py", *inputs, "--keep", str(plan.folder / "run")]


def resume_lora(plan: Plan) -> list[str]:
    settings = ("training.epochs=2", f"training.batch_size={8 if plan.quick else 32}")
    return ["exact_resume.py", *plan.inputs("conversations", *settings)]


def onnx(plan: Plan) -> list[str]:
    """fp16 on a GPU. On a CPU the float candidates, since nothing there computes in fp16."""
    run = plan.folder / "run"
    if not (run / "train-model/checkpoint").is_dir():
        raise Skipped("it converts the checkpoint of resume_emotion, which left none")
    command = ["conversion.py", str(run), "--runs", "1", "--pytorch", "eager"]
    if plan.machine["device"] == "cpu":
        return [*command, "--candidates", "plain"]
    if GPU_PROVIDER not in plan.machine["onnxruntime_providers"]:
        raise Skipped(f"ONNX Runtime sees no GPU here. {not_carried(plan.carried)}")
    return [*command, "--target", "gpu"]


def not_carried(carried: Path) -> str:
    """Why onnxruntime-gpu was left out of what was carried."""
    path = carried / "left_out.json"
    if not path.is_file():
        return "gpu.sh prepare was not run, so onnxruntime-gpu was not carried."
    return " ".join(f"Not carried: {name}, {size / 1e6:.0f} MB." for name, size in read(path).items())


PARTS = (
    Part("emotion", 70, emotion),
    Part("lora", 85, lora),
    Part("fashion_plain", 60, fashion_plain),
    Part("fashion_small", 85, fashion_small),
    Part("resume_emotion", 30, resume_emotion),
    Part("resume_lora", 30, resume_lora),
    Part("emotion_large", 30, emotion_large),
    Part("onnx", 25, onnx),
)
INPUTS_SECONDS = 30
QUICK_FACTOR = 10  # a CPU that others use too


# --- running ----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes and drawn images, on a CPU too; no aim is judged"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with fashion-mnist/; default: as carried"
    )
    parser.add_argument("--carried", type=Path, default=REPOSITORY / "build/gpu", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/gpu.json", metavar="FILE")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS])
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for all parts together")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    data = None if options.quick else options.data or options.carried
    if data and not (data / "fashion-mnist").is_dir():
        parser.error(
            f"{data}: found no folder fashion-mnist, expected one with the four idx files. Install "
            "dataset-fashion-mnist and run `benchmarks/gpu.sh prepare`, or name another --data"
        )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the part is ended too
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan(Path(scratch), options.carried, options.quick)
        raise SystemExit(measure(plan, data, options))


def measure(plan: Plan, data: Path | None, options: argparse.Namespace) -> int:
    """Run the parts, write the document and print it; returns the exit code."""
    began = time.monotonic()
    document: dict[str, Any] = {"quick": plan.quick, "parts": {}}

    def budget(seconds: float) -> float:
        wanted = seconds * (QUICK_FACTOR if plan.quick else 1)
        left = (options.limit or float("inf")) - (time.monotonic() - began)
        return max(0.0, min(wanted, left))

    def note(name: str, result: dict[str, Any]) -> None:
        document["parts"][name] = result
        document["seconds"] = round(time.monotonic() - began, 1)
        document["aims"] = judged(document)
        whole = options.output.with_suffix(".partial")
        whole.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        whole.replace(options.output)
        print(
            f"{name:16} {result['status']:10} {result['seconds']:6.1f} s  {result.get('reason', '')[:200]}",
            flush=True,
        )

    sizes = ("600", "150") if plan.quick else ("13200", "1800")
    command = ["gpu_inputs.py", str(plan.folder), "--emotion-rows", sizes[0], "--conversation-rows", sizes[1]]
    command += ["--data", str(data.resolve())] if data else []
    command += ["--tiny"] if plan.quick else []
    inputs = run_benchmark(command, budget(INPUTS_SECONDS))
    if (plan.folder / "machine.json").is_file():
        document |= plan.machine
    note("inputs", inputs)
    if document.get("device") != "cuda" and not plan.quick:
        print("no GPU was measured: torch sees none here. Try the code on a CPU with --quick")
        return 1
    for part in PARTS:
        if options.only and part.name not in options.only:
            continue
        try:
            command = part.command(plan)
        except (Skipped, OSError) as error:
            note(part.name, {"status": "skipped", "seconds": 0.0, "reason": str(error)})
            continue
        figures = plan.folder / f"{part.name}-figures.json"
        result = run_benchmark([*command, "--json", str(figures)], budget(part.seconds))
        if figures.is_file():
            result["figures"] = read(figures)
        note(part.name, result)
    print_table(document, options.output)
    return exit_code(document)


def run_benchmark(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run a script of this folder for at most so long; it and all that it started have ended afterwards."""
    began = time.monotonic()
    environment = dict(os.environ)
    paths = [str(REPOSITORY), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
            status = "failed" if code else "ok"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            end_group(process)
        output.seek(0)
        said = output.read()[-ERROR_CHARACTERS:]
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    if status == "timed out":
        result["reason"] = f"over its {seconds:.0f} s"
    elif status == "failed":
        result["reason"] = last_line(said)
    if status != "ok":
        result["output"] = said
    return result


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")


# --- the document -----------------------------------------------------------------------------------------


def judged(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each aim with what was measured; none for quick sizes."""
    if document["quick"]:
        return []
    found = []
    for aim in AIMS:
        figures = document["parts"].get(aim.part, {}).get("figures")
        try:
            value = None if figures is None else aim.measured(figures)
        except (LookupError, ValueError):  # a part that timed out before its first figure
            value = None
        sign = "≥" if aim.is_lower_bound else "≤"
        found.append(
            {
                "part": aim.part,
                "aim": f"{aim.text} {sign} {aim.bound:g}",
                "measured": value,
                "met": aim.is_met(value),
            }
        )
    return found


def exit_code(document: Mapping[str, Any]) -> int:
    """1 when an aim was missed; of quick sizes, when a part failed."""
    if document["quick"]:
        return int(any(part["status"] in ("failed", "timed out") for part in document["parts"].values()))
    return int(not all(aim["met"] for aim in document["aims"]))


def print_table(document: Mapping[str, Any], path: Path) -> None:
    """The figures of each part, the aims, and the headline as the last line."""
    for name, part in document["parts"].items():
        print(f"\n{name}: {part['status']}, {part['seconds']} s {part.get('reason', '')}")
        for line in described(part.get("figures", {})):
            print(f"  {line}")
    if document["aims"]:
        print()
    for aim in document["aims"]:
        value = "not measured" if aim["measured"] is None else f"{aim['measured']:g}"
        print(f"{'met   ' if aim['met'] else 'MISSED'}  {aim['aim']}: {value}")
    print(f"\n{headline(document)}: {path}")


def described(figures: Figures) -> list[str]:
    """The figures of a part in lines."""
    if "ratios" in figures:
        return [
            *(
                f"{name}: {result['rate']:.0f} {figures['unit']}"
                + (f", MFU {result['mfu']:.1%}" if result["mfu"] is not None else "")
                + f", {result['peak_gb']:.2f} GB"
                for name, results in figures["results"].items()
                for result in results
            ),
            *(f"{pair}: {ratio:.2f} times" for pair, ratio in figures["ratios"].items()),
            *(f"{name} failed: {last_line(text)}" for name, text in figures["failures"].items()),
        ]
    if "gauntlet" in figures:
        return [
            f"{run['accuracies'][-1]:.4f} after {len(run['accuracies'])} epochs, "
            f"{run['parameters']:,} parameters"
            + (f", {run['seconds']:.1f} s to the target" if run["seconds"] is not None else "")
            for run in figures["gauntlet"]
            if run["accuracies"]
        ]
    if "identical" in figures:
        same = "the same bits" if figures["identical"] else "other bits"
        return [f"killed after step {figures['killed_after_step']} of {figures['steps']}: {same}"]
    return [
        f"{name}, {batch}: {speed['milliseconds']:.2f} ms, {speed['speedup']:.2f} times"
        for name, batches in figures.items()
        for batch, speed in batches.items()
    ]


def headline(document: Mapping[str, Any]) -> str:
    where = document.get("name", "an unknown machine")
    parts = document["parts"].values()
    if document["quick"]:
        counts = {status: sum(part["status"] == status for part in parts) for status in ("ok", "skipped")}
        skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        return (
            f"{counts['ok']} of {len(parts)} parts ran{skipped} on {document.get('device')} ({where}) "
            f"in {document['seconds']:.0f} s, no aim judged"
        )
    met = sum(aim["met"] for aim in document["aims"])
    return f"{met} of {len(document['aims'])} aims met on {where} in {document['seconds']:.0f} s"


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    main()
