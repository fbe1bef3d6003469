"""What is shipped answers alike on CPUs with int8 dot products and without: both are run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gauntlet.components.convert_to_onnx.quantization import (
    in_blocks,
    saturating_products,
    unsigned_weights,
)
from tests.cpu_class import run

REPOSITORY = Path(__file__).parents[1]
PROGRAM = """
import sys
import numpy as np
from gauntlet.serving.cpu import cpu_class
from gauntlet.serving.bundle import open_session
print(cpu_class())
for path in sys.argv[2:]:
    with np.load(sys.argv[1]) as inputs:
        np.save(path + ".npy", open_session(path, 1).run(None, dict(inputs))[0])
"""
ROWS, DEPTH, COLUMNS = 5, 64, 16

pytestmark = pytest.mark.skipif(run.missing() is not None, reason=str(run.missing()))


def answers(inputs: Path, graphs: list[Path], cpu: str | None) -> tuple[str, list[np.ndarray]]:
    """The class that a process takes its CPU for, and what the graphs give; None is this CPU as it is."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(inputs), *map(str, graphs)],
        env=os.environ | (run.environment(cpu) if cpu else {"PYTHONPATH": str(REPOSITORY)}),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), [np.load(f"{path}.npy") for path in graphs]


def graph_of(node: onnx.NodeProto, weights: np.ndarray, kinds: tuple[int, int]) -> onnx.ModelProto:
    """One product of `a` (ROWS, DEPTH) and the weights, of the types `kinds`."""
    a = helper.make_tensor_value_info("a", kinds[0], [ROWS, DEPTH])
    y = helper.make_tensor_value_info("y", kinds[1], [ROWS, COLUMNS])
    graph = helper.make_graph([node], "product", [a], [y], [numpy_helper.from_array(weights, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def integer_product(largest: int) -> onnx.ModelProto:
    node = helper.make_node("MatMulInteger", ["a", "w"], ["y"], name="product")
    weights = np.full((DEPTH, COLUMNS), largest, dtype=np.int8)
    return graph_of(node, weights, (TensorProto.UINT8, TensorProto.INT32))


@pytest.mark.parametrize("cpu", sorted(run.CLASSES))
def test_without_int8_dot_products_8_bit_weights_saturate_and_7_bit_ones_do_not(
    tmp_path: Path, cpu: str
) -> None:
    np.savez(tmp_path / "inputs.npz", a=np.full((ROWS, DEPTH), 255, dtype=np.uint8))
    paths = [tmp_path / f"{largest}.onnx" for largest in (127, 64)]
    for path in paths:
        onnx.save(integer_product(int(path.stem)), path)
    paths.append(tmp_path / "unsigned.onnx")
    unsigned_weights(paths[0], paths[2])
    taken_for, (eight, seven, unsigned) = answers(tmp_path / "inputs.npz", paths, cpu)
    assert taken_for in ("avx512bw", "avx2")
    # Of each pair of products 2 x 255 x 127 = 64,770, and what 16 bits hold is 32,767.
    np.testing.assert_array_equal(eight, np.full((ROWS, COLUMNS), DEPTH // 2 * 32_767))
    np.testing.assert_array_equal(seven, np.full((ROWS, COLUMNS), DEPTH * 255 * 64))
    np.testing.assert_array_equal(unsigned, np.full((ROWS, COLUMNS), DEPTH * 255 * 127))
    assert [saturating_products(onnx.load(path).graph) for path in paths] == [["product"], [], []]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_blocks_give_the_same_answers_on_either_class(tmp_path: Path, bits: int) -> None:
    generator = np.random.default_rng(0)
    node = helper.make_node("MatMul", ["a", "w"], ["y"], name="product")
    weights = generator.normal(size=(DEPTH, COLUMNS)).astype(np.float32)
    weights[:, 0] = weights[:, 1] = 1.0  # as far as 8 bits reach
    rows = generator.normal(size=(ROWS, DEPTH)).astype(np.float32)
    rows[0], rows[1] = 1.0, -1.0
    np.savez(tmp_path / "inputs.npz", a=rows)
    model = in_blocks(graph_of(node, weights, (TensorProto.FLOAT, TensorProto.FLOAT)), 4 if bits == 4 else 8)
    onnx.save(model, tmp_path / "blocks.onnx")
    _, [here] = answers(tmp_path / "inputs.npz", [tmp_path / "blocks.onnx"], None)
    _, [without] = answers(tmp_path / "inputs.npz", [tmp_path / "blocks.onnx"], "avx2")
    np.testing.assert_allclose(without, here, atol=1e-3)
    np.testing.assert_allclose(without[:2, 0], [DEPTH, -DEPTH], rtol=0.01)
