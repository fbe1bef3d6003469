from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from components.convert_to_onnx.candidates import CHAIN, Failed, Graph, build_graphs
from components.convert_to_onnx.export import FusedOps
from serving.bundle import open_session
from trainer.checkpoint import load_model

# Rounding in float32, and the 8 bits of weights and activations.
TOLERANCE = {"plain": 1e-5, "fused": 1e-5, "fused_int8": 0.25}


def ragged_batch(rows: int, tokens: int, padding: str) -> dict[str, torch.Tensor]:
    """Random words; row r has 1 + r % tokens of them, with the padding on the given side."""
    generator = torch.Generator().manual_seed(rows * 100 + tokens)
    input_ids = torch.randint(4, 19, (rows, tokens), generator=generator)
    lengths = 1 + torch.arange(rows) % tokens
    mask = (torch.arange(tokens) < lengths.unsqueeze(1)).long()
    mask = mask if padding == "right" else mask.flip(1)
    return {"input_ids": input_ids * mask, "attention_mask": mask}


CALIBRATION = [{name: tensor.numpy() for name, tensor in ragged_batch(16, 20, "right").items()}]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Graph]:
    built = build_graphs(
        CHAIN, load_model(checkpoint, "eager"), 17, CALIBRATION, tmp_path_factory.mktemp("graphs")
    )
    assert all(isinstance(graph, Graph) for graph in built), built
    return {graph.name: graph for graph in built if isinstance(graph, Graph)}


def logits_of(graph: Graph, batch: dict[str, torch.Tensor]) -> np.ndarray:
    session = open_session(graph.path, threads=1)
    return session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]


@pytest.mark.parametrize("name", CHAIN)
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 30), (3, 5), (32, 20), (7, 32)])
def test_every_candidate_matches_pytorch_on_ragged_batches(
    graphs: dict[str, Graph], checkpoint: Path, name: str, rows: int, tokens: int
) -> None:
    batch = ragged_batch(rows, tokens, "right")
    with torch.inference_mode():
        expected = load_model(checkpoint, "sdpa")(**batch).numpy()
    assert expected.std() > 0.2, "scores that hardly differ would prove nothing"
    np.testing.assert_allclose(logits_of(graphs[name], batch), expected, rtol=0, atol=TOLERANCE[name])


@pytest.mark.parametrize("name", ["plain", "fused"])
def test_the_mask_counts_and_not_the_length(graphs: dict[str, Graph], checkpoint: Path, name: str) -> None:
    batch = ragged_batch(4, 9, "left")
    with torch.inference_mode():
        expected = load_model(checkpoint, "sdpa")(**batch).numpy()
    np.testing.assert_allclose(logits_of(graphs[name], batch), expected, rtol=0, atol=TOLERANCE[name])


@pytest.mark.parametrize("opset", [14, 17, 21])
def test_the_opset_is_honoured_by_every_candidate(tmp_path: Path, checkpoint: Path, opset: int) -> None:
    for graph in build_graphs(CHAIN, load_model(checkpoint, "eager"), opset, CALIBRATION, tmp_path):
        assert isinstance(graph, Graph), graph
        opsets = {entry.domain: entry.version for entry in onnx.load(graph.path).opset_import}
        assert opsets[""] == opset


def test_inputs_and_output_have_their_names_types_and_dynamic_axes(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        session = open_session(graph.path, threads=1)
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        assert inputs == [
            ("input_ids", "tensor(int64)", ["batch", "tokens"]),
            ("attention_mask", "tensor(int64)", ["batch", "tokens"]),
        ]
        outputs = [(value.name, value.type, value.shape) for value in session.get_outputs()]
        assert outputs == [("logits", "tensor(float)", ["batch", 3])]


def test_two_layers_fuse_into_two_attentions_four_layer_norms_and_two_gelus(
    graphs: dict[str, Graph],
) -> None:
    assert graphs["fused"].fused == FusedOps(attention=2, layer_norm=4, gelu=2)
    operators = Counter(node.op_type for node in onnx.load(graphs["fused"].path).graph.node)
    assert operators["Attention"] == 2
    assert operators["Softmax"] == 0, "an unfused attention is left"
    assert operators["Erf"] == 0, "an unfused GELU is left"


def test_int8_computes_every_matrix_product_in_integers(graphs: dict[str, Graph]) -> None:
    operators = Counter(node.op_type for node in onnx.load(graphs["fused_int8"].path).graph.node)
    assert operators["QAttention"] == 2
    assert operators["MatMulInteger"] == 2 * 3 + 1  # per layer: attention's output, up, down; then the head
    assert not {"Attention", "MatMul", "Gemm"} & operators.keys()
    assert graphs["fused_int8"].size_mb < 0.4 * graphs["fused"].size_mb


def test_the_same_checkpoint_gives_the_same_bytes(
    tmp_path: Path, graphs: dict[str, Graph], checkpoint: Path
) -> None:
    for again in build_graphs(CHAIN, load_model(checkpoint, "eager"), 17, CALIBRATION, tmp_path):
        assert isinstance(again, Graph)
        assert again.path.read_bytes() == graphs[again.name].path.read_bytes()


def test_only_named_candidates_are_returned_though_others_are_steps_on_the_way(
    tmp_path: Path, checkpoint: Path
) -> None:
    built = build_graphs(("fused_int8",), load_model(checkpoint, "eager"), 17, CALIBRATION, tmp_path)
    assert [(type(graph), graph.name) for graph in built] == [(Graph, "fused_int8")]


def test_a_model_that_does_not_fuse_is_refused_with_the_counts_and_plain_remains(
    tmp_path: Path, rotary_checkpoint: Path
) -> None:
    plain, fused, int8 = build_graphs(
        CHAIN, load_model(rotary_checkpoint, "eager"), 17, CALIBRATION, tmp_path
    )
    assert isinstance(plain, Graph)
    assert isinstance(fused, Failed)
    assert "did not fuse whole: attention 0 of 2" in fused.reason
    assert isinstance(int8, Failed)
    assert int8.reason == f"needs the candidate fused, which {fused.reason}"


def test_what_the_exporter_raises_is_named_and_not_raised(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    no_such_opset = 99
    built = build_graphs(
        ("plain", "fused"), load_model(checkpoint, "eager"), no_such_opset, CALIBRATION, tmp_path
    )
    assert [type(graph) for graph in built] == [Failed, Failed]
    plain = built[0]
    assert isinstance(plain, Failed)
    assert plain.reason.startswith("could not be made: ")
    assert "Error: " in plain.reason
    assert "99" in plain.reason
    assert "Traceback" in capfd.readouterr().err
