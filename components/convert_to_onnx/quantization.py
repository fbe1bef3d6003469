"""int8 weights, one scale per column, and activations quantised as they come, one scale per tensor.

One scale per tensor makes int8 fast and inexact: in encoders a few channels reach 5 to 20 times as far as the
others and leave them hardly any of the 256 levels. Such channels are divided by a power of two before the
product and their weights multiplied by it: SmoothQuant (arXiv 2211.10438), but for outliers only. On MiniLM
this halves the error of the logits, for one small multiplication per product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from components.convert_to_onnx.export import ConversionError, count_operators
from components.convert_to_onnx.timing import Batch
from serving.bundle import open_session

Ranges = Mapping[str, npt.NDArray[np.float32]]

PRODUCTS = ("Attention", "MatMul")  # both multiply their first input by their second
FLOAT_PRODUCTS = (*PRODUCTS, "Gemm")  # what quantisation must leave none of
OUTLIER_RATIO = 3.0  # a channel that reaches further than this many times the median one is an outlier


def quantize(fused: Path, path: Path, calibration: Sequence[Batch]) -> None:
    """Quantise a fused graph; `calibration` holds typical inputs.

    The range of weights is not cut to 7 bits: on CPUs with VNNI that only loses precision, and what saturates
    on others shows in parity there.

    Raises:
        ConversionError: Some matrix product is still computed in float.
    """
    model = onnx.load(fused)
    scale_outliers(model, channel_ranges(fused, calibration))
    add_pre_process_metadata(model)  # fusing did all that the quantiser's own preparation would
    quantize_dynamic(
        model,
        path,
        per_channel=True,
        # Shape inference does not know the fused operators, so it cannot tell the quantiser their type.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    left = count_operators(onnx.load(path).graph, FLOAT_PRODUCTS)
    if left:
        raise ConversionError(f"kept {left} of its matrix products in float")


def channel_ranges(fused: Path, batches: Sequence[Batch]) -> Ranges:
    """How far each channel of each product's input reaches: the largest absolute value, by tensor name."""
    model = onnx.load(fused)
    names = sorted({node.input[0] for node in model.graph.node if node.op_type in PRODUCTS})
    for name in names:
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    observed = fused.with_name("observed.onnx")
    onnx.save(model, observed)
    session = open_session(observed, threads=1)  # sums in one order, so the same bytes come out again
    largest: dict[str, npt.NDArray[np.float32]] = {}
    for batch in batches:
        for name, values in zip(names, session.run(names, dict(batch)), strict=True):
            reach = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)  # (channels,)
            largest[name] = np.maximum(largest.get(name, reach), reach)
    return largest


def scale_outliers(model: onnx.ModelProto, ranges: Ranges) -> int:
    """Bring outlier channels of each product's input within the others' range, in place.

    Factors are powers of two, so in float the graph's results do not change by a bit. Returns how many
    products had outliers.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type in PRODUCTS and node.input[1] in weights:
            factors = outlier_factors(ranges[node.input[0]])
            if factors.max() > 1:
                nodes.append(_divide(model.graph, node, weights[node.input[1]], factors))
        nodes.append(node)
    scaled = len(nodes) - len(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return scaled


def outlier_factors(reach: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """By what each channel is divided, given how far it reaches: 1, or for an outlier a power of two."""
    alive = reach[reach > 0]
    if not len(alive):
        return np.ones_like(reach)
    excess = np.maximum(reach / (OUTLIER_RATIO * np.median(alive)), 1.0)
    return np.asarray(np.exp2(np.ceil(np.log2(excess))), dtype=np.float32)


def _divide(
    graph: onnx.GraphProto, node: onnx.NodeProto, weight: onnx.TensorProto, factors: npt.NDArray[np.float32]
) -> onnx.NodeProto:
    """Multiply `node`'s weight by `factors`, and return a node that divides its input by them."""
    values = numpy_helper.to_array(weight) * factors[:, np.newaxis]  # (channels, columns)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    divisor, divided = f"{node.name}/outliers", f"{node.name}/input_without_outliers"
    graph.initializer.append(numpy_helper.from_array(1 / factors, divisor))
    multiply = helper.make_node(
        "Mul", [node.input[0], divisor], [divided], name=f"{node.name}/divide_outliers"
    )
    node.input[0] = divided
    return multiply
