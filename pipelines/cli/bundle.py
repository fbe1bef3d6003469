"""The commands about a model bundle: inspect and verify it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from gauntlet.pipelines.cli.options import MODELS, AsJson
from gauntlet.pipelines.terminal import borderless, console, plain, print_json

if TYPE_CHECKING:
    from gauntlet.serving.bundle import TensorSpec

app = typer.Typer()
bundle = typer.Typer(help="Inspect or verify a model bundle.", no_args_is_help=True)
app.add_typer(bundle, name="bundle", rich_help_panel=MODELS)

BundleFolder = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle's folder.")]


@bundle.command()
def inspect(path: BundleFolder, as_json: AsJson = False) -> None:
    """Print what a bundle is, its inputs and outputs, its quality and speed, and what made it."""
    from gauntlet.serving.bundle import BUNDLE_FILE, PARITY_FILE, file_sha256, read_info
    from gauntlet.serving.verification import read_certificate

    info = read_info(path)
    certificate = read_certificate(path) if PARITY_FILE in info.files else {}
    certified = {key: certificate[key] for key in ("cpu_class", "portable") if key in certificate}
    sha256 = file_sha256(path / BUNDLE_FILE)
    if as_json:
        print_json([asdict(info) | {"certificate": certified, "bundle_sha256": sha256}])
        return
    rows = {
        "name": f"{info.name} ({info.task})",
        "labels": ", ".join(info.labels),
        "candidate": f"{info.candidate}, {info.precision}, opset {info.opset}",
    }
    if info.device is not None:
        rows["made for"] = "a GPU"
    if info.max_length is not None:
        rows["max_length"] = str(info.max_length)
    for kind, specs in (("input", info.inputs), ("output", info.outputs)):
        rows |= {f"{kind} {name}": tensor for name, tensor in _tensors(specs).items()}
    rows |= {name: _number(value, "{:.4g}") for name, value in info.quality.items()}
    rows |= {
        f"batch of {size}": f"{_number(latency, '{:.2f} ms')}, "
        f"{_number(info.speedup.get(size), '{:.2f} times as fast as PyTorch')}"
        for size, latency in info.latency_ms.items()
    }
    rows |= dict(info.lineage)
    rows |= {key: str(value).lower() for key, value in certified.items()}
    rows |= {
        name: f"{(path / name).stat().st_size:,} bytes, sha256 {of_file[:12]}…"
        for name, of_file in info.files.items()
    }
    rows[BUNDLE_FILE] = f"sha256 {sha256}"
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(key, plain(value))
    console.print(table)


@bundle.command()
def verify(path: BundleFolder, as_json: AsJson = False) -> None:
    """Check a bundle's hashes, its certificate, its tensors and a prediction; exit 1 when one fails."""
    from gauntlet.serving.verification import verify as verify_bundle

    checks = verify_bundle(path)
    if as_json:
        print_json(asdict(check) for check in checks)
    else:
        table = borderless("check", "verdict", "found")
        for check in checks:
            verdict = Text("fail", "red") if check.fault else "pass"
            table.add_row(check.name, verdict, plain(check.fault or check.found))
        console.print(table)
    if any(check.fault for check in checks):
        raise typer.Exit(1)


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _tensors(specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Type and shape of each tensor by name; those of a cache have one line for all layers."""
    rows: dict[str, str] = {}
    for spec in specs:
        name = re.sub(r"\.\d+\.(key|value)$", r".{layer}.\1", spec.name)
        rows[name] = f"{spec.dtype} {list(spec.shape)}"
    return rows
