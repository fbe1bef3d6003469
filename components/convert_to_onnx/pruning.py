"""An embedding table cut down to the tokens that training has seen.

In a model of MiniLM's size the table is half of all weights, and most of its rows belong to tokens that no
training text has; what they mean was never trained here. All of them get one row, their mean.
The tokenizer stays as it is: its ids are looked up in a table of positions inside the graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from gauntlet.components.convert_to_onnx.export import TOKEN_IDS, ConversionError

UNUSED_ROW = 0
POSITIONS = "embedding/positions"
PRUNED_IDS = "embedding/pruned_ids"

# V = vocabulary, U = ids in use, H = hidden size.


def prune_embedding(plain: Path, path: Path, used_ids: frozenset[int]) -> int:
    """Write the graph with the rows of `used_ids` and, for all other ids, their mean; returns the rows left.

    Raises:
        ConversionError: Nothing looks the input's ids up in a table, or every row is in use.
    """
    model = onnx.load(plain)
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    lookups = [
        node
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in tables and node.input[1] == TOKEN_IDS
    ]
    if len(lookups) != 1:
        raise ConversionError(f"has {len(lookups)} tables that the input's ids are looked up in, not one")
    lookup = lookups[0]
    table = numpy_helper.to_array(tables[lookup.input[0]])  # (V, H)
    used = np.array(sorted(used_ids))  # (U,)
    if len(used) + 1 >= len(table):
        raise ConversionError(f"has no row to prune: training uses {len(used)} of {len(table)} tokens")
    unused = np.setdiff1d(np.arange(len(table)), used)
    rows = np.concatenate([table[unused].mean(axis=0, keepdims=True), table[used]])  # (U + 1, H)
    positions = np.full(len(table), UNUSED_ROW, dtype=np.int64)  # (V,)
    positions[used] = np.arange(1, len(used) + 1)
    tables[lookup.input[0]].CopyFrom(numpy_helper.from_array(rows.astype(table.dtype), lookup.input[0]))
    graph.initializer.append(numpy_helper.from_array(positions, POSITIONS))
    remap = helper.make_node("Gather", [POSITIONS, TOKEN_IDS], [PRUNED_IDS], name="embedding/prune")
    lookup.input[1] = PRUNED_IDS
    graph.node.insert(list(graph.node).index(lookup), remap)
    onnx.save(model, path)
    return len(rows)
