"""ONNX graphs of a model that is traced: the plain export and, of a transformer, the fused graph.

The first output is `logits`, float32. The same model gives byte-identical files.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model
from torch import nn

OUTPUT = "logits"
TOKEN_IDS = "input_ids"
EXAMPLE_ROWS = 2  # of the batch that the export traces
EXAMPLE_TOKENS = 8

FUSED_ATTENTION = ("Attention", "MultiHeadAttention", "QAttention")
FUSED_LAYER_NORM = ("LayerNormalization",)
FUSED_GELU = ("BiasGelu", "Gelu", "FastGelu")
LAYER_NORMS_PER_LAYER = 2
UNUSED_ROW = 0  # of a pruned embedding table
POSITIONS = "embedding/positions"
PRUNED_IDS = "embedding/pruned_ids"
SEGMENTS = "token_type_embeddings"  # what transformers calls the table of a token's segment


class ConversionError(Exception):
    """A candidate that could not be made, or whose outputs are of no use."""


@dataclass(frozen=True)
class Signature:
    """Inputs to trace a model with, the names of its outputs in order, and of the axes of any size."""

    example: Mapping[str, torch.Tensor]
    dynamic_axes: Mapping[int, str]
    outputs: tuple[str, ...] = (OUTPUT,)
    output_axes: Mapping[int, str] = field(default_factory=lambda: {0: "batch"})


def signature_of_texts() -> Signature:
    """`input_ids` and `attention_mask`, int64 (B, T): two rows, the second of which is padded."""
    attention_mask = torch.ones((EXAMPLE_ROWS, EXAMPLE_TOKENS), dtype=torch.int64)
    attention_mask[1, EXAMPLE_TOKENS // 2 :] = 0
    example = {TOKEN_IDS: torch.ones_like(attention_mask), "attention_mask": attention_mask}
    return Signature(example, {0: "batch", 1: "tokens"})


def signature_of_images(shape: Sequence[int], names: Sequence[str] = ("images",)) -> Signature:
    """Two images of a shape (C, H, W), uint8, or two of each of several inputs."""
    return Signature(
        {name: torch.zeros((EXAMPLE_ROWS, *shape), dtype=torch.uint8) for name in names}, {0: "batch"}
    )


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

    In a graph of the dynamo exporter or of SDPA, the optimizer fuses no attention (torch 2.13, onnxruntime
    1.31).
    """
    with warnings.catch_warnings(), torch.no_grad():
        # It warns that it is deprecated and that it reads shapes; parity on ragged batches tests the latter.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(signature.example.values()),
            str(path),
            input_names=list(signature.example),
            output_names=list(signature.outputs),
            dynamic_axes={
                **dict.fromkeys(signature.example, signature.dynamic_axes),
                **dict.fromkeys(signature.outputs, signature.output_axes),
            },
            opset_version=opset,
            dynamo=False,
        )


def fuse(plain: Path, path: Path, encoder: nn.Module) -> None:
    """Fuse attention, layer norm and GELU; a `ConversionError` if some layer does not fuse.

    The sum before a layer norm stays apart: SkipLayerNormalization of onnxruntime 1.31 is several times as
    slow.
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
    fold_segment_embedding(optimized.model.graph)
    optimized.prune_graph()
    optimized.save_model_to_file(str(path))


def keep_sums_apart(graph: onnx.GraphProto) -> None:
    """Write additions before layer norms as sums, in place: a session would merge additions into norms."""
    norms = {node.input[0] for node in graph.node if node.op_type in FUSED_LAYER_NORM}
    for node in graph.node:
        if node.op_type == "Add" and node.output[0] in norms:
            node.op_type = "Sum"


def fold_segment_embedding(graph: onnx.GraphProto) -> None:
    """Replace the lookup of a token's segment by the first segment's row, in place: a text is one segment."""
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


def prune_embedding(plain: Path, path: Path, used_ids: frozenset[int]) -> int:
    """Write the graph with an embedding table of `used_ids` alone; return how many rows are left.

    All other tokens, which training has not changed, share one row, their mean. The graph maps the
    tokenizer's ids to rows. V = vocabulary, U = ids in use, H = hidden size.

    Raises:
        ConversionError: The graph does not look the input's ids up in one table, or every row is in use.
    """
    model = onnx.load(plain)
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    lookups = [
        node
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] == TOKEN_IDS
    ]
    if len(lookups) != 1:
        raise ConversionError(f"has {len(lookups)} tables that the input's ids are looked up in, not one")
    lookup = lookups[0]
    table = numpy_helper.to_array(tables[lookup.input[0]])  # (V, H)
    used = np.array(sorted(used_ids))  # (U,)
    if len(used) + 1 >= len(table):
        raise ConversionError(f"has no row to prune: training uses {len(used)} of {len(table)} tokens")
    unused = np.setdiff1d(np.arange(len(table)), used)
    rows = np.concatenate([table[unused].mean(axis=0, keepdims=True), table[used]])  # (U + 1, H)
    positions = np.full(len(table), UNUSED_ROW, dtype=np.int64)  # (V,)
    positions[used] = np.arange(1, len(used) + 1)
    tables[lookup.input[0]].CopyFrom(numpy_helper.from_array(rows.astype(table.dtype), lookup.input[0]))
    graph.initializer.append(numpy_helper.from_array(positions, POSITIONS))
    remap = helper.make_node("Gather", [POSITIONS, TOKEN_IDS], [PRUNED_IDS], name="embedding/prune")
    lookup.input[1] = PRUNED_IDS
    graph.node.insert(list(graph.node).index(lookup), remap)
    onnx.save(model, path)
    return len(rows)


def to_fp16(fused: Path, path: Path) -> None:
    """Store weights and compute in half precision; inputs and outputs stay as they are."""
    model = convert_float_to_float16(onnx.load(fused), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, path)


def count_operators(graph: onnx.GraphProto, operators: tuple[str, ...]) -> int:
    """How many nodes of a graph are one of `operators`."""
    return sum(node.op_type in operators for node in graph.node)
