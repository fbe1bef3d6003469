"""int8 weights, one scale per column, and activations quantised at run time: per token or per tensor.

With one scale for a whole batch a row's answer depends on the other rows and on the padding of its batch. In
encoders the values of a few channels are 5 to 20 times as large, which leaves the others few of the 256
levels: such channels are divided by a power of two and their weights multiplied by it (SmoothQuant, arXiv
2211.10438, only for outliers).

Weights have 7 bits, so that every x86-64 CPU gives the same answer: without VNNI, ONNX Runtime adds two
products of u8 activations and s8 weights in 16 bits (`vpmaddubsw`): 2 x 255 x 127 saturates, 2 x 255 x 64
does not.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.quantization.shape_inference import quant_pre_process

from gauntlet.components.convert_to_onnx.export import ConversionError, count_operators
from gauntlet.components.convert_to_onnx.scoring import right_padded
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.serving.bundle import open_session

Load = Callable[[Path], onnx.ModelProto]
Ranges = Mapping[str, npt.NDArray[np.float32]]

ATTENTION = "Attention"
PRODUCTS = (ATTENTION, "MatMul")  # both multiply their first input by their second
FLOAT_PRODUCTS = (*PRODUCTS, "Gemm")  # what quantisation must leave none of
WEIGHT_ZERO_POINT = {"MatMulInteger": 3, "QAttention": 7}
"""Which input of an int8 product is the zero point of its weights."""
WEIGHTS_OF_PRODUCTS = {
    "MatMulInteger": 1, "QAttention": 1, "ConvInteger": 1, "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "QLinearMatMul": 3, "QLinearConv": 3, "QGemm": 3, "MatMul": 1, "Gemm": 1, "Conv": 1,
}  # fmt: skip
"""Which input of a product is its weights; those of the last three are integers behind a DequantizeLinear."""
ZERO_POINTS_OF_WEIGHTS = {
    **WEIGHT_ZERO_POINT, "ConvInteger": 3, "MatMulIntegerToFloat": 5, "DynamicQuantizeMatMul": 3,
    "QLinearMatMul": 5, "QLinearConv": 5, "QGemm": 5,
}  # fmt: skip
UNSIGNED = "_unsigned"
"""What the names of a graph and of tensors end with whose weights were made u8."""
UNPACKING = ("DequantizeLinear", "Transpose", "Reshape", "Identity", "Cast")
LARGEST_WEIGHT = 64  # 2 x 255 x 64 is within 16 bits, 2 x 255 x 65 is not
LARGEST_INT8 = 127
ACTIVATION_ZERO_POINT = 128  # u8 activations around 0
SMALLEST_REACH = 1e-12  # of a token that is all zeros, so that nothing is divided by 0
REDUCTIONS_BY_INPUT_FROM_OPSET = 18  # where the axes of ReduceMax became an input
MICROSOFT = "com.microsoft"
STATIC_PRODUCTS = ("MatMul", "Gemm", "Conv")
BLOCK_SIZE = 32
INT8_ACCURACY = 4  # what ONNX Runtime calls products that are computed in int8
CALIBRATION_PERCENTILE = 99.999
OUTLIER_RATIO = 3.0  # a channel that reaches further than this many times the median one is an outlier


@dataclass(frozen=True)
class Scheme:
    """How a fused graph gets int8 products: with a scale per column, and with those of attention, or not."""

    per_channel: bool = True
    attention: bool = True


def quantize(scaled: Path, path: Path, scheme: Scheme) -> None:
    """Quantise a fused graph; a `ConversionError` if a product that was to be quantised stays in float."""
    model = onnx.load(scaled)
    add_pre_process_metadata(model)  # fusing did all that the quantiser's own preparation would
    kept_float = (
        [] if scheme.attention else [node.name for node in model.graph.node if node.op_type == ATTENTION]
    )
    quantize_dynamic(
        model,
        path,
        per_channel=scheme.per_channel,
        reduce_range=True,
        nodes_to_exclude=kept_float,
        # Shape inference does not know the fused operators, so it cannot tell the quantiser their type.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    quantized = onnx.load(path)
    left = count_operators(quantized.graph, FLOAT_PRODUCTS) - len(kept_float)
    if left:
        raise ConversionError(f"kept {left} of its matrix products in float")
    drop_zero_points(quantized.graph)
    onnx.save(quantized, path)


def quantize_per_token(fused: Path, path: Path, load: Load = onnx.load) -> None:
    """Quantise with a scale for every token; a `ConversionError` if no product has constant weights."""
    model = load(fused)
    if not per_token(model):
        raise ConversionError("has no matrix product with constant weights")
    onnx.save(model, path)


def per_token(model: onnx.ModelProto) -> int:
    """Give the model int8 products with a scale for each token, in place; return how many.

    Every vector of K numbers of an input (…, K) is divided by its largest absolute value (ZeroQuant, arXiv
    2206.01861). Tables of embeddings get 8 bits with a scale per row; Gemm products stay in float.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    build = _PerToken(graph, opset_of(model))
    products = 0
    for node in list(graph.node):
        if node.op_type == "MatMul" and node.input[1] in weights:
            build.product(node.name, node.input[0], weights[node.input[1]], node.output[0])
            products += 1
        elif node.op_type == ATTENTION and node.input[1] in weights:
            build.attention(node, weights[node.input[1]])
            products += 1
        elif node.op_type == "Gather" and len(getattr(weights.get(node.input[0]), "dims", ())) == 2:
            build.lookup(node, weights[node.input[0]])
        else:
            build.nodes.append(node)
    del graph.node[:]
    graph.node.extend(build.nodes)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    if all(entry.domain != MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return products


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return int(next(entry.version for entry in model.opset_import if not entry.domain))


class _PerToken:
    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._axes_are_input = opset >= REDUCTIONS_BY_INPUT_FROM_OPSET
        self._one = self._constant("per_token/one", np.array(1, np.float32))
        self._zero_point = self._constant("per_token/zero_point", np.array(ACTIVATION_ZERO_POINT, np.uint8))
        self._step = self._constant("per_token/step", np.array(1 / LARGEST_INT8, np.float32))
        self._smallest = self._constant("per_token/smallest", np.array(SMALLEST_REACH, np.float32))
        self._last_axis = self._constant("per_token/last_axis", np.array([-1], np.int64))

    def product(self, name: str, values: str, weight: onnx.TensorProto, output: str) -> str:
        """`output` = `values` (…, K) times `weight` (K, N)."""
        matrix = numpy_helper.to_array(weight)
        scales = np.abs(matrix).max(axis=0) / LARGEST_WEIGHT  # (N,)
        scales[scales == 0] = 1
        stored = self._constant(f"{name}/int8", np.rint(matrix / scales).astype(np.int8))
        column_scales = self._constant(f"{name}/column_scales", (scales / LARGEST_INT8).astype(np.float32))
        magnitude = self._add("Abs", [values], f"{name}/magnitude")
        largest = self._largest(magnitude, f"{name}/largest")
        reach = self._add("Max", [largest, self._smallest], f"{name}/reach")
        inverse = self._add("Reciprocal", [reach], f"{name}/inverse")
        shares = self._add("Mul", [values, inverse], f"{name}/shares")  # from -1 to 1
        rounded = self._add("QuantizeLinear", [shares, self._step, self._zero_point], f"{name}/rounded")
        summed = self._add(
            "MatMulIntegerToFloat",
            [rounded, stored, self._one, column_scales, self._zero_point],
            f"{name}/summed",
            domain=MICROSOFT,
        )
        return self._add("Mul", [summed, reach], output)

    def attention(self, node: onnx.NodeProto, weight: onnx.TensorProto) -> None:
        """The product of queries, keys and values before a node that does the rest of an attention."""
        name, width = node.name, weight.dims[1] // 3
        heads = next(attribute.i for attribute in node.attribute if attribute.name == "num_heads")
        product = self.product(name, node.input[0], weight, f"{name}/product")
        sizes = self._constant(f"{name}/sizes", np.array([width] * 3, np.int64))
        parts = [f"{name}/{part}" for part in ("query", "key", "value")]
        self.nodes.append(helper.make_node("Split", [product, sizes], parts, name=f"{name}/split", axis=-1))
        bias, mask = node.input[2], node.input[3]
        self._add(
            "MultiHeadAttention", [*parts, bias, mask], node.output[0], domain=MICROSOFT, num_heads=heads
        )

    def lookup(self, node: onnx.NodeProto, weight: onnx.TensorProto) -> None:
        name, table = node.output[0], numpy_helper.to_array(weight)
        scales = np.abs(table).max(axis=1, keepdims=True) / LARGEST_INT8  # (R, 1)
        scales[scales == 0] = 1
        stored = self._constant(f"{name}/int8", np.rint(table / scales).astype(np.int8))
        row_scales = self._constant(f"{name}/row_scales", scales.astype(np.float32))
        looked_up = self._add("Gather", [stored, node.input[1]], f"{name}/row")
        as_float = self._add("Cast", [looked_up], f"{name}/float", to=TensorProto.FLOAT)
        scale = self._add("Gather", [row_scales, node.input[1]], f"{name}/scale")
        self._add("Mul", [as_float, scale], name)

    def _largest(self, values: str, output: str) -> str:
        if self._axes_are_input:
            return self._add("ReduceMax", [values, self._last_axis], output, keepdims=1)
        return self._add("ReduceMax", [values], output, axes=[-1], keepdims=1)

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def drop_zero_points(graph: onnx.GraphProto) -> int:
    """Leave out the zero points of weights, where all are 0, in place; return how many there were."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dropped: set[str] = set()
    for node in graph.node:
        at = WEIGHT_ZERO_POINT.get(node.op_type, len(node.input))
        name = node.input[at] if at < len(node.input) else ""
        if name in tensors and not numpy_helper.to_array(tensors[name]).any():
            del node.input[at:]  # what may follow, an attention's past, no classifier has
            dropped.add(name)
    used = {name for node in graph.node for name in node.input}
    for name in dropped - used:
        graph.initializer.remove(tensors[name])
    return len(dropped)


def saturating_products(graph: onnx.GraphProto) -> list[str]:
    """Names of the products with signed weights of more than 7 bits, which other CPUs answer differently.

    `MatMulNBits` is not one of them: its kernels multiply absolute values, which stays within 16 bits.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    made_by = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        at = WEIGHTS_OF_PRODUCTS.get(node.op_type, len(node.input))
        weights = tensors.get(_stored_as(node.input[at], made_by)) if at < len(node.input) else None
        if weights is None or weights.data_type != onnx.TensorProto.INT8:
            continue
        if np.abs(numpy_helper.to_array(weights).astype(np.int16)).max(initial=0) > LARGEST_WEIGHT:
            found.append(node.name)
    return found


def unsigned_weights(path: Path, unsigned: Path) -> None:
    """Write the graph at `path` with the weights of saturating products as u8, 128 more, around 128.

    Its answers are the same, and ONNX Runtime multiplies u8 by u8 exactly on every CPU, if more slowly.

    Raises:
        ConversionError: Weights of such a product are not stored as it reads them.
    """
    model = onnx.load(path)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    nodes = {node.name: node for node in graph.node}
    for name in saturating_products(graph):
        node = nodes[name]
        at, zero_point_at = WEIGHTS_OF_PRODUCTS[node.op_type], ZERO_POINTS_OF_WEIGHTS.get(node.op_type)
        if zero_point_at is None:  # a product of floats, whose weights a DequantizeLinear unpacks
            node, at, zero_point_at = made_by[node.input[at]], 0, 2
            while node.op_type != "DequantizeLinear" and node.input[0] in made_by:
                node = made_by[node.input[0]]
        if node.input[at].endswith(UNSIGNED):  # of two products that share weights
            continue
        weights = tensors.get(node.input[at])
        if weights is None or (node.op_type in FLOAT_PRODUCTS or node.op_type in UNPACKING[1:]):
            raise ConversionError(f"{name}: its weights are computed, and cannot be stored as u8")
        given = node.input[zero_point_at] if len(node.input) > zero_point_at else ""
        if given and given not in tensors:
            raise ConversionError(f"{name}: the zero point of its weights is computed")
        scales = tensors.get(node.input[1]) if node.op_type == "DequantizeLinear" else None
        zeros = np.zeros(() if scales is None else tuple(scales.dims), dtype=np.int8)
        zeros = numpy_helper.to_array(tensors[given]) if given else zeros
        for old, values, place in (
            (weights.name, numpy_helper.to_array(weights), at),
            (given or f"{name}/zero_point", zeros, zero_point_at),
        ):
            if old + UNSIGNED not in tensors:
                shifted = (values.astype(np.int16) + ACTIVATION_ZERO_POINT).astype(np.uint8)
                tensors[old + UNSIGNED] = numpy_helper.from_array(shifted, old + UNSIGNED)
                graph.initializer.append(tensors[old + UNSIGNED])
            node.input.extend([""] * (place + 1 - len(node.input)))
            node.input[place] = old + UNSIGNED
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.save(model, unsigned)


def _stored_as(name: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    while name in made_by and made_by[name].op_type in UNPACKING:
        name = made_by[name].input[0]
    return name


def quantize_static_qdq(plain: Path, path: Path, calibration: Sequence[Batch]) -> None:
    """Quantise a graph of standard operators with observed ranges, within which all but 1 in 100,000 values
    lie.

    The last product before an output stays in float. Raises a `ConversionError` if there is nothing to
    observe.
    """
    if not calibration:
        raise ConversionError("needs rows to calibrate with, and the training split has none")
    prepared = path.with_name("prepared.onnx")
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    with redirect_stdout(io.StringIO()):  # the calibration prints its progress
        quantize_static(
            prepared,
            path,
            _Reader(calibration),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=list(STATIC_PRODUCTS),
            nodes_to_exclude=last_products(onnx.load(prepared).graph),
            calibrate_method=CalibrationMethod.Percentile,
            # Products of two activations, as in attention, lose much and gain little.
            extra_options={"MatMulConstBOnly": True, "CalibPercentile": CALIBRATION_PERCENTILE},
        )


def last_products(graph: onnx.GraphProto) -> list[str]:
    """Names of the products that an output is made of without another product between."""
    made_by = {name: node for node in graph.node for name in node.output}
    waiting = [output.name for output in graph.output]
    found: list[str] = []
    seen: set[str] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in made_by:
            continue
        seen.add(tensor)
        node = made_by[tensor]
        if node.op_type in STATIC_PRODUCTS:
            found.append(node.name)
        else:
            waiting += node.input
    return found


def quantize_weights(
    fused: Path,
    path: Path,
    bits: Literal[4, 8],
    operators: tuple[str, ...] = ("MatMul",),
    load: Load = onnx.load,
) -> None:
    """Store weights as `in_blocks` does; a `ConversionError` if nothing could be stored so."""
    model = in_blocks(load(fused), bits, operators)
    if not count_operators(model.graph, ("MatMulNBits",)):
        raise ConversionError("has no matrix product whose weights could be stored in blocks")
    onnx.save(model, path)


def in_blocks(
    model: onnx.ModelProto, bits: Literal[4, 8], operators: tuple[str, ...] = ("MatMul",)
) -> onnx.ModelProto:
    """The model with its operators' weights in blocks of 32 numbers with a scale each; inputs likewise."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    root.setLevel(level)  # importing it makes the whole process log at INFO
    root.handlers[:] = handlers
    quantizer = nbits.MatMulNBitsQuantizer(
        model,
        algo_config=nbits.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK_SIZE,
            is_symmetric=True,
            accuracy_level=INT8_ACCURACY,
            op_types_to_quantize=operators,
            bits=bits,
        ),
    )
    quantizer.process()
    stored: onnx.ModelProto = quantizer.model.model
    return stored


def scale(fused: Path, path: Path, calibration: Sequence[Batch]) -> None:
    """Write the graph with its outlier channels scaled; a `ConversionError` without calibration rows."""
    if not calibration:
        raise ConversionError("needs rows to calibrate with, and the training split has none")
    model = onnx.load(fused)
    scale_outliers(model, channel_ranges(fused, calibration))
    onnx.save(model, path)


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
    """Divide outlier channels by powers of two, in place; return how many products had some."""
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


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration batches as the quantiser asks for them: of one shape, texts padded to the longest."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        width = max(values.shape[1] for batch in batches for values in batch.values())
        rows = min(len(values) for batch in batches for values in batch.values())
        self._batches = iter(
            right_padded({name: values[:rows] for name, values in batch.items()}, width) for batch in batches
        )

    def get_next(self) -> Any:
        return next(self._batches, None)
