"""The candidates that a manifest names: each one's graph, or the reason why there is none."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from components.convert_to_onnx.export import ConversionError, FusedOps, export_plain, fuse
from components.convert_to_onnx.quantization import quantize
from components.convert_to_onnx.timing import Batch
from manifests.schema import CandidateName

Precision = Literal["fp32", "int8"]

CHAIN: tuple[CandidateName, ...] = ("plain", "fused", "fused_int8")  # each is made from the one before
PRECISIONS: dict[CandidateName, Precision] = {"plain": "fp32", "fused": "fp32", "fused_int8": "int8"}
BYTES_PER_MB = 1e6


@dataclass(frozen=True)
class Graph:
    """A candidate's ONNX file."""

    name: CandidateName
    path: Path
    fused: FusedOps | None = None

    @property
    def precision(self) -> Precision:
        """What its weights are stored in."""
        return PRECISIONS[self.name]

    @property
    def size_mb(self) -> float:
        """Size of the file in millions of bytes."""
        return self.path.stat().st_size / BYTES_PER_MB


@dataclass(frozen=True)
class Failed:
    """A candidate without figures: it could not be made, or it does not run."""

    name: CandidateName
    reason: str

    @property
    def precision(self) -> Precision:
        """What its weights would have been stored in."""
        return PRECISIONS[self.name]


def build_graphs(
    names: Sequence[CandidateName],
    model: nn.Module,
    opset: int,
    calibration: Sequence[Batch],
    folder: Path,
) -> list[Graph | Failed]:
    """Make the named candidates in `folder`, in the order of their making.

    `model` is a classifier with eager attention whose `encoder` has a transformers configuration, and
    `calibration` holds typical inputs. A library that fails costs its candidate and those made from it, never
    the step; its traceback goes to the log.
    """
    built: dict[CandidateName, Graph | Failed] = {}
    for name in CHAIN[: max(CHAIN.index(name) for name in names) + 1]:
        last = next(reversed(built.values()), None)
        if isinstance(last, Failed):
            built[name] = Failed(name, f"needs the candidate {last.name}, which {last.reason}")
            continue
        try:
            built[name] = _build(name, last, model, opset, calibration, folder / f"{name}.onnx")
        except ConversionError as error:
            built[name] = Failed(name, str(error))
        except Exception as error:  # whatever the exporter, the optimizer or the quantiser may raise
            traceback.print_exc()
            built[name] = Failed(name, f"could not be made: {describe(error)}")
    return [built[name] for name in CHAIN if name in names]


def describe(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _build(
    name: CandidateName,
    last: Graph | None,
    model: nn.Module,
    opset: int,
    calibration: Sequence[Batch],
    path: Path,
) -> Graph:
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    if last is None:
        export_plain(model, path, opset)
        return Graph(name, path)
    if name == "fused":
        return Graph(name, path, fuse(last.path, path, encoder))
    quantize(last.path, path, calibration)
    return Graph(name, path, last.fused)
