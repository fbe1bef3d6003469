"""An ONNX graph that was made elsewhere: the checks of its file, and its part in convert-to-onnx.

There is no PyTorch model to compare it with. So the table of candidates and the certificate have what the
graph shows by itself, and `NOT_PROVED` says what they lack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper, numpy_helper

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision
from gauntlet.components.convert_to_onnx.export import OUTPUT, FusedOps
from gauntlet.components.convert_to_onnx.scoring import Indices, NeighbourEffect
from gauntlet.components.convert_to_onnx.subject import HeldOut, Parity, Subject, TracedSubject
from gauntlet.components.convert_to_onnx.timing import Batch, Contender
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.bundle import MODEL_FILE, TensorSpec, open_session
from gauntlet.serving.verification import DTYPES

NAME = "imported"
NOT_PROVED = (
    "that the graph answers as the model that it was exported from: there is no PyTorch model to compare "
    "with",
    "what the conversion cost in quality",
    "a speed-up over PyTorch",
)
CHECKED_ROWS = 3
ORDER = "imported/order"
OTHER_ORDER = "imported/logits"
NUMPY_TYPES = {"torch.int64": "int64", "torch.uint8": "uint8", "torch.float32": "float32"}
PRECISIONS: tuple[tuple[Precision, frozenset[str]], ...] = (
    ("int4", frozenset({"MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"})),
    ("int8", frozenset({"DynamicQuantizeLinear", "QuantizeLinear", "MatMulInteger", "QAttention"})),
)
"""Operators that show what weights or activations are stored in."""


@dataclass(frozen=True)
class ImportedGraph(Graph):
    """The graph as the only candidate. `stored` is what its weights are stored in."""

    stored: Precision = "fp32"

    @property
    def precision(self) -> Precision:
        """What its weights are stored in."""
        return self.stored


@dataclass(frozen=True)
class Unproved:
    """In place of a comparison with PyTorch: the graph's own figures. See `subject.Parity`."""

    figures: Mapping[str, float]

    @property
    def quality(self) -> float:
        """The first of the figures."""
        return next(iter(self.figures.values()))

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """None."""
        return {}

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What is not proved."""
        return {"not_proved": list(NOT_PROVED)}

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:  # noqa: ARG002
        """The bounds on parity need a PyTorch model; that on the neighbours of a row is checked elsewhere."""
        return None


@dataclass(frozen=True)
class GraphSubject(Subject):
    """The graph of a checkpoint that holds one, and the rows of the kind's own `subject`."""

    subject: TracedSubject

    bounds = frozenset({"max_neighbour_difference"})

    @classmethod
    def of(cls, subject: TracedSubject) -> GraphSubject:
        """With the subject's section, checkpoint, record, splits and seed."""
        return cls(subject.section, subject.checkpoint, subject.record, subject.splits, subject.seed, subject)

    @property
    def is_tokenized(self) -> bool:  # type: ignore[override]
        """As the kind's."""
        return self.subject.is_tokenized

    @property
    def compared_rows(self) -> int:
        """The validation split's."""
        return self.subject.compared_rows

    def batch(self, rows: Indices) -> Batch:
        """The graph's inputs of some rows."""
        return self.subject.batch(rows)

    def held_out(self, split: SplitName, most: int) -> HeldOut | None:
        """The kind's."""
        return self.subject.held_out(split, most)

    def build(self, folder: Path) -> list[Graph | Failed]:
        """The graph itself, copied."""
        path = folder / MODEL_FILE
        path.write_bytes((self.checkpoint / MODEL_FILE).read_bytes())
        return [ImportedGraph(NAME, path, FusedOps.of(path), precision_of(onnx.load(path).graph))]

    def compare(self, graph: Graph) -> tuple[Parity, NeighbourEffect]:
        """Its own figures."""
        figures, neighbours = self.subject.measure(graph.path)
        return Unproved(figures), neighbours

    def reference(self, compared: Sequence[Parity]) -> Mapping[str, float]:  # noqa: ARG002
        """There is no PyTorch model."""
        return {}

    @property
    def pytorch(self) -> Mapping[str, Contender]:
        """There is no PyTorch model."""
        return {}

    def contender(self, graph: Graph) -> Contender:
        """The graph in ONNX Runtime."""
        return self.subject.contender(graph)

    def files(self, graph: Graph) -> Mapping[str, Path]:
        """Those of the kind that say how rows are prepared."""
        return self.subject.preparation(graph)


def precision_of(graph: onnx.GraphProto) -> Precision:
    """What a graph's weights are stored in, by its operators and its tensors."""
    operators = {node.op_type for node in graph.node}
    for precision, shown_by in PRECISIONS:
        if operators & shown_by:
            return precision
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return "fp16" if halves else "fp32"


def prepare_graph(given: Path, path: Path, subject: TracedSubject, names: Sequence[str] = ()) -> None:
    """Check the only ONNX file of a folder, and write it to `path` as serving takes it.

    Its weights are in the file, its outputs have the kind's names and sizes, and its logits the order of the
    subject's labels.

    Args:
        given: The folder, which may have the classes in `config.json` (`id2label`).
        path: Where the graph is written.
        subject: The kind's; its record has the labels.
        names: The classes in the graph's order; by default those of `config.json`, else the subject's.

    Raises:
        UsageError: It is no ONNX file, lacks its external data, cannot be loaded, or takes or gives something
            other than the kind's models.
    """
    [file] = given.glob("*.onnx")
    model = _read(file)
    try:
        session = open_session(file, threads=1)
    except Exception as error:  # ONNX Runtime raises nothing more special
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--from-onnx: {file.name}: ONNX Runtime {onnxruntime.__version__} cannot load it: {reason}. "
            "Export it with an opset that this version reads, such as 17."
        ) from None
    _require_inputs(file, session, subject)
    outputs = _outputs(file, session, subject)
    order = _order(given, names, subject.record)
    for kept in [output for output in model.graph.output if output.name not in outputs]:
        model.graph.output.remove(kept)
    for output in model.graph.output:
        output.CopyFrom(
            helper.make_tensor_value_info(
                output.name, onnx.TensorProto.FLOAT, ["batch", *outputs[output.name]]
            )
        )
    if order != list(range(len(order))):
        _reorder(model.graph, order)
    onnx.save(model, path)


def _read(file: Path) -> onnx.ModelProto:
    """The model with its external data.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UsageError(
            f"--from-onnx: {file.name}: found no ONNX model ({error}). Export it again."
        ) from None
    if not model.graph.output:  # an empty file is a message without fields
        raise UsageError(
            f"--from-onnx: {file.name}: found no graph in {file.stat().st_size:,} bytes. Export it again."
        )
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    missing = sorted(
        place for place in places if Path(place).name != place or not (file.parent / place).is_file()
    )
    if missing:
        raise UsageError(
            f"--from-onnx: {file.name}: the graph stores weights in {', '.join(missing)}, but its folder has "
            "no such file. Copy the file there, or export the graph with its weights inside."
        )
    external_data_helper.load_external_data_for_model(model, str(file.parent))
    return model


def _require_inputs(file: Path, session: onnxruntime.InferenceSession, subject: TracedSubject) -> None:
    signature = subject.signature
    expected = {
        name: TensorSpec(
            name,
            NUMPY_TYPES.get(str(example.dtype), str(example.dtype)),
            tuple(signature.dynamic_axes.get(axis, size) for axis, size in enumerate(example.shape)),
        )
        for name, example in signature.example.items()
    }
    found = {
        value.name: TensorSpec(value.name, DTYPES.get(value.type, value.type), tuple(value.shape))
        for value in session.get_inputs()
    }
    fits = found.keys() == expected.keys() and all(
        one.dtype == expected[name].dtype
        and len(one.shape) == len(expected[name].shape)
        and all(
            isinstance(axis, int) is isinstance(wanted, int)
            and (not isinstance(wanted, int) or axis == wanted)
            for axis, wanted in zip(one.shape, expected[name].shape, strict=True)
        )
        for name, one in found.items()
    )
    if not fits:
        raise UsageError(
            f"--from-onnx: {file.name}: it takes {_listed(found)}, expected {_listed(expected)}. Export it "
            "with these inputs, where an axis with a name may be of any size."
        )


def _outputs(
    file: Path, session: onnxruntime.InferenceSession, subject: TracedSubject
) -> dict[str, tuple[int, ...]]:
    """The sizes of the kind's outputs, without the rows, as the graph gives them for a few rows.

    Raises:
        UsageError: The graph lacks one, cannot compute the rows, or has another number of classes.
    """
    found, wanted = [value.name for value in session.get_outputs()], subject.signature.outputs
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(
            f"--from-onnx: {file.name}: it gives {', '.join(found)}, expected {', '.join(wanted)}. Name "
            "the outputs so when you export it."
        )
    rows = min(CHECKED_ROWS, subject.compared_rows)
    try:
        given = session.run(list(wanted), dict(subject.batch(np.arange(rows))))
    except Exception as error:  # whatever ONNX Runtime raises for a graph that it cannot run
        reason = str(error).partition("\n")[0]
        raise UsageError(f"--from-onnx: {file.name}: it cannot compute {rows} rows: {reason}") from None
    outputs = {name: np.asarray(array) for name, array in zip(wanted, given, strict=True)}
    logits, columns = outputs[OUTPUT], subject.columns
    if logits.shape != (rows, columns) or logits.dtype != np.float32:
        meaning = "a number for each label of the manifest" if subject.record.labels else "one number a row"
        raise UsageError(
            f"--from-onnx: {file.name}: for {rows} rows it gives {OUTPUT} {logits.dtype} "
            f"{list(logits.shape)}, expected float32 {[rows, columns]}: {meaning}."
        )
    return {name: array.shape[1:] for name, array in outputs.items()}


def _names_in(given: Path) -> Sequence[str]:
    """The classes in the order of `id2label` in `config.json`; none if there is no such file or key."""
    path = given / "config.json"
    if not path.is_file():
        return ()
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("id2label", {})
        return [str(named[str(number)]) for number in range(len(named))]
    except (ValueError, KeyError, AttributeError) as error:
        raise UsageError(f"--from-onnx: config.json: id2label cannot be read: {error!r}.") from None


def _order(given: Path, names: Sequence[str], record: TrainingRecord) -> list[int]:
    """For each label of the manifest the column of the graph that has it; empty if the kind has no labels.

    Raises:
        UsageError: The names are not those of the labels.
    """
    where, labels = f"--from-onnx: {next(given.glob('*.onnx')).name}", record.labels
    if labels:
        return label_order(names or _names_in(given) or labels, labels, where)
    if names:
        raise UsageError(
            f"{where}: found the classes {', '.join(names)}, and models of {record.task} have none. Leave "
            "out their names."
        )
    return []


def label_order(names: Sequence[str], labels: Sequence[str], where: str) -> list[int]:
    """For each label the position of its name.

    Raises:
        UsageError: The names are not those of the labels.
    """
    if sorted(names) != sorted(labels):
        raise UsageError(
            f"{where}: found the classes {', '.join(names)}, expected those of the manifest's "
            f"dataset.labels, in any order: {', '.join(labels)}."
        )
    return [list(names).index(label) for label in labels]


def _reorder(graph: onnx.GraphProto, order: Sequence[int]) -> None:
    """Put the columns of the logits into another order, in place."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [OTHER_ORDER if name == OUTPUT else name for name in names]
    graph.initializer.append(numpy_helper.from_array(np.array(order, dtype=np.int64), ORDER))
    graph.node.append(helper.make_node("Gather", [OTHER_ORDER, ORDER], [OUTPUT], axis=1, name=ORDER))


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{one.name} {one.dtype} [{', '.join(map(str, one.shape))}]" for one in specs.values())
