"""ONNX graphs of a text classifier: the plain export and, made from it, the fused graph.

Inputs are `input_ids` and `attention_mask`, both int64 (B, T); the output is `logits`, float32 (B, C). B and
T are dynamic. The same model gives byte-identical files.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from torch import nn

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "logits"
DYNAMIC_AXES = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
    "logits": {0: "batch"},
}
EXAMPLE_SHAPE = (2, 8)  # of the batch that the export traces; its second row is padded

FUSED_ATTENTION = ("Attention", "MultiHeadAttention", "QAttention")
FUSED_LAYER_NORM = ("SkipLayerNormalization",)
FUSED_GELU = ("BiasGelu", "Gelu", "FastGelu")
LAYER_NORMS_PER_LAYER = 2


class ConversionError(Exception):
    """A graph that could not be made as it was asked for."""


@dataclass(frozen=True)
class FusedOps:
    """How many operators of an encoder are single fused nodes."""

    attention: int
    layer_norm: int
    gelu: int

    @classmethod
    def expected(cls, encoder: nn.Module) -> FusedOps:
        """One attention and two layer norms per layer, every GELU; not the embedding's own norm."""
        layers: int = encoder.config.num_hidden_layers  # type: ignore[union-attr, assignment]
        gelus = sum("gelu" in type(module).__name__.lower() for module in encoder.modules())
        return cls(attention=layers, layer_norm=LAYER_NORMS_PER_LAYER * layers, gelu=gelus)

    @classmethod
    def of(cls, path: Path) -> FusedOps:
        """Count the fused nodes of a graph's file."""
        return cls.found(onnx.load(path, load_external_data=False).graph)

    @classmethod
    def found(cls, graph: onnx.GraphProto) -> FusedOps:
        """Count the fused nodes of a graph."""
        return cls(
            attention=count_operators(graph, FUSED_ATTENTION),
            layer_norm=count_operators(graph, FUSED_LAYER_NORM),
            gelu=count_operators(graph, FUSED_GELU),
        )

    def covers(self, expected: FusedOps) -> bool:
        """Whether nothing that was expected to fuse is left unfused."""
        return (
            self.attention == expected.attention
            and self.layer_norm >= expected.layer_norm  # some encoders' embeddings add into their norm too
            and self.gelu == expected.gelu
        )


def export_plain(model: nn.Module, path: Path, opset: int) -> None:
    """Trace `model`, whose attention must be eager, into a graph of standard operators.

    The TorchScript exporter is used on purpose: from the dynamo exporter's graph, and from any graph of SDPA
    attention, the optimizer fuses no attention at all (torch 2.13, onnxruntime 1.31).
    """
    input_ids = torch.ones(EXAMPLE_SHAPE, dtype=torch.int64)
    attention_mask = torch.ones(EXAMPLE_SHAPE, dtype=torch.int64)
    attention_mask[1, EXAMPLE_SHAPE[1] // 2 :] = 0
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of its age and of every shape that tracing reads: parity on ragged batches is the test.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (input_ids, attention_mask),
            str(path),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=DYNAMIC_AXES,
            opset_version=opset,
            dynamo=False,
        )


def fuse(plain: Path, path: Path, encoder: nn.Module) -> None:
    """Fuse attention, layer norm and GELU.

    Raises:
        ConversionError: Some layer did not fuse, so the graph would be slow for no reason that anyone sees.
    """
    options = FusionOptions("bert")
    # The default turns the mask into a length: a little faster, and wrong for any mask but right padding.
    options.use_raw_attention_mask(True)
    optimized = optimize_model(
        str(plain),
        model_type="bert",
        num_heads=encoder.config.num_attention_heads,  # type: ignore[union-attr]
        hidden_size=encoder.config.hidden_size,  # type: ignore[union-attr]
        optimization_options=options,
        opt_level=0,
    )
    found, expected = FusedOps.found(optimized.model.graph), FusedOps.expected(encoder)
    if not found.covers(expected):
        raise ConversionError(
            f"did not fuse whole: attention {found.attention} of {expected.attention}, "
            f"layer norm {found.layer_norm} of {expected.layer_norm}, GELU {found.gelu} of {expected.gelu}"
        )
    optimized.save_model_to_file(str(path))


def to_fp16(fused: Path, path: Path) -> None:
    """Store weights and compute in half precision; inputs and outputs stay as they are."""
    model = convert_float_to_float16(onnx.load(fused), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, path)


def count_operators(graph: onnx.GraphProto, operators: tuple[str, ...]) -> int:
    """How many nodes of a graph are one of `operators`."""
    return sum(node.op_type in operators for node in graph.node)
