from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Source, build_graphs
from gauntlet.components.convert_to_onnx.export import FusedOps, signature_of_texts
from gauntlet.components.convert_to_onnx.quantization import saturating_products, unsigned_weights
from gauntlet.manifests.conversion import CandidateName
from gauntlet.serving.bundle import open_session
from gauntlet.trainer.saved_model import load_model

NAMES: tuple[CandidateName, ...] = get_args(CandidateName)
# Root mean square of the difference, of logits with a deviation of 1 or so.
TOLERANCE = {"plain": 1e-5, "fused": 1e-5, "fused_fp16": 0.01, "weights_int8": 0.05, "weights_int4": 0.8}
INT8_TOLERANCE = 0.25
FLOAT = ("plain", "fused")


def ragged_batch(rows: int, tokens: int, padding: str) -> dict[str, torch.Tensor]:
    """Random words; row r has 1 + r % tokens of them, with the padding on the given side."""
    generator = torch.Generator().manual_seed(rows * 100 + tokens)
    input_ids = torch.randint(4, 19, (rows, tokens), generator=generator)
    lengths = 1 + torch.arange(rows) % tokens
    mask = (torch.arange(tokens) < lengths.unsqueeze(1)).long()
    mask = mask if padding == "right" else mask.flip(1)
    return {"input_ids": input_ids * mask, "attention_mask": mask}


CALIBRATION = [{name: tensor.numpy() for name, tensor in ragged_batch(16, 20, "right").items()}]


def source_of(checkpoint: Path, opset: int = 17) -> Source:
    """Training saw all of the tiny model's 19 tokens but the three that are no words and no padding."""
    used_ids = frozenset(range(19)) - {1, 2, 3}
    return Source(load_model(checkpoint, "eager"), signature_of_texts(), opset, CALIBRATION, used_ids)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Graph]:
    built = build_graphs(NAMES, source_of(checkpoint), tmp_path_factory.mktemp("graphs"))
    assert not [graph for graph in built if isinstance(graph, Failed)]
    return {graph.name: graph for graph in built if isinstance(graph, Graph)}


def logits_of(graph: Graph, batch: dict[str, torch.Tensor]) -> np.ndarray:
    session = open_session(graph.path, threads=1)
    return session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "tokens", "padding"),
    [(1, 1, "right"), (1, 30, "right"), (3, 5, "left"), (32, 20, "right"), (7, 32, "left")],
)
def test_every_candidate_matches_pytorch_on_ragged_batches(
    graphs: dict[str, Graph], checkpoint: Path, name: str, rows: int, tokens: int, padding: str
) -> None:
    batch = ragged_batch(rows, tokens, padding)
    with torch.inference_mode():
        expected = load_model(checkpoint, "sdpa")(**batch).numpy()
    assert expected.std() > 0.2, "scores that hardly differ would prove nothing"
    error = np.sqrt(np.mean((logits_of(graphs[name], batch) - expected) ** 2))
    assert error < TOLERANCE.get(name, INT8_TOLERANCE)


@pytest.mark.parametrize("opset", [14, 17, 20])
def test_the_opset_is_honoured_by_every_candidate(tmp_path: Path, checkpoint: Path, opset: int) -> None:
    for graph in build_graphs(("fused", "int8", "int8_per_token"), source_of(checkpoint, opset), tmp_path):
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


def test_two_layers_fuse_into_two_attentions_two_layer_norms_each_and_two_gelus(
    graphs: dict[str, Graph],
) -> None:
    norms = 2 * 2 + 1  # the last one is the embedding's
    assert graphs["fused"].fused == FusedOps(attention=2, layer_norm=norms, gelu=2)
    operators = Counter(node.op_type for node in onnx.load(graphs["fused"].path).graph.node)
    assert operators["Attention"] == 2
    assert operators["Softmax"] == 0, "an unfused attention is left"
    assert operators["Erf"] == 0, "an unfused GELU is left"


@pytest.mark.parametrize("name", ["fused", "int8"])
def test_a_session_computes_sums_and_layer_norms_apart(
    tmp_path: Path, graphs: dict[str, Graph], name: str
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "as_it_runs.onnx")
    onnxruntime.InferenceSession(str(graphs[name].path), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "as_it_runs.onnx").graph.node)
    assert operators["LayerNormalization"] == 2 * 2 + 1
    assert not [operator for operator in operators if "Skip" in operator or "Embed" in operator]


def test_no_text_has_its_segments_looked_up(graphs: dict[str, Graph]) -> None:
    def tables(name: str) -> list[str]:
        nodes = onnx.load(graphs[name].path).graph.node
        return sorted(node.input[0].split(".")[-2] for node in nodes if ".weight" in "".join(node.input[:1]))

    assert "token_type_embeddings" in tables("plain")
    assert [table for table in tables("fused") if "embeddings" in table] == [
        "position_embeddings",
        "word_embeddings",
    ]


def test_int8_computes_every_matrix_product_in_integers(graphs: dict[str, Graph]) -> None:
    operators = Counter(node.op_type for node in onnx.load(graphs["int8"].path).graph.node)
    assert operators["QAttention"] == 2
    assert operators["MatMulInteger"] == 2 * 3 + 1  # per layer: attention's output, up, down; then the head
    assert not {"Attention", "MatMul", "Gemm"} & operators.keys()
    assert graphs["int8"].size_mb < 0.4 * graphs["fused"].size_mb


def test_a_scale_per_token_takes_every_matrix_product_but_the_head(graphs: dict[str, Graph]) -> None:
    operators = Counter(node.op_type for node in onnx.load(graphs["int8_per_token"].path).graph.node)
    assert operators["MatMulIntegerToFloat"] == 2 * 4
    assert operators["MultiHeadAttention"] == 2
    assert not {"Attention", "MatMul"} & operators.keys()
    assert graphs["int8_per_token"].size_mb < 0.4 * graphs["fused"].size_mb


@pytest.mark.parametrize("name", ["int8_per_token", "int8_pruned", "weights_int8", "plain"])
def test_no_row_depends_on_the_rows_and_the_padding_beside_it(graphs: dict[str, Graph], name: str) -> None:
    assert largest_change(graphs[name]) < 1e-4


def test_one_scale_for_a_batch_lets_rows_change_each_other(graphs: dict[str, Graph]) -> None:
    assert largest_change(graphs["int8"]) > 1e-2


def largest_change(graph: Graph) -> float:
    """Of a logit of any row, between its batch of ragged lengths and the row alone without padding."""
    batch = ragged_batch(12, 24, "right")
    together = logits_of(graph, batch)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    alone = [
        logits_of(graph, {name: values[row : row + 1, :length] for name, values in batch.items()})
        for row, length in enumerate(lengths)
    ]
    return float(np.abs(together - np.concatenate(alone)).max())


def test_a_per_tensor_scale_is_one_number(graphs: dict[str, Graph]) -> None:
    def largest(name: str) -> int:
        weights = onnx.load(graphs[name].path).graph.initializer
        return max(int(np.prod(w.dims)) for w in weights if w.name.endswith("_scale"))

    assert largest("int8_per_tensor") == 1
    assert largest("int8") > 1


def test_attention_may_stay_in_float(graphs: dict[str, Graph]) -> None:
    operators = Counter(node.op_type for node in onnx.load(graphs["int8_float_attention"].path).graph.node)
    assert (operators["Attention"], operators["QAttention"], operators["MatMulInteger"]) == (2, 0, 7)
    assert graphs["int8_float_attention"].fused == graphs["fused"].fused


def test_static_ranges_are_in_the_graph(graphs: dict[str, Graph]) -> None:
    operators = Counter(node.op_type for node in onnx.load(graphs["int8_static"].path).graph.node)
    assert operators["QuantizeLinear"] > 0
    assert operators["DynamicQuantizeLinear"] == 0


@pytest.mark.parametrize(("name", "bits"), [("weights_int8", 8), ("weights_int4", 4)])
def test_weights_are_stored_in_as_many_bits_as_the_name_says(
    graphs: dict[str, Graph], name: str, bits: int
) -> None:
    nodes = [node for node in onnx.load(graphs[name].path).graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) == 2 * 3  # per layer: attention's output, up, down
    assert {a.i for node in nodes for a in node.attribute if a.name == "bits"} == {bits}


def test_a_pruned_table_has_the_rows_in_use_and_one_for_all_others(
    graphs: dict[str, Graph], checkpoint: Path
) -> None:
    def rows(name: str) -> int:
        (table,) = [
            tensor
            for tensor in onnx.load(graphs[name].path).graph.initializer
            if "word_embeddings" in tensor.name and len(tensor.dims) == 2 and tensor.dims[1] > 1
        ]
        return int(table.dims[0])

    assert (rows("int8"), rows("int8_pruned")) == (19, 17)
    seen, unseen, other = (
        {"input_ids": torch.tensor([[5, token, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
        for token in (7, 1, 2)
    )
    np.testing.assert_array_equal(
        logits_of(graphs["int8_pruned"], unseen), logits_of(graphs["int8_pruned"], other)
    )
    assert np.abs(logits_of(graphs["int8"], unseen) - logits_of(graphs["int8"], other)).max() > 0.1
    np.testing.assert_allclose(
        logits_of(graphs["int8_pruned"], seen), logits_of(graphs["int8"], seen), atol=0.3
    )


def test_no_candidate_depends_on_the_class_of_cpu(graphs: dict[str, Graph]) -> None:
    for name, graph in graphs.items():
        assert saturating_products(onnx.load(graph.path).graph) == [], name


@pytest.mark.parametrize("largest", [64, 65])
def test_a_signed_weight_of_more_than_7_bits_depends_on_the_class_of_cpu(
    graphs: dict[str, Graph], largest: int
) -> None:
    for name, products in (("int8", 2 + 2 * 3 + 1), ("int8_static", 2 * 6)):
        graph = onnx.load(graphs[name].path).graph
        weights = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
        for tensor in weights:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] = -largest
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        assert len(saturating_products(graph)) == (products if largest > 64 else 0)


@pytest.mark.parametrize("name", ["int8", "int8_static", "int8_per_token"])
def test_a_graph_with_unsigned_weights_gives_the_same_answers_and_depends_on_no_cpu(
    tmp_path: Path, graphs: dict[str, Graph], name: str
) -> None:
    model = onnx.load(graphs[name].path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] = -65  # on an AVX2-only CPU one such weight changes next to nothing
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    paths = tmp_path / f"{name}.onnx", tmp_path / "unsigned.onnx"
    onnx.save(model, paths[0])
    assert saturating_products(model.graph)
    unsigned_weights(*paths)
    assert saturating_products(onnx.load(paths[1]).graph) == []
    batch = {"input_ids": torch.tensor([[5, 7, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    given, unsigned = (logits_of(replace(graphs[name], path=path), batch) for path in paths)
    np.testing.assert_allclose(unsigned, given, atol=1e-3)


def test_the_same_checkpoint_gives_the_same_bytes(
    tmp_path: Path, graphs: dict[str, Graph], checkpoint: Path
) -> None:
    for again in build_graphs(NAMES, source_of(checkpoint), tmp_path):
        assert isinstance(again, Graph)
        assert again.path.read_bytes() == graphs[again.name].path.read_bytes(), again.name


def test_only_named_candidates_are_returned_though_others_are_steps_on_the_way(
    tmp_path: Path, checkpoint: Path
) -> None:
    built = build_graphs(("int8",), source_of(checkpoint), tmp_path)
    assert [(type(graph), graph.name) for graph in built] == [(Graph, "int8")]


def test_a_model_that_does_not_fuse_is_refused_with_the_counts_and_the_rest_remains(
    tmp_path: Path, rotary_checkpoint: Path
) -> None:
    names: tuple[CandidateName, ...] = ("plain", "fused", "int8", "int8_static")
    plain, fused, int8, static = build_graphs(names, source_of(rotary_checkpoint), tmp_path)
    assert isinstance(plain, Graph)
    assert isinstance(static, Graph)
    assert isinstance(fused, Failed)
    assert "did not fuse whole: attention 0 of 2" in fused.reason
    assert isinstance(int8, Failed)
    assert int8.reason == f"needs the candidate fused, which {fused.reason}"


@pytest.mark.parametrize("name", ["int8", "int8_static"])
def test_without_rows_to_calibrate_with_a_candidate_says_so(
    tmp_path: Path, checkpoint: Path, name: CandidateName
) -> None:
    (failed,) = build_graphs((name,), replace(source_of(checkpoint), calibration=[]), tmp_path)
    assert failed == Failed(name, "needs rows to calibrate with, and the training split has none")


def test_a_table_that_is_all_in_use_is_not_pruned(tmp_path: Path, checkpoint: Path) -> None:
    source = replace(source_of(checkpoint), used_ids=frozenset(range(19)))
    (failed,) = build_graphs(("int8_pruned",), source, tmp_path)
    assert failed == Failed("int8_pruned", "has no row to prune: training uses 19 of 19 tokens")


class Unexportable(nn.Module):
    """An encoder with an operator that ONNX does not have."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder, self.model = model.encoder, model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits = self.model(input_ids, attention_mask)
        return torch.linalg.eigvals(logits.T @ logits).real


@pytest.mark.parametrize(
    ("wrap", "opset", "named"), [(lambda model: model, 99, "99"), (Unexportable, 17, "linalg_eigvals")]
)
def test_what_the_exporter_raises_is_named_and_not_raised(
    tmp_path: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str], wrap, opset: int, named: str
) -> None:
    source = source_of(checkpoint, opset)
    built = build_graphs(("plain", "fused"), replace(source, model=wrap(source.model)), tmp_path)
    assert [type(graph) for graph in built] == [Failed, Failed]
    plain = built[0]
    assert isinstance(plain, Failed)
    assert plain.reason.startswith("could not be made: ")
    assert "Error: " in plain.reason
    assert named in plain.reason
    assert "Traceback" in capfd.readouterr().err
