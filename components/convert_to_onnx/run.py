"""The step convert-to-onnx: make the candidates, prove them, time them, bundle the winner."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from gauntlet.components.convert_to_onnx.admission import (
    Trial,
    admitted,
    neighbour_refusal,
    reasons_of,
    refusal,
    with_speed,
)
from gauntlet.components.convert_to_onnx.bundling import (
    Comparison,
    bundle_winner,
    candidates_document,
    headline,
)
from gauntlet.components.convert_to_onnx.candidates import (
    Failed,
    Graph,
    Source,
    build_graphs,
    build_student_graphs,
    describe,
)
from gauntlet.components.convert_to_onnx.export import (
    Signature,
    signature_of_cards,
    signature_of_images,
    signature_of_texts,
)
from gauntlet.components.convert_to_onnx.neighbours import NeighbourEffect, measure_neighbours
from gauntlet.components.convert_to_onnx.parity import Parity, Scores, compare, macro_f1, parity_batches
from gauntlet.components.convert_to_onnx.processor import describe_device, require_device
from gauntlet.components.convert_to_onnx.rows import Rows, TextRows, read_rows
from gauntlet.components.convert_to_onnx.scoring import onnx_forward, pytorch_forward, sample, score
from gauntlet.components.convert_to_onnx.shipping import ship
from gauntlet.components.convert_to_onnx.timing import (
    KINDS_ON,
    Contender,
    Latency,
    draw_rows,
    measure,
    time_tokenizing,
)
from gauntlet.components.step import write_json
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.saved_model import STUDENT_FOLDER, load_model, read_record

COMPILED = "compiled"


def run(
    section: Conversion,
    name: str,
    seed: int,
    manifest_sha256: str,
    checkpoint_path: Path,
    splits_path: Path,
    bundle_path: Path,
    candidates_path: Path,
) -> dict[str, float]:
    """Convert a checkpoint; return the chosen candidate's figures by name.

    The table of candidates is written even where none is chosen.

    Raises:
        UsageError: The bundle is for a GPU, and there is none here.
        GauntletError: No candidate is within the bounds, or the checkpoint itself is of no use.
    """
    require_device(section.device)
    record = read_record(checkpoint_path)
    if record.task == "causal_lm":
        from gauntlet.tasks.causal_lm.conversion import convert

        return convert(
            section, name, seed, manifest_sha256, checkpoint_path, record, splits_path, bundle_path,
            candidates_path,
        )  # fmt: skip
    rows = read_rows(splits_path, "validation", checkpoint_path, record)
    with tempfile.TemporaryDirectory(prefix="gauntlet-convert-") as scratch:
        folder = Path(scratch)
        training_rows = read_rows(splits_path, "train", checkpoint_path, record)
        source = Source(
            load_model(checkpoint_path, attention="eager"),
            _signature_of(record),
            section.opset,
            calibration=sample(training_rows, seed),
            used_ids=training_rows.used_ids() if isinstance(training_rows, TextRows) else frozenset(),
        )
        graphs = build_graphs(section.candidates, source, folder)
        graphs += build_student_graphs(section.student.candidates, source, checkpoint_path, folder)
        comparison = _compare_scores(section, rows, seed, checkpoint_path, graphs)
        try:
            admitted(comparison.candidates)
        except GauntletError:
            write_json(candidates_path, candidates_document(comparison, chosen=None))
            raise
        comparison = _compare_speed(comparison, rows, seed, checkpoint_path, folder)
        winner = ship(
            comparison,
            section,
            bundle_path,
            write=partial(
                bundle_winner, bundle_path, name, manifest_sha256, checkpoint_path, record, splits_path
            ),
            note=lambda outcome, chosen: write_json(candidates_path, candidates_document(outcome, chosen)),
        )
        return headline(winner, section)


def _signature_of(record: TrainingRecord) -> Signature:
    if record.task == "ordinal_grading":
        return signature_of_cards(record.input_shape)
    return signature_of_images(record.input_shape) if record.input_shape else signature_of_texts()


def _compare_scores(
    section: Conversion, rows: Rows, seed: int, checkpoint: Path, graphs: Sequence[Graph | Failed]
) -> Comparison:
    threads = usable_cpus()
    torch.set_num_threads(threads)  # left alone, it takes a container's host for its own
    ragged, rest = parity_batches(rows.lengths, seed)
    pytorch = score(rows, pytorch_forward(load_model(checkpoint)), ragged, rest)
    if strange := pytorch.rows_not_finite:
        raise GauntletError(
            f"{checkpoint}: the PyTorch model itself gives scores that are not finite for {strange} of "
            f"{len(rows)} validation rows, so its training went astray. Lower training.learning_rate."
        )
    student = None
    if any(isinstance(graph, Graph) and graph.of_student for graph in graphs):
        student = score(rows, pytorch_forward(load_model(checkpoint / STUDENT_FOLDER)), ragged, rest)
    trials: list[Trial[Parity] | Failed] = []
    for number, graph in enumerate(graphs, start=1):
        if isinstance(graph, Failed):
            trials.append(graph)
            continue
        print(f"comparing {graph.name} with PyTorch, candidate {number} of {len(graphs)}", flush=True)
        try:
            forward = onnx_forward(graph.path, threads, section.device)
            scores = score(rows, forward, ragged, rest)
            neighbours = measure_neighbours(rows, forward, seed)
        except Exception as error:  # whatever ONNX Runtime raises for a graph that it cannot run
            traceback.print_exc()
            trials.append(Failed(graph.name, f"does not run: {describe(error)}"))
            continue
        own, teacher = (student, pytorch) if student and graph.of_student else (pytorch, None)
        trials.append(_judge(graph, own, scores, neighbours, rows, section, seed, teacher))
    return Comparison(
        bounds=section,
        threads=threads,
        processor=describe_device(section.device),
        rows=rows,
        pytorch_macro_f1=macro_f1(pytorch.right, rows.truth),
        candidates=trials,
    )


def _judge(
    graph: Graph,
    pytorch: Scores,
    scores: Scores,
    neighbours: NeighbourEffect,
    rows: Rows,
    bounds: Conversion,
    seed: int,
    teacher: Scores | None,
) -> Trial[Parity] | Failed:
    if strange := scores.rows_not_finite:
        return Failed(graph.name, f"gives scores that are not finite for {strange} of {len(rows)} rows")
    parity = compare(pytorch, scores, rows.truth, rows.labels, seed, teacher)
    reason = reasons_of(
        refusal(parity, graph.precision, bounds.held_to(graph.name)), neighbour_refusal(neighbours, bounds)
    )
    return Trial(graph, parity, reason, neighbours)


def _compare_speed(
    comparison: Comparison, rows: Rows, seed: int, checkpoint: Path, folder: Path
) -> Comparison:
    """Time PyTorch and every candidate that ran; a refused one shows what its bound costs."""
    kinds = KINDS_ON[comparison.bounds.device]
    contenders: dict[str, Contender] = {
        mode: Contender(kinds[mode], checkpoint, optional=mode == COMPILED)
        for mode in comparison.bounds.pytorch
    }
    for candidate in comparison.candidates:
        if isinstance(candidate, Trial):
            contenders[candidate.name] = Contender(kinds["onnx"], candidate.graph.path)
    batches = {
        size: [rows.batch(drawn) for drawn in draw_rows(len(rows), size, seed)]
        for size in comparison.bounds.batch_sizes
    }
    timing = measure(contenders, batches, comparison.threads, folder)
    modes: dict[str, Mapping[int, Latency]] = {
        mode: timing.latencies[mode] for mode in comparison.bounds.pytorch if mode in timing.latencies
    }
    if not modes:
        raise GauntletError(f"conversion.pytorch: nothing to compare with: {timing.absent[COMPILED]}")
    return replace(
        comparison,
        pytorch_latency_ms=modes,
        pytorch_absent=timing.absent,
        pytorch_memory_mb={mode: timing.memory_mb[mode] for mode in modes},
        tokenizing_ms={
            size: time_tokenizing(rows.batch, len(rows), size, seed)
            for size in comparison.bounds.batch_sizes
            if isinstance(rows, TextRows)
        },
        contention=timing.contention,
        timing_threads=timing.threads,
        clock=timing.clock,
        candidates=[with_speed(candidate, modes, timing) for candidate in comparison.candidates],
    )
