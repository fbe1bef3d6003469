"""The candidates that a manifest names: the graph of each, or the reason why it could not be made."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx
from torch import nn

from gauntlet.components.convert_to_onnx import quantization
from gauntlet.components.convert_to_onnx.export import (
    ConversionError,
    FusedOps,
    Signature,
    export_plain,
    fuse,
    prune_embedding,
    to_fp16,
)
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.manifests.conversion import STUDENT, CandidateName

Precision = Literal["fp32", "fp16", "int8", "int4"]

BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class Source:
    """What candidates are made from. `model.encoder`, if there is one, is a transformer with eager attention.

    `calibration` are typical inputs, `used_ids` the token ids of the training rows.
    """

    model: nn.Module
    signature: Signature
    opset: int
    calibration: Sequence[Batch]
    used_ids: frozenset[int] = frozenset()

    @property
    def encoder(self) -> nn.Module:
        """The model's transformer; a `ConversionError` if it has none."""
        encoder: nn.Module | None = getattr(self.model, "encoder", None)
        if encoder is None or not hasattr(getattr(encoder, "config", None), "num_hidden_layers"):
            raise ConversionError("needs a transformer encoder, which this model does not have")
        return encoder


Make = Callable[[Source, Path, Path], object]
"""Makes the graph at the second path from the one at the first."""


@dataclass(frozen=True)
class Recipe:
    """How a graph is made from another one, its `base`; the first has no base."""

    base: str
    precision: Precision
    make: Make


def _of_base(make: Callable[..., object], **options: Any) -> Make:
    return lambda _, base, path: make(base, path, **options)


def _quantized(**scheme: bool) -> Make:
    return _of_base(quantization.quantize, scheme=quantization.Scheme(**scheme))


# Names that begin with an underscore are intermediate steps, which no manifest can ask for.
RECIPES: dict[str, Recipe] = {
    "plain": Recipe(
        "", "fp32", lambda source, _, path: export_plain(source.model, source.signature, path, source.opset)
    ),
    "fused": Recipe("plain", "fp32", lambda source, base, path: fuse(base, path, source.encoder)),
    "fused_fp16": Recipe("fused", "fp16", _of_base(to_fp16)),
    "_scaled": Recipe(
        "fused", "fp32", lambda source, base, path: quantization.scale(base, path, source.calibration)
    ),
    "int8_per_token": Recipe("fused", "int8", _of_base(quantization.quantize_per_token)),
    "int8": Recipe("_scaled", "int8", _quantized()),
    "int8_unscaled": Recipe("fused", "int8", _quantized()),
    "int8_per_tensor": Recipe("_scaled", "int8", _quantized(per_channel=False)),
    "int8_float_attention": Recipe("_scaled", "int8", _quantized(attention=False)),
    "int8_static": Recipe(
        "plain",
        "int8",
        lambda source, base, path: quantization.quantize_static_qdq(base, path, source.calibration),
    ),
    "_pruned": Recipe(
        "plain", "fp32", lambda source, base, path: prune_embedding(base, path, source.used_ids)
    ),
    "_pruned_fused": Recipe("_pruned", "fp32", lambda source, base, path: fuse(base, path, source.encoder)),
    "int8_pruned": Recipe("_pruned_fused", "int8", _of_base(quantization.quantize_per_token)),
    "weights_int8": Recipe("fused", "int8", _of_base(quantization.quantize_weights, bits=8)),
    "weights_int4": Recipe("fused", "int4", _of_base(quantization.quantize_weights, bits=4)),
}


@dataclass(frozen=True)
class Graph:
    """A candidate's ONNX file; its name begins with `STUDENT` if it is made from a student."""

    name: str
    path: Path
    fused: FusedOps

    @property
    def precision(self) -> Precision:
        """What its weights are stored in."""
        return _recipe_of(self.name).precision

    @property
    def size_mb(self) -> float:
        """Size of the file in millions of bytes."""
        return self.path.stat().st_size / BYTES_PER_MB


@dataclass(frozen=True)
class Failed:
    """A candidate without figures: it could not be made, or it does not run."""

    name: str
    reason: str
    stored: Precision | None = None

    @property
    def precision(self) -> Precision:
        """What its weights are, or would have been, stored in."""
        return self.stored or _recipe_of(self.name).precision


def _recipe_of(name: str) -> Recipe:
    return RECIPES[name.removeprefix(STUDENT).removesuffix(quantization.UNSIGNED)]


def with_portable(graphs: Sequence[Graph | Failed]) -> list[Graph | Failed]:
    """The candidates, and of each that gives other answers on other CPUs one that does not."""
    found = list(graphs)
    for graph in graphs:
        if not isinstance(graph, Graph) or not quantization.saturating_products(onnx.load(graph.path).graph):
            continue
        name = graph.name + quantization.UNSIGNED
        path = graph.path.with_name(f"{name}.onnx")
        try:
            quantization.unsigned_weights(graph.path, path)
        except ConversionError as error:
            found.append(Failed(name, str(error), graph.precision))
        else:
            found.append(replace(graph, name=name, path=path))
    return found


def build_graphs(
    names: Sequence[CandidateName], source: Source, folder: Path, prefix: str = ""
) -> list[Graph | Failed]:
    """Make the named candidates in `folder`, in the order of the recipes; `prefix` goes before their names.

    If a library raises, the candidate and all that is made from it are skipped; the traceback goes to the
    log.
    """
    faults: dict[str, str] = {}
    for name in _with_bases(names):
        recipe = RECIPES[name]
        if name in names:
            print(f"making {prefix}{name}", flush=True)
        if recipe.base in faults:
            made_from = f"needs the candidate {recipe.base}, which " if recipe.base in names else ""
            faults[name] = made_from + faults[recipe.base]
            continue
        try:
            recipe.make(source, folder / f"{recipe.base}.onnx", folder / f"{name}.onnx")
        except ConversionError as error:
            faults[name] = str(error)
        except Exception as error:  # whatever the exporter, the optimizer or the quantiser may raise
            traceback.print_exc()
            faults[name] = f"could not be made: {describe(error)}"
    return [
        Failed(prefix + name, faults[name])
        if name in faults
        else Graph(prefix + name, folder / f"{name}.onnx", FusedOps.of(folder / f"{name}.onnx"))
        for name in sorted(names, key=list(RECIPES).index)
    ]


def describe(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _with_bases(names: Sequence[CandidateName]) -> list[str]:
    needed: set[str] = set()
    for name in names:
        step: str = name
        while step and step not in needed:
            needed.add(step)
            step = RECIPES[step].base
    return [name for name in RECIPES if name in needed]
