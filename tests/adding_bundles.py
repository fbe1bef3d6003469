"""A language model that can be computed by hand: it adds.

After tokens with the sum s, token v has the logit -(v - s mod 10)²: the next one is the last digit of the sum
of all before it, which only a cache and a mask that hold every token of the row can give.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from gauntlet.components.convert_to_onnx.bundling import tensor_of
from gauntlet.serving.bundle import file_sha256, write_bundle
from tests.text_bundles import word_score_info

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONTEXT, STOP = 12, 0


def adding_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["values"], to=TensorProto.FLOAT),  # (B, T)
        helper.make_node("Unsqueeze", ["values", "heads_and_size"], ["new"]),  # (B, 1, T, 1)
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
        helper.make_node("Concat", ["past_key_values.0.value", "new"], ["present.0.value"], axis=2),
        helper.make_node("Squeeze", ["present.0.key", "heads_and_size"], ["columns"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["columns", "mask"], ["counted"]),
        helper.make_node("CumSum", ["counted", "columns_axis"], ["sums"]),  # (B, P + T)
        helper.make_node("Mod", ["sums", "ten"], ["digits"], fmod=1),
        helper.make_node("Shape", ["input_ids"], ["tokens"], start=1),
        helper.make_node("Neg", ["tokens"], ["first"]),
        helper.make_node("Slice", ["digits", "first", "end", "columns_axis"], ["answers"]),  # (B, T)
        helper.make_node("Gather", ["answers", "logits_to_keep"], ["kept"], axis=1),
        helper.make_node("Unsqueeze", ["kept", "last"], ["wide"]),  # (B, K, 1)
        helper.make_node("Sub", ["vocabulary", "wide"], ["distances"]),
        helper.make_node("Mul", ["distances", "distances"], ["squares"]),
        helper.make_node("Neg", ["squares"], ["logits"]),
    ]
    cache = ["batch", 1, "cached", 1]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "columns"]),
        helper.make_tensor_value_info("logits_to_keep", TensorProto.INT64, ["kept"]),
        *(helper.make_tensor_value_info(f"past_key_values.0.{part}", 1, cache) for part in ("key", "value")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "kept", 10]),
        *(helper.make_tensor_value_info(f"present.0.{part}", 1, cache) for part in ("key", "value")),
    ]
    constants = {
        "heads_and_size": np.array([1, 3]),
        "columns_axis": np.array([1]),
        "ten": np.array(10, dtype=np.float32),
        "end": np.array([np.iinfo(np.int64).max]),
        "last": np.array([2]),
        "vocabulary": np.arange(10, dtype=np.float32),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "adding", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"gauntlet": json.dumps({"context": CONTEXT, "stop_tokens": [STOP]})})
    return model


def write_adding(folder: Path, name: str = "adding") -> Path:
    """A bundle of it, with a certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    model = adding_model()
    onnx.save(model, folder / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(DIGITS)}, unk_token="zero"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)  # as training may have left it
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    certificate = {"model_sha256": file_sha256(folder / "model.onnx"), "rows": 4}
    (folder / "parity.json").write_text(json.dumps(certificate))
    specs = {"inputs": model.graph.input, "outputs": model.graph.output}
    found = {key: tuple(tensor_of(value) for value in values) for key, values in specs.items()}
    info = replace(word_score_info(), name=name, task="causal_lm", **found)
    files = {file: folder / file for file in ("model.onnx", "tokenizer.json", "parity.json")}
    write_bundle(folder / "bundle", info, files)
    return folder / "bundle"
