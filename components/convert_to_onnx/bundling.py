"""What conversion leaves: the table of candidates, the winner's figures, its certificate and its bundle."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from gauntlet.components.convert_to_onnx.admission import Trial, pareto_front
from gauntlet.components.convert_to_onnx.candidates import Failed
from gauntlet.components.convert_to_onnx.parity import Parity
from gauntlet.components.convert_to_onnx.quantization import opset_of, saturating_products
from gauntlet.components.convert_to_onnx.rows import Rows
from gauntlet.components.convert_to_onnx.shipping import refusing
from gauntlet.components.convert_to_onnx.timing import Clock, Latency
from gauntlet.components.lineage import manifest_commit
from gauntlet.components.step import write_json
from gauntlet.components.training_rows import bundled_file
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.serving.bundle import (
    MODEL_FILE,
    PARITY_FILE,
    REQUIRED_FILES,
    BundleInfo,
    TensorSpec,
    file_sha256,
    write_bundle,
)
from gauntlet.serving.cpu import cpu_class

UNKNOWN = "unknown"  # where the environment does not say
DTYPES = {
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
}


@dataclass(frozen=True)
class Comparison:
    """PyTorch and every candidate on the same rows and the same machine, and the bounds they were held to.

    What is timed (see `timing.Timing`) is absent where nothing was admitted, and tokenising where rows are no
    texts. PyTorch's figures are by mode, eager or compiled; `pytorch_absent` says why a mode has none.
    """

    bounds: Conversion
    threads: int
    processor: str
    rows: Rows
    pytorch_macro_f1: float
    candidates: Sequence[Trial[Parity] | Failed]
    pytorch_latency_ms: Mapping[str, Mapping[int, Latency]] = field(default_factory=dict)
    pytorch_memory_mb: Mapping[str, float] = field(default_factory=dict)
    pytorch_absent: Mapping[str, str] = field(default_factory=dict)
    tokenizing_ms: Mapping[int, Latency] = field(default_factory=dict)
    contention: float | None = None
    timing_threads: int | None = None
    clock: Clock = "wall"

    def without(self, refused: Trial[Parity], reason: str) -> Comparison:
        """The same with a candidate refused that was admitted before."""
        return replace(self, candidates=refusing(self.candidates, refused, reason))


def candidates_document(comparison: Comparison, chosen: Trial[Parity] | None) -> dict[str, Any]:
    """The output `candidates`."""
    document: dict[str, Any] = {
        "threads": comparison.timing_threads or comparison.threads,
        "clock": comparison.clock,
        "processor": comparison.processor,
        "rows": len(comparison.rows),
        "pytorch": {
            "macro_f1": comparison.pytorch_macro_f1,
            "latency_ms": {mode: by_size(sizes) for mode, sizes in comparison.pytorch_latency_ms.items()},
            "memory_mb": known(comparison.pytorch_memory_mb),
            "absent": dict(comparison.pytorch_absent),
        },
        "objective": comparison.bounds.objective,
        "candidates": [_row(candidate, comparison.rows) for candidate in comparison.candidates],
        "objective_batch_size": comparison.bounds.objective_batch_size,
    }
    if chosen is not None:
        timed = [candidate for candidate in comparison.candidates if isinstance(candidate, Trial)]
        document |= {
            "chosen": chosen.name,
            "chosen_speedup": by_size(chosen.speedup),
            "pareto_front": pareto_front(timed, comparison.bounds.objective_batch_size),
        }
    if comparison.tokenizing_ms:
        document["tokenizing_ms"] = by_size(comparison.tokenizing_ms)
    if comparison.contention is not None:
        document["contention"] = comparison.contention
    return document


def headline(chosen: Trial[Parity], bounds: Conversion) -> dict[str, float]:
    """The chosen candidate's figures: quality, size, and speed at the batch size that decides."""
    size = bounds.objective_batch_size
    return {
        **_quality(chosen),
        "size_mb": chosen.graph.size_mb,
        "speedup": chosen.speedup[size],
        "latency_ms": chosen.latency_ms[size].median,
    }


def bundle_winner(
    folder: Path,
    name: str,
    manifest_sha256: str,
    checkpoint: Path,
    record: TrainingRecord,
    splits: Path,
    winner: Trial[Parity],
    comparison: Comparison,
) -> BundleInfo:
    """Write the bundle of the winning graph to `folder`, with its certificate and its training rows'
    fingerprints."""
    model = onnx.load(winner.graph.path)
    certificate_path = winner.graph.path.with_name(PARITY_FILE)
    certificate = _certificate(winner, comparison)
    if comparison.bounds.device == "cpu":
        certificate |= portability(model)
    write_json(certificate_path, certificate)
    info = BundleInfo(
        name=name,
        task=record.task,
        labels=tuple(record.labels),
        inputs=tuple(tensor_of(value) for value in model.graph.input),
        outputs=tuple(tensor_of(value) for value in model.graph.output),
        max_length=record.max_length or None,
        opset=opset_of(model),
        candidate=winner.name,
        precision=winner.precision,
        device="gpu" if comparison.bounds.device == "gpu" else None,
        quality=_quality(winner),
        latency_ms={str(size): latency.median for size, latency in winner.latency_ms.items()},
        speedup=by_size(winner.speedup),
        lineage=lineage_of(record, manifest_sha256, comparison.processor),
    )
    files = {name: checkpoint / name for name in REQUIRED_FILES[record.task]}
    files |= {MODEL_FILE: winner.graph.path, PARITY_FILE: certificate_path, **bundled_file(splits)}
    return write_bundle(folder, info, files)


def lineage_of(record: TrainingRecord, manifest_sha256: str, processor: str) -> dict[str, str]:
    """What a bundle was made from and on."""
    return {
        "manifest_sha256": manifest_sha256,
        "data_sha256": record.data_sha256,
        "training_sha256": record.training_sha256,
        **({"encoder": record.encoder} if record.encoder else {}),
        "seed": str(record.seed),
        "git_commit": os.environ.get("GAUNTLET_GIT_COMMIT", UNKNOWN),
        **manifest_commit(),
        "image": os.environ.get("GAUNTLET_IMAGE", UNKNOWN),
        "processor": processor,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def portability(model: onnx.ModelProto) -> dict[str, Any]:
    """Where a graph was proved, and whether it gives the same answers on every class of x86-64 CPU."""
    return {"cpu_class": cpu_class(), "portable": not saturating_products(model.graph)}


def _certificate(winner: Trial[Parity], comparison: Comparison) -> dict[str, Any]:
    """What was shown of the shipped file. Rows go by number: a model that is served carries no data."""
    return {
        "candidate": winner.name,
        "model_sha256": file_sha256(winner.graph.path),
        "bounds": comparison.bounds.held_to(winner.name).model_dump(
            include={
                "max_abs_logit_difference",
                "min_label_agreement",
                "max_metric_drop",
                "max_neighbour_difference",
            }
        ),
        **_figures(winner),
        "pytorch_macro_f1": winner.parity.pytorch_macro_f1,
        "rows": winner.parity.rows,
        "left_padded_rows": winner.parity.left_padded_rows,
        "agreement_by_class": dict(winner.parity.agreement_by_class),
        "worst_rows": [asdict(row) for row in winner.parity.worst],
        "threads": comparison.threads,
        "timing_threads": comparison.timing_threads or comparison.threads,
        "clock": comparison.clock,
        "processor": comparison.processor,
    }


def _row(candidate: Trial[Parity] | Failed, rows: Rows) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": candidate.name,
        "admitted": candidate.reason is None,
        "reason": candidate.reason,
        "precision": candidate.precision,
    }
    if isinstance(candidate, Failed):
        return row
    worst = [{**asdict(row), **rows.excerpt(row.row)} for row in candidate.parity.worst]
    return {**row, **_figures(candidate), "worst_rows": worst}


def _figures(trial: Trial[Parity]) -> dict[str, Any]:
    return {
        "precision": trial.precision,
        "size_mb": trial.graph.size_mb,
        **_quality(trial),
        "metric_drop_interval": trial.parity.metric_drop_interval,
        "neighbours": asdict(trial.neighbours),
        "fused": asdict(trial.graph.fused),
        **known({"memory_mb": trial.memory_mb}),
        "latency_ms": by_size(trial.latency_ms),
        "speedup": by_size(trial.speedup),
    }


def _quality(trial: Trial[Parity]) -> dict[str, float]:
    return {
        "macro_f1": trial.parity.macro_f1,
        "metric_drop": trial.parity.metric_drop,
        "metric_drop_bound": trial.parity.metric_drop_bound,
        "label_agreement": trial.parity.label_agreement,
        "max_abs_difference": trial.parity.max_abs_difference,
    }


def known(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that the system tells."""
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def by_size(figures: Mapping[int, Any]) -> dict[str, Any]:
    """Figures by batch size as JSON has them."""
    return {
        str(size): asdict(figure) if isinstance(figure, Latency) else figure
        for size, figure in figures.items()
    }


def tensor_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """An input or output as the bundle describes it."""
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim)
    return TensorSpec(value.name, DTYPES[tensor.elem_type], shape)
