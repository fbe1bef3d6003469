"""Smaller and faster graphs of a decoder's float graph. Cache, norms and attention stay in float."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.components.convert_to_onnx.quantization import in_blocks, per_token
from gauntlet.tasks.causal_lm.decoder import save


def quantize_weights(graph: Path, path: Path, bits: Literal[4, 8]) -> None:
    """Store the matrices of all products, with 4 bits the embedding too, one scale to a block of weights.

    onnxruntime has no embedding of 8 bits.
    """
    operators = ("MatMul", "Gather") if bits == 4 else ("MatMul",)
    save(in_blocks(load_for_quantizing(graph), bits, operators), path)


def quantize_per_token(graph: Path, path: Path) -> None:
    """Store the matrices of all products and the embedding in int8; activations get one scale to a token.

    Raises:
        ConversionError: It has no matrix product with constant weights.
    """
    model = load_for_quantizing(graph)
    if not per_token(model):
        raise ConversionError("has no matrix product with constant weights")
    save(model, path)


def quantize_int8(graph: Path, path: Path) -> None:
    """Store the matrices of all products in int8, one scale to a column; activations get one to a tensor.

    Weights have 7 bits, for the reason that `quantization` gives.
    """
    model = load_for_quantizing(graph)
    add_pre_process_metadata(model)  # exporting did all that the quantiser's own preparation would
    temporary = path.with_name(path.name + ".tmp")
    quantize_dynamic(
        model,
        temporary,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    temporary.replace(path)


def load_for_quantizing(path: Path) -> onnx.ModelProto:
    """A graph all of whose matrices are constants.

    A head that is tied to the embedding is its transpose, which quantisers take for an activation.
    """
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    transposed = [
        node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights
    ]
    for node in transposed:
        order = next((list(attribute.ints) for attribute in node.attribute), None)
        values = numpy_helper.to_array(weights[node.input[0]]).transpose(order)
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    return model
