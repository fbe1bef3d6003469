"""A bundle whose scores can be computed by hand: each word adds its own row of `WORD_SCORES`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from gauntlet.serving.bundle import BundleInfo, TensorSpec, file_sha256, write_bundle

# The padding's score is absurd on purpose: were a masked position counted, every logit would show it.
WORD_SCORES = {
    "[PAD]": (1e6, -1e6),
    "[UNK]": (0.0, 0.0),
    "good": (0.0, 2.0),
    "bad": (3.0, 0.0),
    "fine": (0.5, 1.0),
}


def sum_of_word_scores() -> onnx.ModelProto:
    """logits (B, 2) = sum over the unmasked tokens of their word's scores."""
    table = np.array(list(WORD_SCORES.values()), dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["scores", "wide_mask"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens_axis"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens_axis"),
    ]
    graph = helper.make_graph(nodes, "sum-of-word-scores", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def scores_by_padding() -> onnx.ModelProto:
    """The same, but the first class gains 10 for every token beyond three that the batch is padded to."""
    model = sum_of_word_scores()
    graph = model.graph
    graph.node[-1].output[0] = "sums"
    graph.node.extend(
        [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "tokens_axis"], ["width"]),
            helper.make_node("Cast", ["width"], ["float_width"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float_width", "three"], ["excess"]),
            helper.make_node("Mul", ["excess", "gains"], ["gained"]),
            helper.make_node("Add", ["sums", "gained"], ["logits"]),
        ]
    )
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(3, dtype=np.float32), "three"),
            numpy_helper.from_array(np.array([10, 0], dtype=np.float32), "gains"),
        ]
    )
    return model


def write_parts(folder: Path) -> dict[str, Path]:
    """The files of a bundle, by their name in it; the certificate is empty."""
    folder.mkdir(parents=True)
    onnx.save(sum_of_word_scores(), folder / "model.onnx")
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(WORD_SCORES)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "parity.json").write_text("{}")
    return {path.name: path for path in folder.iterdir()}


def word_score_info() -> BundleInfo:
    """What `bundle.json` says of such a bundle."""
    return BundleInfo(
        name="moods",
        task="text_classification",
        labels=("bad", "good"),
        inputs=(
            TensorSpec("input_ids", "int64", ("batch", "tokens")),
            TensorSpec("attention_mask", "int64", ("batch", "tokens")),
        ),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
        max_length=4,
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={"macro_f1": 0.75},
        latency_ms={"1": 1.5},
        speedup={"1": 2.5},
        lineage={"git_commit": "unknown"},
    )


def certified(folder: Path, **certificate: Any) -> Path:
    """The bundle of word scores; its certificate says that its rows do not change each other's labels."""
    parts = write_parts(folder / "parts")
    neighbours = {"rows": 9, "max_difference": 0.0, "label_changes": 0}
    content = {"model_sha256": file_sha256(parts["model.onnx"]), "rows": 9, "bounds": {}, **certificate}
    parts["parity.json"].write_text(json.dumps({"neighbours": neighbours, **content}))
    write_bundle(folder / "bundle", word_score_info(), parts)
    return folder / "bundle"
