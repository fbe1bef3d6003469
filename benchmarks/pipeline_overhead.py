"""What the pipeline costs over its own functions: `gauntlet run` against the same steps in one process.

    python benchmarks/pipeline_overhead.py manifests/emotion_sample.yaml --runs 3

Both are timed as whole processes, in turn, each in a fresh home. The pipeline compiles the DAG, starts a
process per step, keeps logs and writes the report; the reference calls each component's function with the
same arguments and writes the same artifacts. Printed: seconds of both, the ratio of each pair, its median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ACCEPTED_EXIT_CODES = (0, 3)  # promoted, or rejected by a gate: both ran every step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument(
        "--in-process", metavar="FOLDER", help="run the steps here instead of timing anything"
    )
    options = parser.parse_args()
    if options.in_process:
        run_in_process(options.manifest, options.overrides, Path(options.in_process))
        return
    settings = [part for override in options.overrides for part in ("--set", override)]
    ratios = []
    for number in range(1, options.runs + 1):
        pipeline = timed([sys.executable, "-m", "gauntlet.pipelines.cli", "run", options.manifest, *settings])
        single = timed([sys.executable, __file__, options.manifest, *settings, "--in-process"], folder=True)
        ratios.append(pipeline / single)
        print(
            f"run {number}: pipeline {pipeline:.1f} s, one process {single:.1f} s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio over {len(ratios)} runs: {statistics.median(ratios):.3f}")


def timed(command: list[str], folder: bool = False) -> float:
    """Wall seconds of a command in a home of its own; with `folder` its path is the last argument."""
    with tempfile.TemporaryDirectory() as home:
        started = time.monotonic()
        done = subprocess.run(
            [*command, *([home] if folder else [])],
            env=os.environ | {"GAUNTLET_HOME": home},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        seconds = time.monotonic() - started
    if done.returncode not in ACCEPTED_EXIT_CODES:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}")
    return seconds


def run_in_process(manifest_path: str, overrides: list[str], home: Path) -> None:
    """Every step of the training DAG by its component's own function, in order, in this process."""
    from kfp import dsl

    from gauntlet.manifests.loading import load_manifest
    from gauntlet.pipelines import training
    from gauntlet.pipelines.home import Home

    manifest = load_manifest(manifest_path, overrides)
    given = training.parameters(manifest)
    store = Home(home).store_uri

    def artifact(kind: Any, step: str, name: str) -> Any:
        (home / "job" / step).mkdir(parents=True, exist_ok=True)
        return kind(name=name, uri=str(home / "job" / step / name))

    splits = artifact(dsl.Dataset, "validate-data", "splits")
    fingerprint = training.fingerprint_data.python_func(
        dataset=given["dataset"],
        task=given["task"],
        seed=given["seed"],
        sources=artifact(dsl.Artifact, "fingerprint-data", "sources"),
    )
    training.validate_data.python_func(
        dataset=given["dataset"],
        task=given["task"],
        seed=given["seed"],
        data_fingerprint=fingerprint,
        splits=splits,
        checks=artifact(dsl.Artifact, "validate-data", "checks"),
        report=artifact(dsl.HTML, "validate-data", "report"),
    )
    checkpoint = artifact(dsl.Model, "train-model", "checkpoint")
    history = artifact(dsl.Artifact, "train-model", "history")
    training.train_model.python_func(
        training=given["training"],
        name=given["name"],
        task=given["task"],
        seed=given["seed"],
        tracking_uri=store,
        data_fingerprint=fingerprint,
        splits=splits,
        checkpoint=checkpoint,
        history=history,
        curves=artifact(dsl.HTML, "train-model", "curves"),
        metrics=artifact(dsl.Metrics, "train-model", "metrics"),
    )
    bundle = artifact(dsl.Model, "convert-to-onnx", "bundle")
    candidates = artifact(dsl.Artifact, "convert-to-onnx", "candidates")
    training.convert_to_onnx.python_func(
        conversion=given["conversion"],
        name=given["name"],
        seed=given["seed"],
        manifest_sha256=given["manifest_sha256"],
        data_fingerprint=fingerprint,
        checkpoint=checkpoint,
        splits=splits,
        bundle=bundle,
        candidates=candidates,
        metrics=artifact(dsl.Metrics, "convert-to-onnx", "metrics"),
    )
    scores = artifact(dsl.Artifact, "evaluate-model", "scores")
    training.evaluate_model.python_func(
        evaluation=given["evaluation"],
        name=given["name"],
        seed=given["seed"],
        registry_uri=store,
        bundle=bundle,
        splits=splits,
        scores=scores,
        predictions=artifact(dsl.Dataset, "evaluate-model", "predictions"),
        metrics=artifact(dsl.Metrics, "evaluate-model", "metrics"),
        confusion=artifact(dsl.ClassificationMetrics, "evaluate-model", "confusion"),
        report=artifact(dsl.HTML, "evaluate-model", "report"),
    )
    verdict = artifact(dsl.Artifact, "gate-model", "verdict")
    decision = training.gate_model.python_func(
        gates=given["gates"],
        scores=scores,
        candidates=candidates,
        history=history,
        bundle=bundle,
        verdict=verdict,
        table=artifact(dsl.Markdown, "gate-model", "table"),
    )
    if decision == "promote":
        training.register_model.python_func(
            registration=given["registration"],
            name=given["name"],
            registry_uri=store,
            manifest_sha256=given["manifest_sha256"],
            run_id="benchmark",
            bundle=bundle,
            scores=scores,
            verdict=verdict,
            version=artifact(dsl.Artifact, "register-model", "version"),
        )
    training.write_report.python_func(
        name=given["name"],
        manifest_sha256=given["manifest_sha256"],
        run_id="benchmark",
        pipeline_root=str(home),
        job="job",
        status=SimpleNamespace(state="SUCCEEDED", error_message=""),
        report=artifact(dsl.HTML, "write-report", "report"),
    )


if __name__ == "__main__":
    main()
