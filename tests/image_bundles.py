"""A bundle whose scores can be computed by hand: each pixel adds its value times a weight of each class."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gauntlet.serving.bundle import BundleInfo, TensorSpec, file_sha256, write_bundle


def weighted_pixels(weights: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """logits (B, K) of images (B, C, H, W) by weights (C, H, W, K)."""
    *shape, classes = weights.shape
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weighted-pixels",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights.reshape(-1, classes), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_image_bundle(
    folder: Path, weights: npt.NDArray[np.float32], labels: tuple[str, ...], preprocessing: str | None = None
) -> Path:
    """The bundle of weighted pixels, certified, at `folder`."""
    return write_graph_bundle(folder, weighted_pixels(weights), weights.shape[:-1], labels, preprocessing)


def write_graph_bundle(
    folder: Path,
    graph: onnx.ModelProto,
    shape: tuple[int, ...],
    labels: tuple[str, ...],
    preprocessing: str | None = None,
) -> Path:
    """The bundle of any graph from images (B, C, H, W) to logits, certified, at `folder`."""
    parts = folder.with_name(folder.name + "-parts")
    parts.mkdir(parents=True)
    if preprocessing is not None:
        (parts / "preprocessing.json").write_text(preprocessing)
    onnx.save(graph, parts / "model.onnx")
    certificate = {"model_sha256": file_sha256(parts / "model.onnx"), "rows": 20}
    (parts / "parity.json").write_text(json.dumps(certificate))
    info = BundleInfo(
        name="shapes",
        task="image_classification",
        labels=labels,
        inputs=(TensorSpec("images", "uint8", ("batch", *shape)),),
        outputs=(TensorSpec("logits", "float32", ("batch", len(labels))),),
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(folder, info, {path.name: path for path in parts.iterdir()})
    return folder


SIDE = 4


def write_shapes(folder: Path) -> Path:
    """A bundle that tells images with a diagonal from others."""
    weights = np.stack([np.eye(SIDE), 1 - np.eye(SIDE)], axis=-1).astype(np.float32)[np.newaxis]
    return write_image_bundle(folder, weights, ("diagonal", "rest"))


def picture(*, diagonal: bool) -> bytes:
    """A grey PNG of `SIDE` × `SIDE`, bright on the diagonal or beside it."""
    pixels = np.eye(SIDE, dtype=np.uint8) if diagonal else 1 - np.eye(SIDE, dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels * 9).save(stream, "PNG")
    return stream.getvalue()
