"""Train alone, without a pipeline: `python -m trainer --manifest … --splits …`.

On Vertex AI the outputs go where the service says: `AIP_MODEL_DIR` (the checkpoint), `AIP_CHECKPOINT_DIR`
(the training states, from which an interrupted training goes on) and `AIP_TENSORBOARD_LOG_DIR` (scalars). See
https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from manifests.errors import GauntletError, UsageError
from manifests.loading import load_manifest

HISTORY_FILE = "history.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one training; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer", description="Train one manifest's model alone."
    )
    parser.add_argument("--manifest", required=True, help="YAML or JSON manifest")
    parser.add_argument("--splits", required=True, help="folder that the step validate-data wrote")
    parser.add_argument("--output", help="folder for the checkpoint; default AIP_MODEL_DIR")
    parser.add_argument(
        "--checkpoints",
        metavar="URI",
        default=os.environ.get("AIP_CHECKPOINT_DIR", ""),
        help="folder for training states, from which the same command goes on; default AIP_CHECKPOINT_DIR",
    )
    parser.add_argument(
        "--tracking-uri", default="", help="where metrics go, such as sqlite:////path/gauntlet.db"
    )
    parser.add_argument(
        "--processes", type=int, help="on this machine; default: one per device that the manifest asks for"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except GauntletError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: argparse.Namespace) -> None:
    from trainer.threads import wait_briefly

    wait_briefly()

    from backends.storage import upload
    from trainer.launch import launch
    from trainer.run import TrainingRun

    manifest = load_manifest(options.manifest, options.overrides)
    output = options.output or os.environ.get("AIP_MODEL_DIR")
    if not output:
        raise UsageError(
            "--output: found nothing, and AIP_MODEL_DIR is not set. Name a folder for the checkpoint."
        )
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        history = launch(
            TrainingRun(
                section=manifest.training,
                name=manifest.name,
                task=manifest.task,
                seed=manifest.seed,
                splits=Path(options.splits),
                checkpoint=checkpoint,
                tracking_uri=options.tracking_uri,
                checkpoint_uri=options.checkpoints,
            ),
            options.processes,
        )
        if history is None:  # the first rank's machine hands the model on
            return
        (checkpoint / HISTORY_FILE).write_text(json.dumps(history, indent=2), encoding="utf-8")
        upload(checkpoint, output)
    print(f"checkpoint of epoch {history['best_epoch']}: {output}")


if __name__ == "__main__":
    sys.exit(main())
