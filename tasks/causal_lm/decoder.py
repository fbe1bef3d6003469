"""One ONNX graph of a causal language model and its KV cache, for prefill and for decoding, also quantised.

B = batch, T = new tokens, P = tokens in the cache, K = tokens whose logits are wanted, V = vocabulary,
H = key and value heads, D = size of a head. All but H, D and V are dynamic; P = 0 is the prefill.

| tensor | shape | |
|---|---|---|
| `input_ids` | (B, T) int64 | |
| `attention_mask` | (B, P + T) int64 | 0 is padding, on either side; positions are counted from it |
| `logits_to_keep` | (K,) int64 | indices into T: a prefill needs the last only, perplexity all |
| `past_key_values.{layer}.key`, `.value` | (B, H, P, D) float32 | |
| `logits` | (B, K, V) float32 | |
| `present.{layer}.key`, `.value` | (B, H, P + T, D) float32 | |
"""

from __future__ import annotations

import inspect
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gauntlet.components.convert_to_onnx import quantization
from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.serving.generation import METADATA_KEY, PAST, PRESENT
from gauntlet.tasks.language.language_models import context_of, require_convertible, stop_tokens

OPSET = 23  # the first with Attention, which takes the cache, and RotaryEmbedding
ATTENTION = "onnx_attention"  # our name for an attention function, beside transformers' "eager" and "sdpa"
UNSUPPORTED_ATTENTION = ("sliding_window", "softcap", "s_aux")
ROTARY_PARAMETERS = ["q", "k", "cos", "sin", "unsqueeze_dim"]
EXAMPLE = (2, 3, 5)  # B, T and P that the export traces; it would take a size of 1 for a constant


class _CachelessLayer(DynamicLayer):  # type: ignore[misc]
    """Passes on only the new keys and values: the attention node appends them to the cache."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states


class DecoderGraph(nn.Module):
    """The model with the inputs and outputs of its graph; `attend` is its attention during tracing."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._past: tuple[Tensor, ...] = ()
        self._present: list[Tensor] = []

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Logits, then each layer's keys and values."""
        columns = torch.arange(attention_mask.shape[1])
        first = attention_mask.shape[1] - input_ids.shape[1]
        position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, first:]
        real = attention_mask.bool()[:, None, None, :]
        seen = real & (columns <= columns[first:, None])  # (B, 1, T, P + T)
        lowest = torch.finfo(torch.float32).min
        cache = DynamicCache()
        cache.layers = [_CachelessLayer() for _ in past[::2]]
        self._past, self._present = past, []
        logits = self.model(
            input_ids=input_ids,
            attention_mask=torch.where(seen, 0.0, lowest),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return (logits, *self._present)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attention as transformers calls it, in one node: query (B, heads, T, D) to (B, T, heads, D)."""
        if unsupported := [name for name in UNSUPPORTED_ATTENTION if options.get(name) is not None]:
            raise ConversionError(
                f"the model's attention uses {', '.join(unsupported)}, which the export lacks"
            )
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        past_key, past_value = self._past[2 * layer : 2 * layer + 2]
        output, present_key, present_value, _ = torch.onnx.ops.attention(
            query, key, value, attention_mask, past_key, past_value, scale=scaling
        )
        self._present += [present_key, present_value]
        return output.transpose(1, 2), None


def export_decoder(model: PreTrainedModel, path: Path) -> None:
    """Write a causal language model's graph; a `ConversionError` if it cannot be exported.

    The TorchScript exporter makes four times the nodes. The model is left in evaluation mode.
    """
    heads, layers, size = _cache_shape(model)
    batch, tokens, cached = EXAMPLE
    graph = DecoderGraph(model.eval())
    cache = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    example = (
        torch.ones((batch, tokens), dtype=torch.int64),
        torch.ones((batch, cached + tokens), dtype=torch.int64),
        torch.arange(tokens),
        *(torch.zeros(batch, heads, cached, size) for _ in cache),
    )
    shapes = ({0: "batch", 1: "tokens"}, {0: "batch", 1: "columns"}, {0: "kept"})
    try:
        with warnings.catch_warnings(), _quiet(), torch.no_grad(), _as_nodes(graph):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                example,
                input_names=[
                    "input_ids",
                    "attention_mask",
                    "logits_to_keep",
                    *(PAST + name for name in cache),
                ],
                output_names=["logits", *(PRESENT + name for name in cache)],
                dynamic_shapes=(*shapes, tuple({0: "batch", 2: "cached"} for _ in cache)),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever tracing may raise; its cause is the model's own error
        cause = error.__cause__ or error
        first_line = str(cause).strip().partition("\n")[0]
        raise ConversionError(f"could not be exported: {type(cause).__name__}: {first_line}") from error
    assert program is not None
    proto = ONNXModel(program.model_proto)
    proto.replace_gemm_with_matmul()  # the only product that quantisation knows
    facts = {"context": context_of(model), "stop_tokens": stop_tokens(model)}
    onnx.helper.set_model_props(proto.model, {METADATA_KEY: json.dumps(facts)})
    save(proto.model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings: the terminal shows a step's last line as its state."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    onnx.save(model, temporary)
    temporary.replace(path)


def _cache_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    """Key and value heads, layers and head size."""
    try:
        require_convertible(model)
    except ValueError as error:
        raise ConversionError(str(error)) from None
    config = model.config.get_text_config(decoder=True)
    dtypes = {str(parameter.dtype) for parameter in model.parameters()} - {"torch.float32"}
    if dtypes:
        raise ConversionError(f"expected float32 weights, found {', '.join(sorted(dtypes))}")
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, config.num_hidden_layers, size


@contextmanager
def _as_nodes(graph: DecoderGraph) -> Iterator[None]:
    """Export attention, and rotary positions if the model has the usual ones, as one node each."""
    model, module = graph.model, sys.modules[type(graph.model).__module__]
    attention = model.config._attn_implementation
    rotary = getattr(module, "apply_rotary_pos_emb", None)
    ALL_ATTENTION_FUNCTIONS[ATTENTION] = graph.attend
    try:
        model.set_attn_implementation(ATTENTION)
        if rotary is not None and is_usual_rotary(rotary):
            module.apply_rotary_pos_emb = rotate  # type: ignore[attr-defined]
        yield
    finally:
        if rotary is not None:
            module.apply_rotary_pos_emb = rotary  # type: ignore[attr-defined]
        model.set_attn_implementation(attention)
        del ALL_ATTENTION_FUNCTIONS[ATTENTION]


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """`apply_rotary_pos_emb` of llama and most others: q and k (B, heads, T, D), cos and sin (B, T, D)."""
    half = cos.shape[-1] // 2  # both halves hold the same
    angles = cos[..., :half], sin[..., :half]
    return torch.onnx.ops.rotary_embedding(q, *angles), torch.onnx.ops.rotary_embedding(k, *angles)


def is_usual_rotary(rotary: Any) -> bool:
    """Whether a model's own function does what `rotate` does."""
    if list(inspect.signature(rotary).parameters) != ROTARY_PARAMETERS:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k, half = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 3, 8), (2, 2, 3, 8), (2, 3, 4))
    )
    angles = torch.cat((half, half), dim=-1)
    pairs = zip(
        rotary(q, k, angles.cos(), angles.sin()), rotate(q, k, angles.cos(), angles.sin()), strict=True
    )
    return all(torch.allclose(theirs, ours, atol=1e-6) for theirs, ours in pairs)


def quantize_weights(graph: Path, path: Path, bits: Literal[4, 8]) -> None:
    """Store the matrices of products in blocks, with 4 bits the embedding too (onnxruntime has none of 8)."""
    operators = ("MatMul", "Gather") if bits == 4 else ("MatMul",)
    quantization.quantize_weights(graph, path, bits, operators, load_for_quantizing)


def quantize_per_token(graph: Path, path: Path) -> None:
    """Store the matrices of products and the embedding in int8; activations get a scale per token."""
    quantization.quantize_per_token(graph, path, load_for_quantizing)


def quantize_int8(graph: Path, path: Path) -> None:
    """Store products' matrices in int8 with a scale per column (7 bits); activations get one per tensor."""
    model = load_for_quantizing(graph)
    add_pre_process_metadata(model)  # exporting did all that the quantiser's own preparation does
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
    """A graph whose matrices are all constants, not the transpose of a tied embedding."""
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
