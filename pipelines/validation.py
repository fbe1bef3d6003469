"""`gauntlet validate`: the step validate-data on this machine, without a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gauntlet.components.validate_data.run import run
from gauntlet.components.write_report.next_steps import refusal_advice
from gauntlet.contracts.data import REJECTED_FILE, Checks
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.summary import print_steps
from gauntlet.pipelines.terminal import LiteralConsole

CHECKS_FILE = "checks.json"
PAGE_FILE = "report.html"


def validate_data(manifest: Manifest, folder: Path, command: str, console: LiteralConsole) -> None:
    """Write `CHECKS_FILE`, `PAGE_FILE` and `REJECTED_FILE` into a folder, and show the checks.

    The splits are made too, because some faults are found only then, and deleted.

    Args:
        manifest: Its data are read.
        folder: The folder for the files; those of an earlier call are replaced.
        command: The command that the advice repeats.
        console: Where the advice is printed.

    Raises:
        DataError: The data cannot be read, or a check failed.
        UsageError: The manifest names data in a form that cannot be read.
        GauntletError: The store with the data is unavailable.
    """
    files = [folder / name for name in (CHECKS_FILE, PAGE_FILE, REJECTED_FILE)]
    checks, page, rejected = files
    for file in files:
        file.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="gauntlet-validate-") as splits:
            run(manifest.task, manifest.dataset, Path(splits), checks, page, rejected, show_checks=True)
    except DataError:
        if checks.is_file() and not (found := Checks.read(checks)).passed:
            print_steps(refusal_advice(found, command, str(rejected) if found.rejected else None), console)
        raise
    finally:
        for name, file in zip(("checks", "report", "rejected"), files, strict=True):
            if file.is_file():
                console.say(f"{name + ':':10}{file!s}")
