"""Feed every target with damaged inputs: `python -m tests.fuzz.run --inputs 10000`, which `make fuzz` does.

Each input follows from the seed, the target's name and its number alone, so `python -m tests.fuzz.run
--target texts --first 117 --inputs 1` feeds one of them again. A target runs in a process of its own, for
some inputs end the process; it goes on after that one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.targets import TARGETS, Target

CPU_SECONDS = 10.0  # of this process, so that a busy machine makes no fault
WALL_SECONDS = 120.0  # for an input that waits
MOST_MB = 1024  # more in memory than before
SEED = 16


class Hang(BaseException):
    """An input takes too long."""


def attempt(target: Target, number: int, folder: Path, prepared: Any, seed: int = SEED) -> str | None:
    """Feed one input; what is wrong, if anything."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise Hang(f"over {CPU_SECONDS:g} s of CPU, or {WALL_SECONDS:g} s in all")

    before = _peak_mb()
    handlers = {kind: signal.signal(kind, stop) for kind in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    others, _ = signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # pytest has set one, too
    try:
        target.feed(random.Random(f"{seed} {target.name} {number}"), folder, prepared)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        signal.setitimer(signal.ITIMER_REAL, others)
    grown = _peak_mb() - before
    return f"{grown:.0f} MB more in memory" if grown > MOST_MB else None


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def feed_all(target: Target, first: int, inputs: int, seed: int, progress: Path) -> None:
    """Feed inputs, and write their numbers and faults to the file `progress`, a line each."""
    with tempfile.TemporaryDirectory() as scratch, progress.open("a") as log:
        prepared = target.prepare(Path(scratch))
        for number in range(first, first + inputs):
            folder = Path(scratch, f"input-{number}")
            folder.mkdir()
            print(json.dumps({"number": number}), file=log, flush=True)
            fault = attempt(target, number, folder, prepared, seed)
            if fault:
                print(json.dumps({"number": number, "fault": fault}), file=log, flush=True)
            shutil.rmtree(folder, ignore_errors=True)


def run_target(target: Target, first: int, inputs: int, seed: int) -> list[tuple[int, str]]:
    """The faults of a target, by the input's number."""
    faults: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        progress, end = Path(folder, "progress"), first + inputs
        while first < end:
            progress.unlink(missing_ok=True)
            options = ["--first", str(first), "--inputs", str(end - first), "--seed", str(seed)]
            command = [
                sys.executable,
                "-m",
                "tests.fuzz.run",
                "--child",
                str(progress),
                "--target",
                target.name,
            ]
            # The home is where commands look for runs; nothing is to be found there, or fetched.
            nowhere = {"GAUNTLET_HOME": folder, "HF_ENDPOINT": "http://127.0.0.1:1", "TMPDIR": folder}
            done = subprocess.run(
                [*command, *options], env=os.environ | nowhere, capture_output=True, text=True, check=False
            )
            lines = (
                [json.loads(line) for line in progress.read_text().splitlines()] if progress.exists() else []
            )
            faults += [(line["number"], line["fault"]) for line in lines if "fault" in line]
            if done.returncode == 0:
                break
            last = lines[-1]["number"] if lines else first
            faults.append((last, f"the process ended with {done.returncode}:\n{done.stderr[-2000:]}"))
            first = last + 1
    return faults


def main() -> int:
    """Returns 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, or of the one target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--target", choices=[target.name for target in TARGETS])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.target in (None, target.name)]
    if options.child:
        feed_all(chosen[0], options.first, options.inputs, options.seed, options.child)
        return 0
    found = 0
    for target in chosen:
        inputs = -(-options.inputs // len(chosen))
        faults = run_target(target, options.first, inputs, options.seed)
        found += len(faults)
        print(f"{target.name:14} {inputs:6} inputs  {len(faults):4} faults", flush=True)
        kinds = Counter(fault.strip().splitlines()[-1][:200] for _, fault in faults)
        for kind, count in kinds.most_common():
            number, fault = next(one for one in faults if one[1].strip().splitlines()[-1][:200] == kind)
            print(
                f"  {count} × {kind}\n  first: --target {target.name} --first {number} --inputs 1\n{fault}",
                flush=True,
            )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
