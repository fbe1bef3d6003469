"""The commands that look at a model bundle: what it is, and whether it is whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from gauntlet.pipelines.terminal import console, plain
from gauntlet.serving.bundle import BUNDLE_FILE, PARITY_FILE, TensorSpec, file_sha256, read_info
from gauntlet.serving.verification import read_certificate
from gauntlet.serving.verification import verify as verify_bundle

BundleFolder = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle's folder.")]

app = typer.Typer()
bundle = typer.Typer(help="Look at a model bundle.", no_args_is_help=True)
app.add_typer(bundle, name="bundle", rich_help_panel="Models")


@bundle.command()
def inspect(path: BundleFolder) -> None:
    """Say what a bundle is, what it takes and gives, how good and how fast it was, and what made it."""
    info = read_info(path)
    table = Table(box=None, show_header=False, pad_edge=False)
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
    rows |= {name: _figure(value, "{:.4g}") for name, value in info.quality.items()}
    rows |= {
        f"batch of {size}": f"{_figure(latency, '{:.2f} ms')}, "
        f"{_figure(info.speedup.get(size), '{:.2f} times as fast as PyTorch')}"
        for size, latency in info.latency_ms.items()
    }
    rows |= dict(info.lineage)
    if PARITY_FILE in info.files:
        certificate = read_certificate(path)
        rows |= {
            key: str(certificate[key]).lower() for key in ("cpu_class", "portable") if key in certificate
        }
    rows |= {
        name: f"{(path / name).stat().st_size:,} bytes, sha256 {sha256[:12]}…"
        for name, sha256 in info.files.items()
    }
    rows[BUNDLE_FILE] = f"sha256 {file_sha256(path / BUNDLE_FILE)}"
    for key, value in rows.items():
        table.add_row(key, plain(value))
    console.print(table)


def _figure(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


@bundle.command()
def verify(path: BundleFolder) -> None:
    """Check a bundle's hashes, its certificate, its tensors and a prediction; exit 1 when one fails."""
    checks = verify_bundle(path)
    table = Table("check", "verdict", "found", box=None, pad_edge=False)
    for check in checks:
        table.add_row(
            check.name, Text("fail", "red") if check.fault else "pass", plain(check.fault or check.found)
        )
    console.print(table)
    if any(check.fault for check in checks):
        raise typer.Exit(1)


def _tensors(specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Type and shape of each tensor by name; those of a cache have one line for all layers."""
    rows: dict[str, str] = {}
    for spec in specs:
        name = re.sub(r"\.\d+\.(key|value)$", r".{layer}.\1", spec.name)
        rows[name] = f"{spec.dtype} {list(spec.shape)}"
    return rows
