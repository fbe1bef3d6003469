"""ONNX graphs of a classifier: the plain export and, made from a transformer's, the fused graph.

Inputs of texts are `input_ids` and `attention_mask`, both int64 (B, T), that of images is `images`, uint8
(B, C, H, W), those of cards are `front` and `back`, likewise. The first output is `logits`, float32 (B, K); a
grader's others are those of `Grading`. B and T are dynamic. The same model gives byte-identical files.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from torch import nn

from gauntlet.tasks.ordinal_grading.manifest import SIDES
from gauntlet.tasks.ordinal_grading.network import Grading

OUTPUT = "logits"
TOKEN_IDS = "input_ids"
EXAMPLE_ROWS = 2  # of the batch that the export traces
EXAMPLE_TOKENS = 8

FUSED_ATTENTION = ("Attention", "MultiHeadAttention", "QAttention")
FUSED_LAYER_NORM = ("LayerNormalization",)
FUSED_GELU = ("BiasGelu", "Gelu", "FastGelu")
LAYER_NORMS_PER_LAYER = 2
SEGMENTS = "token_type_embeddings"  # what transformers calls the table of a token's segment


class ConversionError(Exception):
    """A graph that could not be made as it was asked for."""


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives: inputs to trace it with, and outputs, in its order.

    `dynamic_axes` names the axes of any size that the inputs have.
    """

    example: Mapping[str, torch.Tensor]
    dynamic_axes: Mapping[int, str]
    outputs: tuple[str, ...] = (OUTPUT,)


def signature_of_texts() -> Signature:
    """Two rows, the second of which is padded."""
    attention_mask = torch.ones((EXAMPLE_ROWS, EXAMPLE_TOKENS), dtype=torch.int64)
    attention_mask[1, EXAMPLE_TOKENS // 2 :] = 0
    example = {TOKEN_IDS: torch.ones_like(attention_mask), "attention_mask": attention_mask}
    return Signature(example, {0: "batch", 1: "tokens"})


def signature_of_images(shape: Sequence[int]) -> Signature:
    """Two images of a shape (C, H, W)."""
    return Signature({"images": torch.zeros((EXAMPLE_ROWS, *shape), dtype=torch.uint8)}, {0: "batch"})


def signature_of_cards(shape: Sequence[int]) -> Signature:
    """Two cards, each side of a shape (C, H, W)."""
    example: dict[str, torch.Tensor] = {
        side: torch.zeros((EXAMPLE_ROWS, *shape), dtype=torch.uint8) for side in SIDES
    }
    return Signature(example, {0: "batch"}, Grading._fields)


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
            and self.layer_norm >= expected.layer_norm  # most encoders' embeddings have one too
            and self.gelu == expected.gelu
        )


def export_plain(model: nn.Module, signature: Signature, path: Path, opset: int) -> None:
    """Trace `model`, whose attention must be eager, in eval mode into a graph of standard operators.

    The TorchScript exporter is used on purpose: from the dynamo exporter's graph, and from any graph of SDPA
    attention, the optimizer fuses no attention at all (torch 2.13, onnxruntime 1.31).
    """
    with warnings.catch_warnings(), torch.no_grad():
        # It warns of its age and of every shape that tracing reads: parity on ragged batches is the test.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(signature.example.values()),
            str(path),
            input_names=list(signature.example),
            output_names=list(signature.outputs),
            dynamic_axes={
                **dict.fromkeys(signature.example, signature.dynamic_axes),
                **{name: {0: "batch"} for name in signature.outputs},
            },
            opset_version=opset,
            dynamo=False,
        )


def fuse(plain: Path, path: Path, encoder: nn.Module) -> None:
    """Fuse attention, layer norm and GELU.

    The sum before a layer norm stays a node of its own: the kernel that computes both (SkipLayerNormalization
    of onnxruntime 1.31 on a CPU) takes several times as long as two.

    Raises:
        ConversionError: Some layer did not fuse, so the graph would be slow for no reason that anyone sees.
    """
    options = FusionOptions("bert")
    # The default turns the mask into a length: a little faster, and wrong for any mask but right padding.
    options.use_raw_attention_mask(True)
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    options.enable_embed_layer_norm = False
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
    keep_sums_apart(optimized.model.graph)
    look_no_segments_up(optimized.model.graph)
    optimized.prune_graph()
    optimized.save_model_to_file(str(path))


def keep_sums_apart(graph: onnx.GraphProto) -> None:
    """Write additions before layer norms as sums, in place: a session would merge additions into norms."""
    norms = {node.input[0] for node in graph.node if node.op_type in FUSED_LAYER_NORM}
    for node in graph.node:
        if node.op_type == "Add" and node.output[0] in norms:
            node.op_type = "Sum"


def look_no_segments_up(graph: onnx.GraphProto) -> None:
    """Take the first segment's row for the lookup of a token's segment, in place: a text is one segment."""
    tables = {tensor.name: tensor for tensor in graph.initializer if SEGMENTS in tensor.name}
    rows = {
        node.output[0]: numpy_helper.to_array(tables[node.input[0]])[0]  # (H,)
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in tables
    }
    for looked_up, row in rows.items():
        graph.initializer.append(numpy_helper.from_array(row, f"{looked_up}/first"))
    for node in graph.node:
        node.input[:] = [f"{name}/first" if name in rows else name for name in node.input]


def to_fp16(fused: Path, path: Path) -> None:
    """Store weights and compute in half precision; inputs and outputs stay as they are."""
    model = convert_float_to_float16(onnx.load(fused), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, path)


def count_operators(graph: onnx.GraphProto, operators: tuple[str, ...]) -> int:
    """How many nodes of a graph are one of `operators`."""
    return sum(node.op_type in operators for node in graph.node)
