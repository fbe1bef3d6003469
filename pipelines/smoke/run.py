"""One smoke run after another, each in a home of its own, and what came of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from gauntlet.manifests.errors import Fault, GauntletError, ManifestError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.run import FinishedRun, run_locally
from gauntlet.pipelines.smoke.settings import overrides, tiny_settings
from gauntlet.pipelines.terminal import LiteralConsole, borderless, plain

Result = Literal["promote", "reject", "failed", "skipped"]
STYLES: dict[Result, str] = {"promote": "green", "reject": "green", "failed": "bold red", "skipped": "yellow"}
NOT_HERE = "Vertex AI tunes and serves its model, for money; tests/end_to_end/test_managed_model.py runs it"
SMOKE_FOLDER = "smoke"


@dataclass(frozen=True)
class Smoke:
    """A system that was tried: `result` is what its gate decided, `detail` what it failed for."""

    system: str
    rows: str
    result: Result
    seconds: float
    detail: str = ""
    log: str = ""


def smoke_all(paths: Sequence[Path], home: Home, console: LiteralConsole) -> tuple[Smoke, ...]:
    """Run every manifest with tiny settings; one that fails does not keep the others from running.

    Raises:
        ManifestError: Some are not valid; nothing was run.
    """
    faults: list[Fault] = []
    manifests: list[tuple[Path, Manifest]] = []
    for path in paths:
        try:
            manifests.append((path, load_manifest(path)))
        except ManifestError as error:
            faults += error.faults
    if faults:
        raise ManifestError(faults)
    return tuple(smoke(path, manifest, home, console) for path, manifest in manifests)


def smoke(path: Path, manifest: Manifest, home: Home, console: LiteralConsole) -> Smoke:
    """Run one system to its gate's decision."""
    if not manifest.kind.is_converted:
        return Smoke(manifest.name, "", "skipped", 0.0, NOT_HERE)
    began = time.monotonic()
    folder = home.folder / SMOKE_FOLDER / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = ""
    try:
        settings, rows = tiny_settings(manifest, folder)
        tiny = load_manifest(path, overrides(settings))
        own = Home(folder)  # its models go nowhere else: a smoke run is no candidate for anybody's champion
        finished = run_locally(tiny, own, own.store_uri, own.store_uri, console)
    except GauntletError as error:
        return Smoke(manifest.name, rows, "failed", time.monotonic() - began, str(error))
    return _judged(manifest.name, rows, finished, time.monotonic() - began)


def _judged(system: str, rows: str, finished: FinishedRun, seconds: float) -> Smoke:
    """A decision counts whichever it is; what fails before it, or in registering, does not."""
    verdict, failed = finished.collected.verdict, finished.collected.failed_step
    if failed is None and verdict is not None:
        result: Result = "promote" if verdict.decision == "promote" else "reject"
        return Smoke(system, rows, result, seconds)
    detail = f"{finished.outcome.headline}: {finished.outcome.detail}"
    return Smoke(system, rows, "failed", seconds, detail, str(finished.folder / "run.log"))


def smoke_table(smokes: Sequence[Smoke]) -> Table:
    """A row for each system."""
    table = borderless("system", "data", "gate", "seconds", "")
    for each in smokes:
        shown = Text(each.result, STYLES[each.result])
        words = " ".join(part for part in (each.detail, each.log) if part)
        table.add_row(each.system, each.rows, shown, f"{each.seconds:.0f}", plain(words))
    return table
