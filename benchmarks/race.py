"""A race of trainers: they take turns, each in a process of its own; medians, and ratios run by run."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}

ERROR_CHARACTERS = 3000  # of a failed contestant's standard error

Result = dict[str, Any]
"""`rate` (of the race's unit), `peak_gb`, `final_loss`, and `mfu`, which is None without a GPU."""


class ContestantError(Exception):
    """A contestant's process failed; the end of what it printed."""


def race(
    description: str,
    ours: Sequence[str],
    others: Sequence[str],
    unit: str,
    steps: int,
    work: Callable[[str, argparse.Namespace, Path], Result],
) -> None:
    """Parse the command line and hold the race; `work` is what a contestant does in its process.

    A contestant that fails is reported and takes no further part; the exit code is then 1.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--only", action="append", choices=(*ours, *others), help="may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as they come")
    parser.add_argument("--worker", nargs=2, metavar=("CONTESTANT", "SPLITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        contestant, splits = options.worker
        print(json.dumps(work(contestant, options, Path(splits))))
        return
    contestants = options.only or (*ours, *others)
    results: dict[str, list[Result]] = {contestant: [] for contestant in contestants}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        splits = _validated_splits(options, Path(folder))
        for run in range(options.runs):
            for contestant in [name for name in contestants if name not in failures]:
                try:
                    found = _in_own_process(contestant, splits)
                except ContestantError as error:
                    failures[contestant] = str(error)
                    print(f"run {run + 1}: {contestant:40} failed: {error}", flush=True)
                else:
                    results[contestant].append(found)
                    print(f"run {run + 1}: {contestant:40} {found['rate']:9.1f} {unit}", flush=True)
                if options.json:
                    _write_json(options.json, results, failures, ours, unit)
    _print_table({name: found for name, found in results.items() if found}, ours, unit)
    if failures:
        raise SystemExit(1)


def peak_flops() -> float:
    """FLOP/s of this GPU's bf16 matrix products, without sparsity."""
    import torch

    name = torch.cuda.get_device_name()
    return next(flops for kind, flops in PEAK_BF16_FLOPS.items() if kind in name)


def _validated_splits(options: argparse.Namespace, folder: Path) -> Path:
    from gauntlet.components.validate_data.run import run as validate_data
    from gauntlet.manifests.loading import load_manifest

    manifest = load_manifest(options.manifest, options.overrides)
    names = ("splits", "checks.json", "report.html")
    validate_data(manifest.task, manifest.dataset, *(folder / name for name in names))
    return folder / "splits"


def _in_own_process(contestant: str, splits: Path) -> Result:
    command = [sys.executable, *sys.argv, "--worker", contestant, str(splits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContestantError(done.stderr.strip()[-ERROR_CHARACTERS:])
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def median_of(found: Sequence[Result], key: str) -> float:
    """The median of a figure over a contestant's runs."""
    return statistics.median(run[key] for run in found)


def ratios(results: Mapping[str, Sequence[Result]], ours: Sequence[str]) -> dict[str, float]:
    """How many times as fast our fastest is as each other contestant: the median of the runs' ratios."""
    own = [name for name in results if name in ours and results[name]]
    if not own:
        return {}
    best = max(own, key=lambda name: median_of(results[name], "rate"))
    return {
        f"{best} over {other}": statistics.median(
            a["rate"] / b["rate"] for a, b in zip(results[best], found, strict=False)
        )
        for other, found in results.items()
        if other not in ours and found
    }


def _write_json(
    path: Path, results: dict[str, list[Result]], failures: dict[str, str], ours: Sequence[str], unit: str
) -> None:
    document = {
        "unit": unit,
        "results": results,
        "ratios": ratios(results, ours),
        "failures": failures,
    }
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def _print_table(results: dict[str, list[Result]], ours: Sequence[str], unit: str) -> None:
    runs = max((len(found) for found in results.values()), default=0)
    print(f"\n{f'median of {runs}':40} {unit:>10}  peak GB  final loss    MFU")
    for contestant, found in results.items():
        mfu = f"{median_of(found, 'mfu'):6.1%}" if found[0]["mfu"] is not None else "     –"
        print(
            f"{contestant:40} {median_of(found, 'rate'):10.1f} "
            f"{median_of(found, 'peak_gb'):8.2f} {median_of(found, 'final_loss'):11.4f} {mfu}"
        )
    for pair, ratio in ratios(results, ours).items():
        print(f"{pair}: {ratio:.2f}×")
