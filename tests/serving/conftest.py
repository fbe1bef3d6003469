"""A bundle whose scores can be computed by hand: each word adds its own row of `WORD_SCORES`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from serving.bundle import BundleInfo, TensorSpec, write_bundle

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


def write_parts(folder: Path) -> dict[str, Path]:
    """The files of a bundle in a new folder, by their name in it."""
    folder.mkdir()
    onnx.save(sum_of_word_scores(), folder / "model.onnx")
    tokenizer = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(WORD_SCORES)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "parity.json").write_text("{}")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Path]:
    """The files of a bundle, by their name in it."""
    return write_parts(tmp_path / "parts")


@pytest.fixture
def info() -> BundleInfo:
    """What `bundle.json` says of it."""
    return described()


def described() -> BundleInfo:
    """What `bundle.json` says of the bundle."""
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


@pytest.fixture
def bundle_folder(tmp_path: Path, parts: dict[str, Path], info: BundleInfo) -> Path:
    """Where the bundle lies."""
    folder = tmp_path / "bundle"
    write_bundle(folder, info, parts)
    return folder
