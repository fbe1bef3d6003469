"""Whether training that is killed in the middle of an epoch ends in the same bits as one that is not.

    python benchmarks/exact_resume.py manifests/emotion_sample.yaml

The manifest's training runs three times, each in a process of its own: one is sent SIGKILL halfway through
its last epoch, one resumes from the state that was written before, and one is left alone. Compared are
the sha256 of the final weights and the training loss of each step. Exit code 1: they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATES_IN_HALF_AN_EPOCH = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
    parser.add_argument(
        "--keep", type=Path, metavar="RUN", help="keep splits and checkpoint, as a run has them"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = resume(options.manifest, options.overrides, options.keep or Path(scratch))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(
        f"killed after step {found['killed_after_step']} of {found['steps']}; "
        f"{'the same bits' if found['identical'] else 'other bits'}: "
        f"resumed {found['resumed_sha256'][:12]}, undisturbed {found['undisturbed_sha256'][:12]}"
    )
    raise SystemExit(0 if found["identical"] else 1)


def resume(manifest_file: str, overrides: Sequence[str], run: Path) -> dict[str, Any]:
    """Train in `run` in three ways and compare the first and the last."""
    from gauntlet.components.validate_data.run import run as validate_data
    from gauntlet.manifests.loading import load_manifest
    from gauntlet.manifests.training import trained_here
    from gauntlet.trainer.task import load_task

    manifest = load_manifest(manifest_file, overrides)
    data, trained = run / "validate-data", run / "train-model"
    data.mkdir(parents=True)
    trained.mkdir()
    splits = data / "splits"
    validate_data(manifest.task, manifest.dataset, splits, data / "checks.json", data / "report.html")
    section = trained_here(manifest.training)
    rows = len(load_task(manifest.task, section, splits).train_lengths)
    per_epoch = math.ceil(rows / section.batch_size)
    steps = per_epoch * section.epochs
    killed_after = per_epoch * (section.epochs - 1) + per_epoch // 2 + 1
    every = max(1, per_epoch // 2 // STATES_IN_HALF_AN_EPOCH)
    common = ["--manifest", manifest_file, "--splits", str(splits)]
    common += [part for key in overrides for part in ("--set", key)]
    common += ["--set", f"training.resume.every_steps={every}"]

    def attempt(output: Path, states: str, kill_after: int) -> dict[str, Any]:
        places = ["--output", str(output), "--resume-dir", str(trained / states)]
        return {"arguments": common + places, "fault": "kill", "at": kill_after, "ranks": 1}

    resumed, undisturbed = trained / "resumed", trained / "checkpoint"
    # The second is killed if it takes more steps than are left after the last state: if it starts anew.
    left = steps - killed_after + every
    killed, *finished = attempts(
        [
            attempt(resumed, "states", killed_after),
            attempt(resumed, "states", left + 1),
            attempt(undisturbed, "states-of-the-undisturbed", steps + 1),
        ]
    )
    if killed["code"] != -signal.SIGKILL:
        raise SystemExit(f"the training to be killed ended by itself: {killed}")
    for end in finished:
        if end["code"]:
            raise SystemExit(f"a training failed with code {end['code']}: {end['errors']}")
    shas = [
        hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for folder in (resumed, undisturbed)
    ]
    losses = [
        [(step["step"], step["loss"]) for step in json.loads((folder / "history.json").read_text())["steps"]]
        for folder in (resumed, undisturbed)
    ]
    return {
        "identical": shas[0] == shas[1] and losses[0] == losses[1],
        "killed_after_step": killed_after,
        "steps": steps,
        "resumed_sha256": shas[0],
        "undisturbed_sha256": shas[1],
    }


def attempts(wanted: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make attempts one after the other, as `tests/trainer/interrupted.py` describes them."""
    lines = "".join(json.dumps(attempt) + "\n" for attempt in wanted)
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainer.interrupted"],
        input=lines,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
