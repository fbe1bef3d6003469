"""Image classifiers: raw pixels in, and no graph of another function than PyTorch's gets through parity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Source, build_graphs
from gauntlet.components.convert_to_onnx.export import signature_of_images
from gauntlet.components.convert_to_onnx.scoring import (
    onnx_forward,
    parity_batches,
    pytorch_forward,
    sample,
)
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import CandidateName, Conversion
from gauntlet.serving.bundle import open_session
from gauntlet.tasks.classification.conversion import compare, score_classes
from gauntlet.tasks.images.conversion import ImageRows, open_subject
from gauntlet.tasks.images.networks import ImageClassifier, NetworkConfig
from gauntlet.trainer.saved_model import load_model, write_checkpoint
from tests.drawn_images import SHAPES, SIDE, draw
from tests.faulty_graphs import augmented, export, in_training_mode, unchanged, without_normalisation

MEAN, STD = 55.0, 70.0
WEIGHT_SPREAD = 30.0  # by which scores differ more than those of fresh weights
SHAPE = (1, SIDE, SIDE)
SUITED = {"plain", "int8_static"}


def save_checkpoint(folder: Path, arch: str) -> Path:
    """A network with seeded weights whose batch normalisation has seen some images."""
    torch.manual_seed(0)
    config = NetworkConfig(arch, SHAPE, len(SHAPES), (8, 16), 1, 0, 0.2, 0.2)  # type: ignore[arg-type]
    model = ImageClassifier(config, [MEAN], [STD])
    images = torch.from_numpy(draw(40, seed=3)[0])[:, None]
    model.train()
    for part in images.split(20):
        model(part)
    last = model.head[-1]
    assert isinstance(last, nn.Linear)
    last.weight.data *= WEIGHT_SPREAD

    def save_files(target: Path) -> None:
        save_file(model.state_dict(), target / "model.safetensors")
        (target / "config.json").write_text(json.dumps(asdict(config)))

    record = TrainingRecord(
        task="image_classification",
        labels=SHAPES,
        seed=0,
        epoch=1,
        data_sha256="d" * 64,
        training_sha256="e" * 64,
        input_shape=SHAPE,
    )
    write_checkpoint(folder, record, save_files)
    return folder


@pytest.fixture(scope="module", params=["plain_cnn", "resnet"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp(request.param) / "checkpoint", request.param)


@pytest.fixture(scope="module")
def rows() -> ImageRows:
    images, labels = draw(60, seed=4)
    return ImageRows(images[:, None], labels.astype(np.int64), np.arange(len(labels)), SHAPES)


def build(names: tuple[CandidateName, ...], checkpoint: Path, rows: ImageRows, folder: Path) -> list:
    source = Source(load_model(checkpoint), signature_of_images(SHAPE), 17, sample(rows, seed=0))
    return build_graphs(names, source, folder)


@pytest.fixture(scope="module")
def graphs(checkpoint: Path, rows: ImageRows, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    built = build(("plain", "int8_static"), checkpoint, rows, tmp_path_factory.mktemp("graphs"))
    return {graph.name: graph for graph in built}


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_the_graph_takes_raw_pixels_and_gives_what_the_network_gives_normalised_ones(
    graphs: dict[str, Graph], checkpoint: Path, rows: ImageRows, batch: int
) -> None:
    raw = rows.images[:batch]
    network = load_model(checkpoint)
    network.normalisation = nn.Identity()
    with torch.inference_mode():
        expected = network(torch.from_numpy((raw.astype(np.float32) - MEAN) / STD)).numpy()
    found = open_session(graphs["plain"].path, threads=1).run(["logits"], {"images": raw})[0]
    assert batch == 1 or expected.std(axis=0).min() > 0.1, "scores that hardly differ would prove nothing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_pytorch_is_compared_in_the_layout_that_it_computes_fastest_in(checkpoint: Path) -> None:
    weights = [weight for weight in load_model(checkpoint).parameters() if weight.dim() == 4]
    assert len(weights) >= 2
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_input_and_output_have_their_names_types_and_dynamic_batch(graphs: dict[str, Graph]) -> None:
    for graph in graphs.values():
        session = open_session(graph.path, threads=1)
        (images,), (logits,) = session.get_inputs(), session.get_outputs()
        assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", *SHAPE])
        assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 3])


def test_batch_normalisation_is_folded_into_the_convolutions(graphs: dict[str, Graph]) -> None:
    operators = {node.op_type for node in onnx.load(graphs["plain"].path).graph.node}
    assert "Conv" in operators
    assert "BatchNormalization" not in operators
    quantized = onnx.load(graphs["int8_static"].path).graph
    weights = [tensor for tensor in quantized.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert sum(len(tensor.dims) == 4 for tensor in weights) >= 2, "convolutions are left in float"


def test_static_int8_does_not_round_the_logits(graphs: dict[str, Graph], rows: ImageRows) -> None:
    logits = onnx_forward(graphs["int8_static"].path, 1)(rows.batch(np.arange(len(rows))))
    assert len(np.unique(logits)) > 256, "more values than a byte has"


def test_candidates_for_transformers_say_so_and_break_nothing(
    checkpoint: Path, rows: ImageRows, tmp_path: Path
) -> None:
    built = build(get_args(CandidateName), checkpoint, rows, tmp_path)
    assert {graph.name for graph in built if isinstance(graph, Graph)} == SUITED
    reasons = {failed.name: failed.reason for failed in built if isinstance(failed, Failed)}
    assert reasons.pop("int8_pruned") == "has 0 tables that the input's ids are looked up in, not one"
    assert all("needs a transformer encoder" in reason for reason in reasons.values()), reasons


def judged(checkpoint: Path, path: Path, rows: ImageRows) -> str | None:
    """What admission says of a graph."""
    ragged, rest = parity_batches(rows.lengths, seed=0)
    pytorch = score_classes(rows, pytorch_forward(load_model(checkpoint)), ragged, rest)
    candidate = score_classes(rows, onnx_forward(path, 1), ragged, rest)
    assert len(pytorch.left) == 0, "nothing pads an image"
    parity = compare(pytorch, candidate, rows.truth, SHAPES, seed=0)
    return parity.refusal("fp32", Conversion(max_metric_drop=1.0))


@pytest.mark.parametrize(
    ("change", "is_refused"),
    [(unchanged, False), (in_training_mode, True), (without_normalisation, True), (augmented, True)],
)
def test_parity_refuses_batch_statistics_other_normalisation_and_moved_images(
    checkpoint: Path,
    rows: ImageRows,
    tmp_path: Path,
    change: Callable[[nn.Module], None],
    is_refused: bool,
) -> None:
    model = load_model(checkpoint)
    change(model)
    path = export(model, tmp_path / "model.onnx", SHAPE)
    reason = judged(checkpoint, path, rows)
    assert (reason is not None) is is_refused
    assert reason is None or "logits differ from PyTorch's by up to" in reason


def test_a_model_left_in_training_mode_is_exported_in_eval_mode_all_the_same(
    checkpoint: Path, rows: ImageRows, tmp_path: Path
) -> None:
    model = load_model(checkpoint).train()
    (graph,) = build_graphs(("plain",), Source(model, signature_of_images(SHAPE), 17, []), tmp_path)
    assert isinstance(graph, Graph)
    assert judged(checkpoint, graph.path, rows) is None


def test_rows_are_read_as_validate_data_wrote_them(image_splits: Path, checkpoint: Path) -> None:
    record = TrainingRecord(
        task="image_classification",
        labels=SHAPES,
        seed=0,
        epoch=1,
        data_sha256="",
        training_sha256="",
        input_shape=SHAPE,
    )
    read = open_subject(Conversion(), checkpoint, record, image_splits, seed=0).rows
    with np.load(image_splits / "validation.npz") as arrays:
        np.testing.assert_array_equal(read.batch(np.array([2, 0]))["images"][:, 0], arrays["images"][[2, 0]])
        assert read.excerpt(2) == {"file_row": int(arrays["row"][2])}
