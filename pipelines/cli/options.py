"""Options that several commands take, and the panels of `gauntlet --help`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from gauntlet.pipelines.terminal import console
from gauntlet.serving.settings import Settings, Store

HERE, MODELS, CLOUD = "On this machine", "Models", "On Google Cloud"

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per row of the table, each on a line, and no table."),
]


def of_server(name: str) -> Any:
    """The option of a field of `serving.settings.Settings`."""
    return typer.Option(help=next(one for one in fields(Settings) if one.name == name).metadata["help"])


RequestLog = Annotated[str | None, of_server("request_log")]
SampleRate = Annotated[float, of_server("sample_rate")]
Stored = Annotated[Store, of_server("store")]


def _set_progress(quiet: bool) -> None:
    console.shows_progress = not quiet


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_set_progress, help="Show how it ended, warnings, and no progress."
    ),
]

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, YAML or JSON.")]
ManifestPaths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="MANIFEST", help="Manifests; by default the packaged ones."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, VALUE in YAML; may be repeated."),
]

FromCheckpoint = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Judge the checkpoint in this folder instead of training a model."),
]
FromOnnx = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Judge this ONNX file, or the one in this folder, instead of training."
    ),
]
GraphLabels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C", help="The classes of that ONNX file in its order. Default: its config.json."
    ),
]

Project = Annotated[str, typer.Option(envvar="GAUNTLET_PROJECT", help="The Google Cloud project's ID.")]
Region = Annotated[str, typer.Option(envvar="GAUNTLET_REGION", help="Such as europe-west4.")]
Root = Annotated[str, typer.Option(envvar="GAUNTLET_ROOT", help="gs://BUCKET/FOLDER for steps' outputs.")]
RegistryUri = Annotated[
    str, typer.Option("--registry", envvar="GAUNTLET_REGISTRY", help="Where versions are registered.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking", envvar="GAUNTLET_TRACKING", help="Default: Vertex AI Experiments of the project."
    ),
]
ServiceAccount = Annotated[
    str | None,
    typer.Option(envvar="GAUNTLET_SERVICE_ACCOUNT", help="The service account that runs the steps."),
]
TrainingAccount = Annotated[
    str | None,
    typer.Option(
        envvar="GAUNTLET_TRAINING_ACCOUNT",
        help="The service account that runs train-model. Default: that of the other steps.",
    ),
]
