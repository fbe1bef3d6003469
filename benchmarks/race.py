"""A race of trainers: they take turns, each in a process of its own; medians, and ratios run by run."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}

Result = dict[str, Any]
"""`rate` (of the race's unit), `peak_gb`, `final_loss`, and `mfu`, which is None without a GPU."""


def race(
    description: str,
    ours: Sequence[str],
    others: Sequence[str],
    unit: str,
    steps: int,
    work: Callable[[str, argparse.Namespace, Path], Result],
) -> None:
    """Parse the command line and hold the race; `work` is what a contestant does in its process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--only", action="append", choices=(*ours, *others), help="may be repeated")
    parser.add_argument("--worker", nargs=2, metavar=("CONTESTANT", "SPLITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        contestant, splits = options.worker
        print(json.dumps(work(contestant, options, Path(splits))))
        return
    contestants = options.only or (*ours, *others)
    results: dict[str, list[Result]] = {contestant: [] for contestant in contestants}
    with tempfile.TemporaryDirectory() as folder:
        splits = _validated_splits(options, Path(folder))
        for run in range(options.runs):
            for contestant in contestants:
                found = _in_own_process(contestant, splits)
                results[contestant].append(found)
                print(f"run {run + 1}: {contestant:40} {found['rate']:9.1f} {unit}", flush=True)
    _print_table(results, ours, unit)


def peak_flops() -> float:
    """FLOP/s of this GPU's bf16 matrix products, without sparsity."""
    import torch

    name = torch.cuda.get_device_name()
    return next(flops for kind, flops in PEAK_BF16_FLOPS.items() if kind in name)


def _validated_splits(options: argparse.Namespace, folder: Path) -> Path:
    from components.validate_data.run import run as validate_data
    from manifests.loading import load_manifest

    manifest = load_manifest(options.manifest, options.overrides)
    names = ("splits", "checks.json", "report.html")
    validate_data(manifest.dataset, manifest.seed, *(folder / name for name in names))
    return folder / "splits"


def _in_own_process(contestant: str, splits: Path) -> Result:
    command = [sys.executable, *sys.argv, "--worker", contestant, str(splits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contestant}: {done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _print_table(results: dict[str, list[Result]], ours: Sequence[str], unit: str) -> None:
    def median(contestant: str, key: str) -> float:
        return statistics.median(run[key] for run in results[contestant])

    runs = len(next(iter(results.values())))
    print(f"\n{f'median of {runs}':40} {unit:>10}  peak GB  final loss    MFU")
    for contestant, found in results.items():
        mfu = f"{median(contestant, 'mfu'):6.1%}" if found[0]["mfu"] is not None else "     –"
        print(
            f"{contestant:40} {median(contestant, 'rate'):10.1f} "
            f"{median(contestant, 'peak_gb'):8.2f} {median(contestant, 'final_loss'):11.4f} {mfu}"
        )
    own = [name for name in results if name in ours]
    for other in [name for name in results if name not in ours] if own else []:
        best = max(own, key=lambda name: median(name, "rate"))
        pairs = zip(results[best], results[other], strict=True)
        ratio = statistics.median(a["rate"] / b["rate"] for a, b in pairs)
        print(f"{best} over {other}: {ratio:.2f}×")
