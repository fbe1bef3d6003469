"""Train alone, without a pipeline: `python -m gauntlet.trainer --manifest … --splits …`.

On Vertex AI the service's variables set the outputs: `AIP_MODEL_DIR` (the checkpoint), `AIP_CHECKPOINT_DIR`
(training states, from which an interrupted training resumes) and `AIP_TENSORBOARD_LOG_DIR` (scalars). See
https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
As a trial of a Vertex AI hyperparameter tuning job it takes the trial's values as flags, `--learning_rate=…`,
and reports each epoch's score: see `trainer/tracking.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest, searchable_keys
from gauntlet.manifests.training import trained_here

HISTORY_FILE = "history.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one training; returns the exit code."""
    program = "python -m gauntlet.trainer"
    parser = argparse.ArgumentParser(prog=program, description="Train one manifest's model alone.")
    parser.add_argument("--manifest", required=True, help="YAML or JSON manifest, or the JSON itself")
    splits = "folder that the step validate-data wrote"
    parser.add_argument("--splits", metavar="URI", required=True, help=splits)
    parser.add_argument("--output", help="folder for the checkpoint; default AIP_MODEL_DIR")
    parser.add_argument(
        "--resume-dir",
        metavar="URI",
        default=os.environ.get("AIP_CHECKPOINT_DIR", ""),
        help="folder for training states, from which the same command resumes; default AIP_CHECKPOINT_DIR",
    )
    parser.add_argument("--checkpoints", help=argparse.SUPPRESS)
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        default="",
        help="where metrics go, such as sqlite:////path/gauntlet.db or vertex://my-project/europe-west4",
    )
    processes = "on this machine; default: one per device that the manifest asks for"
    parser.add_argument("--processes", type=int, help=processes)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    values = parser.add_argument_group("values of the section training, as Vertex AI passes a trial's")
    for key in searchable_keys():
        values.add_argument(f"--{key}", metavar="VALUE")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except GauntletError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.checkpoints is not None:
        raise UsageError("--checkpoints: this option was renamed to --resume-dir. Use that name.")
    from gauntlet.trainer.process import settle_process

    settle_process()

    from gauntlet.backends.storage import delete, join, upload
    from gauntlet.trainer.launch import launch
    from gauntlet.trainer.run import TrainingRun
    from gauntlet.trainer.saved_model import STUDENT_FOLDER, TRAINING_FILE

    manifest = _manifest(options)
    output = options.output or os.environ.get("AIP_MODEL_DIR")
    if not output:
        missing = "--output: found nothing, and AIP_MODEL_DIR is not set"
        raise UsageError(f"{missing}. Name a folder for the checkpoint.")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        history = launch(
            TrainingRun(
                section=trained_here(manifest.training),
                name=manifest.name,
                task=manifest.task,
                seed=manifest.seed,
                splits=_splits(options.splits, Path(scratch)),
                checkpoint=checkpoint,
                tracking_uri=options.tracking_uri,
                resume_dir=options.resume_dir,
            ),
            options.processes,
        )
        if history is None:  # the first rank's machine writes the model
            return
        (checkpoint / HISTORY_FILE).write_text(json.dumps(history, indent=2), encoding="utf-8")
        delete(join(output, STUDENT_FOLDER), first=TRAINING_FILE)  # an older training's
        upload(checkpoint, output, last=TRAINING_FILE)
    print(f"checkpoint of epoch {history['best_epoch']}: {output}")


def _manifest(options: argparse.Namespace) -> Manifest:
    """The manifest with its overrides, then the values of a trial."""
    values = {key: getattr(options, key) for key in searchable_keys()}
    overrides = [f"training.{key}={value}" for key, value in values.items() if value is not None]
    overrides = [*options.overrides, *overrides]
    if not options.manifest.lstrip().startswith("{"):
        return load_manifest(options.manifest, overrides)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "manifest.json"
        file.write_text(options.manifest, encoding="utf-8")
        return load_manifest(file, overrides)


def _splits(uri: str, scratch: Path) -> Path:
    """The folder itself, or a copy of one in a bucket."""
    from gauntlet.backends.storage import download, local_path

    folder = local_path(uri)
    if folder is None:
        folder = scratch / "splits"
        folder.mkdir()
        download(uri, folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
