"""Texts longer than the model reads: refused by `gauntlet check`, cut by `gauntlet predict`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from gauntlet.backends.factory import open_registry
from gauntlet.serving.bundle import BundleInfo, TensorSpec, write_bundle
from tests.pipelines.test_cli import SAMPLE, gauntlet

POSITIONS = 6


def _graph() -> onnx.ModelProto:
    """logits (B, 2): the sums of word and position scores; like BERT it takes as many positions as it has."""
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["of_words"]),
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Slice", ["shape", "one", "two", "zero"], ["length"]),
        helper.make_node("Slice", ["positions", "zero", "length", "one"], ["of_positions"]),
        helper.make_node("Add", ["of_words", "of_positions"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["wide_mask"]),
        helper.make_node("Mul", ["scores", "wide_mask"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "one"], ["logits"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    constants = [
        numpy_helper.from_array(np.array([[0, 0], [0, 0], [0, 2], [3, 0]], dtype=np.float32), "words"),
        numpy_helper.from_array(np.zeros((1, POSITIONS, 2), dtype=np.float32), "positions"),
        *(numpy_helper.from_array(np.array([n]), name) for n, name in enumerate(("zero", "one", "two"))),
    ]
    graph = helper.make_graph(nodes, "positions", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _promoted(home: Path, max_length: int) -> None:
    folder = home.parent / "parts"
    folder.mkdir()
    onnx.save(_graph(), folder / "model.onnx")
    words = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    info = BundleInfo(
        name="moods",
        task="text_classification",
        labels=("bad", "good"),
        inputs=tuple(
            TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")
        ),
        outputs=(TensorSpec("logits", "float32", ("batch", 2)),),
        max_length=max_length,
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(home.parent / "bundle", info, {path.name: path for path in folder.iterdir()})
    registry = open_registry(f"sqlite:///{home / 'gauntlet.db'}")
    registry.register("moods", home.parent / "bundle", {})
    registry.promote("moods")


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.max_length", "1024"), ("training.search.max_length", "{choices: [64, 1024]}")],
)
def test_check_refuses_more_tokens_than_the_packaged_encoder_reads(
    key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("check", SAMPLE, "--set", "training.max_length=512") == 0
    assert gauntlet("check", SAMPLE, "--set", f"{key}={value}") == 2
    message = capsys.readouterr().err
    assert f"{key}\n  found    1024\n  expected at most 512, the tokens that sentence-transformers" in message


def test_check_refuses_an_encoder_whose_folder_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("check", SAMPLE, "--set", f"training.encoder={tmp_path / 'absent'}") == 2
    assert "training.encoder\n  found    " in capsys.readouterr().err


def test_a_text_is_cut_as_in_training_and_the_answer_says_so(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _promoted(own_home, POSITIONS)
    assert gauntlet("predict", "bad day", "good " * 5 + "good " + "bad " * 50) == 0
    found = capsys.readouterr().out
    assert "text 2: cut at 6 tokens, as in training; the rest is not read" in found
    assert "text 1" not in found
    assert "good   1.000" in found  # the first six words alone


def test_a_graph_that_cannot_read_so_many_tokens_ends_in_a_message(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _promoted(own_home, 1024)
    assert gauntlet("predict", "good " * 600) == 2
    message = capsys.readouterr().err
    assert "model.onnx: the graph cannot compute these rows (input_ids (1, 600)" in message
    assert "training.max_length may be over what its encoder reads" in message
    assert "Traceback" not in message
