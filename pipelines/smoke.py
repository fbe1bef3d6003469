"""`gauntlet smoke`: every system end to end in minutes, with tiny settings, each in a home of its own.

A kind's `tiny` role cuts training to an epoch of a small network, and generates data where the manifest's are
not on this machine. The bounds of conversion that an almost untrained model may break are loosened here, so
that every step is reached. The gates stay as they are, and either decision is a success.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.checks import load_all
from gauntlet.pipelines.home import Home
from gauntlet.pipelines.local.run import FinishedRun, run_locally
from gauntlet.pipelines.terminal import LiteralConsole, borderless, plain

Result = Literal["promote", "reject", "failed", "skipped"]
STYLES: dict[Result, str] = {"promote": "green", "reject": "green", "failed": "bold red", "skipped": "yellow"}
NOT_HERE = (
    "a service trains and serves its model, for money; tests/end_to_end runs it against a server on loopback"
)
SMOKE_FOLDER = "smoke"
AT_HAND = ("package://", "synthetic://")
LOOSENED: Mapping[str, Any] = {
    "conversion.batch_sizes": [1],
    "conversion.max_abs_logit_difference": 0.01,
    "conversion.min_label_agreement": 0.0,
    "conversion.max_metric_drop": 1.0,
    "conversion.max_neighbour_difference": 1.0,
    "evaluation.bootstrap_resamples": 200,
}
"""What every kind's smoke run sets. See docs/how-to/smoke_test.md."""


@dataclass(frozen=True)
class Smoke:
    """A system that was run: `result` is its gate's decision, `detail` the reason of a failure."""

    system: str
    rows: str
    result: Result
    seconds: float
    detail: str = ""
    log: str = ""


def smoke_all(paths: Sequence[Path], home: Home, console: LiteralConsole) -> tuple[Smoke, ...]:
    """Run every manifest with tiny settings, whatever fails; a `ManifestError` if some are not valid."""
    manifests = load_all(paths, load_manifest)
    return tuple(smoke(path, manifest, home, console) for path, manifest in manifests)


def smoke(path: Path, manifest: Manifest, home: Home, console: LiteralConsole) -> Smoke:
    """Run one system until its gate has decided."""
    if manifest.kind.tiny is None:
        return Smoke(manifest.name, "", "skipped", 0.0, NOT_HERE)
    began = time.monotonic()
    folder = home.folder / SMOKE_FOLDER / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = ""
    try:
        settings, rows = tiny_settings(manifest, folder)
        tiny = load_manifest(path, overrides(settings))
        own = Home(folder)  # with its own registry: no smoke run may become a champion elsewhere
        finished = run_locally(tiny, own, own.store_uri, own.store_uri, console, source=path)
    except GauntletError as error:
        return Smoke(manifest.name, rows, "failed", time.monotonic() - began, str(error))
    return _judged(manifest.name, rows, finished, time.monotonic() - began)


def tiny_settings(manifest: Manifest, scratch: Path) -> tuple[dict[str, Any], str]:
    """Keys and values of a smoke run, and which rows it reads; generated data and models go to `scratch`.

    Data that are in a package or on this machine are used as they are.
    """
    uri = manifest.dataset.uri
    at_hand = uri.startswith(AT_HAND) or ("://" not in uri and Path(uri).exists())
    settings, rows = manifest.kind.function("tiny", "settings")(manifest, scratch, at_hand)
    return {**settings, **LOOSENED}, rows


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `--set` takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _judged(system: str, rows: str, finished: FinishedRun, seconds: float) -> Smoke:
    """Either decision is a success; a failure before it, or in registering, is none."""
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
