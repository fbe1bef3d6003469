"""What conversion leaves: the table of candidates, the winner's figures, its certificate and its bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from gauntlet.components.convert_to_onnx.admission import (
    Candidate,
    CandidateResult,
    Comparison,
    admitted,
    pareto_front,
)
from gauntlet.components.convert_to_onnx.baseline import write_baseline
from gauntlet.components.convert_to_onnx.candidates import Failed
from gauntlet.components.convert_to_onnx.quantization import UNSIGNED, opset_of, saturating_products
from gauntlet.components.convert_to_onnx.subject import Subject
from gauntlet.components.step import manifest_commit
from gauntlet.components.training_rows import bundled_file
from gauntlet.contracts import conversion as contract
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import (
    MAIN,
    PORTABLE,
    BundleInfo,
    GraphFiles,
    TensorSpec,
    file_sha256,
    of_kind,
    write_bundle,
)
from gauntlet.serving.cpu import cpu_class, usable_cpus
from gauntlet.trainer.splits import read_statistics

GOLDEN_DIGITS = 6
UNKNOWN = "unknown"  # if the environment does not say
DTYPES = {onnx.TensorProto.INT64: "int64", onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


def candidates_document(comparison: Comparison, chosen: CandidateResult | None) -> contract.Candidates:
    """The output `candidates`."""
    section = comparison.section
    timed = [one for one in comparison.candidates if isinstance(one, CandidateResult)]
    return contract.Candidates(
        threads=comparison.timing_threads or comparison.threads,
        clock=comparison.clock,
        processor=comparison.processor,
        rows=comparison.subject.compared_rows,
        figures=comparison.subject.facts,
        pytorch=contract.Reference(
            figures=known(comparison.pytorch),
            latency_ms=comparison.pytorch_latency_ms,
            memory_mb=known(comparison.pytorch_memory_mb),
            absent=comparison.pytorch_absent,
        ),
        objective=section.objective,
        candidates=tuple(_row(candidate, comparison) for candidate in comparison.candidates),
        objective_batch_size=section.objective_batch_size,
        chosen=chosen and chosen.name,
        chosen_speedup=(chosen and chosen.speedup) or None,
        pareto_front=tuple(pareto_front(timed, section.objective_batch_size)) if chosen else None,
        tokenizing_ms=comparison.tokenizing_ms or None,
        contention=comparison.contention,
    )


def headline(chosen: CandidateResult, batch_size: int) -> dict[str, float]:
    """The chosen candidate's figures: quality, size, and speed at the batch size that decides."""
    return {
        **chosen.parity.figures,
        "size_mb": chosen.graph.size_mb,
        **({"speedup": chosen.speedup[batch_size]} if chosen.speedup else {}),
        "latency_ms": chosen.latency_ms[batch_size].median,
    }


def bundle_winner(
    folder: Path, name: str, manifest_sha256: str, winner: CandidateResult, comparison: Comparison
) -> BundleInfo:
    """Write the winning graph's bundle, with its certificate and the fingerprints of training rows."""
    subject = comparison.subject
    record, device = subject.record, subject.section.device
    model = onnx.load(winner.graph.path)
    info = BundleInfo(
        name=name,
        task=record.task,
        labels=tuple(record.labels),
        inputs=tuple(tensor_of(value) for value in model.graph.input),
        outputs=tuple(tensor_of(value) for value in model.graph.output),
        max_length=record.max_length or None,
        frame=record.frame or None,
        opset=opset_of(model),
        candidate=winner.name,
        precision=winner.precision,
        device="gpu" if device == "gpu" else None,
        quality=known(winner.parity.figures),
        latency_ms={str(size): latency.median for size, latency in winner.latency_ms.items()},
        speedup={str(size): speedup for size, speedup in winner.speedup.items()},
        lineage=lineage_of(record, manifest_sha256, comparison.processor),
        **subject.bundle_fields,
    )
    files = {name: subject.checkpoint / name for name in of_kind(record.task, "FILES")}
    files |= _certified(MAIN, winner, comparison)
    files |= {**_training_rows(subject), **subject.files(winner.graph)}
    portable = _portable(winner, comparison)
    if portable is not None:
        files |= _certified(PORTABLE, portable, comparison)
    written = write_bundle(folder, info, files)
    golden = {MAIN: winner} if portable is None else {MAIN: winner, PORTABLE: portable}
    paths = {one.golden: result.graph.path.with_name(one.golden) for one, result in golden.items()}
    if not all(_write_golden(paths[one.golden], folder, record.task, one) for one in golden):
        if portable is not None:
            raise GauntletError(
                f"conversion.portable: a model of {record.task} cannot be opened with another graph of its "
                "bundle. Leave the key out."
            )
        return written
    written = write_bundle(folder, info, {**files, **paths})
    baseline = write_baseline(winner.graph.path.parent, folder, written, subject)
    return write_bundle(folder, info, {**files, **paths, **baseline}) if baseline else written


def _certified(names: GraphFiles, result: CandidateResult, comparison: Comparison) -> dict[str, Path]:
    """A candidate's graph and its certificate, which is written, by their names in the bundle."""
    subject, graph = comparison.subject, result.graph.path
    path = graph.with_name(names.certificate)
    contract.Certificate(
        candidate=result.name,
        model_sha256=file_sha256(graph),
        bounds=comparison.section.held_to(result.name).model_dump(include=set(subject.bounds)),
        **_figures(result, result.parity.evidence),
        rows=subject.compared_rows,
        threads=comparison.threads,
        timing_threads=comparison.timing_threads or comparison.threads,
        clock=comparison.clock,
        processor=comparison.processor,
        max_neighbour_flips=comparison.section.max_neighbour_flips,
        **(portability(onnx.load(graph)) if subject.section.device == "cpu" else {}),
    ).write(path)
    return {names.model: graph, names.certificate: path}


def _portable(winner: CandidateResult, comparison: Comparison) -> CandidateResult | None:
    """The graph for CPUs that the winner is not portable to; None if it is portable, or none is asked."""
    beside = winner.name + UNSIGNED
    return next((one for one in admitted(comparison.candidates) if one.name == beside), None)


def _write_golden(path: Path, bundle: Path, task: str, files: GraphFiles) -> bool:
    """Write the scores of a bundle's made-up rows by one of its graphs, if its model has them.

    One that cannot be opened, or whose scores are not finite, has none; `verify` then says why.
    """
    try:
        model = of_kind(task, "open_model")(bundle)
        if not hasattr(model, "golden"):
            return False
        if files is not MAIN:
            model = model.with_threads(usable_cpus(), files.model)
        rounded = [[round(score, GOLDEN_DIGITS) for score in row] for row in model.golden()]
        path.write_text(json.dumps({"cpu_class": cpu_class(), "scores": rounded}, allow_nan=False))
    except Exception as error:  # whatever a model raises, its bundle is proved and refused by `verify`
        print(f"golden.json is not written: {error!r}", flush=True)
        return False
    return True


def _training_rows(subject: Subject) -> dict[str, Path]:
    """The fingerprints of the rows that the model was trained on, if it was trained on these splits."""
    record = subject.record
    is_known = record.origin is None or record.data_sha256 == read_statistics(subject.splits).sha256
    return bundled_file(subject.splits) if is_known else {}


def lineage_of(record: TrainingRecord, manifest_sha256: str, processor: str) -> dict[str, str]:
    """What a bundle was made from and on."""
    return {
        "manifest_sha256": manifest_sha256,
        **(_training_of(record) if record.training_sha256 else {}),
        **({"encoder": record.encoder} if record.encoder else {}),
        **({"network": record.network, "network_sha256": record.network_sha256} if record.network else {}),
        **({"origin": record.origin.source, "origin_sha256": record.origin.sha256} if record.origin else {}),
        "git_commit": os.environ.get("GAUNTLET_GIT_COMMIT", UNKNOWN),
        **manifest_commit(),
        "image": os.environ.get("GAUNTLET_IMAGE", UNKNOWN),
        "processor": processor,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _training_of(record: TrainingRecord) -> dict[str, str]:
    return {
        "data_sha256": record.data_sha256,
        "training_sha256": record.training_sha256,
        "seed": str(record.seed),
    }


def portability(model: onnx.ModelProto) -> dict[str, Any]:
    """The class of this CPU, and whether the graph gives the same answers on every class of x86-64 CPU."""
    return {"cpu_class": cpu_class(), "portable": not saturating_products(model.graph)}


def _row(candidate: Candidate, comparison: Comparison) -> contract.Candidate:
    common: dict[str, Any] = {
        "name": candidate.name,
        "admitted": candidate.reason is None,
        "reason": candidate.reason,
    }
    if isinstance(candidate, Failed):
        return contract.Candidate(**common, precision=candidate.precision)
    worst = tuple(comparison.subject.worst_rows(candidate.parity))
    return contract.Candidate(**common, **_figures(candidate), worst_rows=worst or None)


def _figures(result: CandidateResult, evidence: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "precision": result.precision,
        "size_mb": result.graph.size_mb,
        "figures": {**result.parity.figures, **result.parity.intervals, **(evidence or {})},
        "neighbours": asdict(result.neighbours),
        "fused": asdict(result.graph.fused),
        **known({"memory_mb": result.memory_mb}),
        "latency_ms": result.latency_ms,
        "speedup": result.speedup,
    }


def known(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that are finite."""
    return {name: figure for name, figure in figures.items() if math.isfinite(figure)}


def tensor_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """An input or output as the bundle describes it."""
    tensor = value.type.tensor_type
    shape = tuple(dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim)
    return TensorSpec(value.name, DTYPES[tensor.elem_type], shape)
