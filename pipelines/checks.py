"""What every command that runs a manifest does first, and what a run on this machine is as a command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from gauntlet.backends.prices import over_budget, tuning_rate
from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.home import RunRecord, gauntlet_home
from gauntlet.pipelines.terminal import console, errors
from gauntlet.pipelines.text_lengths import require_text_length
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining

if TYPE_CHECKING:
    from gauntlet.pipelines.local.run import FinishedRun


def command_line(verb: str, path: Path, overrides: Sequence[str] | None, options: Sequence[str] = ()) -> str:
    """A command on a manifest, as a shell takes it."""
    settings = [part for override in overrides or () for part in ("--set", override)]
    return shlex.join(["gauntlet", verb, str(path), *options, *settings])


def run_here(
    manifest: Manifest,
    registry_uri: str | None = None,
    tracking_uri: str | None = None,
    cache: bool = True,
    source: Path | None = None,
    judged: RunRecord | None = None,
    command: str | None = None,
) -> None:
    """Run a manifest on this machine and exit with the run's code.

    `command` is the command that the run's advice repeats. The other arguments are those of `run_locally`;
    the URIs default to those of every run on this machine.

    Raises:
        UsageError: The manifest asks for conversion on a GPU, and this machine has none.
    """
    from gauntlet.components.write_report.collect import RUN_COMMAND_VARIABLE
    from gauntlet.pipelines.local.run import run_locally
    from gauntlet.pipelines.local.run import tracking_uri as usual_tracking_uri

    if manifest.conversion.device == "gpu" and judged is None:
        from gauntlet.components.convert_to_onnx.processor import require_device

        require_device("gpu")  # and not only when the model is trained
    home = gauntlet_home()
    registry_uri = registry_uri or home.registry_uri
    tracking_uri = tracking_uri or usual_tracking_uri(manifest, home)
    if command:
        os.environ[RUN_COMMAND_VARIABLE] = command
    try:
        _conclude(
            lambda: run_locally(
                manifest, home, registry_uri, tracking_uri, console, cache=cache, source=source, judged=judged
            )
        )
    finally:
        os.environ.pop(RUN_COMMAND_VARIABLE, None)


def resume_here(run_id: str) -> None:
    """Resume a run on this machine and exit with its code."""
    from gauntlet.pipelines.local.run import resume_locally

    _conclude(lambda: resume_locally(run_id, gauntlet_home(), console))


def _conclude(run: Callable[[], FinishedRun]) -> NoReturn:
    """Run, print how it ended, and exit with its code."""
    from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted
    from gauntlet.pipelines.summary import print_summary

    try:
        finished = run()
    except Interrupted as stopped:
        errors.print(f"interrupted: the run's processes are stopped and {stopped}", soft_wrap=True)
        raise typer.Exit(EXIT_CODE) from None
    print_summary(finished, console)
    raise typer.Exit(finished.outcome.exit_code)


def require_data(manifest: Manifest, path: Path) -> None:
    """Refuse data, or an encoder, that are missing on this machine before anything is written.

    The encoder must also read texts as long as the manifest says. validate-data checks what lies elsewhere.
    """
    require_text_length(manifest, path)
    uri, named = manifest.dataset.uri, manifest.dataset.named_files
    if "://" in uri:
        return
    files = [Path(uri) / name for name in named] if Path(uri).exists() else [Path(uri)]
    missing = [file for file in files if not file.exists()]
    if missing:
        key = "dataset.files" if Path(uri).exists() else "dataset.uri"
        action = f"Correct it, or --set {key}=…"
        raise ManifestError(
            [Fault(str(path), key, str(file), "a file or folder that exists", action) for file in missing]
        )


def require_vocabulary(manifest: Manifest, path: Path) -> None:
    """Compare the tokenizer of a pretrained model on this machine with the model's embedding.

    Raises:
        ManifestError: It has more tokens, or cannot be read.
    """
    from gauntlet.tasks.texts.vocabulary import check_local_model

    for key in ("encoder", "model"):
        name = getattr(manifest.training, key, None)
        if not isinstance(name, str):
            continue
        try:
            check_local_model(name, f"training.{key}")
        except UsageError as error:
            expected = "a model whose embedding has every token of its tokenizer"
            raise ManifestError([Fault(str(path), f"training.{key}", name, expected, str(error))]) from None


def load_affordable(path: Path, overrides: Sequence[str] | None) -> Manifest:
    """A valid manifest whose most expensive run fits its own budget.

    Raises:
        ManifestError: It is not valid, does not fit, or asks for a machine without a price.
    """
    manifest = load_manifest(path, overrides or ())
    require_affordable(manifest, str(path))
    return manifest


def require_affordable(manifest: Manifest, file: str) -> None:
    """Refuse a manifest whose most expensive run does not fit its own budget.

    Raises:
        ManifestError: It does not fit, or asks for a machine without a price.
    """
    try:
        fault = over_budget(manifest.training.resources, file)
        if isinstance(manifest.training, ManagedTraining):
            tuning_rate(manifest.training.model)  # what tuning costs is known when its rows are counted
    except UsageError as error:
        fault = without_price(file, error)
    if fault is not None:
        raise ManifestError([fault])


def without_price(file: str, error: UsageError) -> Fault:
    """The fault of a machine, or of a managed model, that the price table does not know."""
    return Fault(file, "training", "no price", "a machine, or a managed model, with a price", str(error))
