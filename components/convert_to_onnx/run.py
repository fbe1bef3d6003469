"""The step convert-to-onnx: make the candidates, prove them, time them, bundle the winner."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from components.convert_to_onnx.admission import Trial, admitted, fastest, refusal
from components.convert_to_onnx.bundling import Comparison, bundle_winner, candidates_document, headline
from components.convert_to_onnx.candidates import Failed, Graph, build_graphs, describe
from components.convert_to_onnx.parity import Logits, compare, macro_f1, parity_batches, rows_not_finite
from components.convert_to_onnx.processor import describe_processor
from components.convert_to_onnx.scoring import Rows, onnx_forward, pytorch_forward
from components.convert_to_onnx.timing import Contender, Latency, draw_rows, measure, speedup
from components.step import write_json
from manifests.errors import GauntletError
from manifests.schema import Conversion
from serving.cpu import usable_cpus
from trainer.checkpoint import load_model, read_record

PYTORCH = "pytorch"
BUSY = (
    0.1  # share of the time waited for a CPU from which speed-ups are off; a quiet machine shows under 0.02
)


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
        GauntletError: No candidate is within the bounds, or the checkpoint itself is of no use.
    """
    record = read_record(checkpoint_path)
    rows = Rows.read(splits_path, "validation", checkpoint_path, record)
    with tempfile.TemporaryDirectory(prefix="gauntlet-convert-") as scratch:
        folder = Path(scratch)
        graphs = build_graphs(
            section.candidates,
            load_model(checkpoint_path, attention="eager"),
            section.opset,
            Rows.read(splits_path, "train", checkpoint_path, record).sample(seed),
            folder,
        )
        comparison = _compare_scores(section, rows, seed, checkpoint_path, graphs)
        try:
            admitted(comparison.candidates)
        except GauntletError:
            write_json(candidates_path, candidates_document(comparison, chosen=None))
            raise
        comparison = _compare_speed(comparison, rows, seed, checkpoint_path, folder)
        winner = fastest(admitted(comparison.candidates), section.objective_batch_size)
        write_json(candidates_path, candidates_document(comparison, winner))
        bundle_winner(bundle_path, name, manifest_sha256, checkpoint_path, record, winner, comparison)
        return headline(winner, section)


def _compare_scores(
    section: Conversion, rows: Rows, seed: int, checkpoint: Path, graphs: Sequence[Graph | Failed]
) -> Comparison:
    threads = usable_cpus()
    torch.set_num_threads(threads)  # left alone, it takes a container's host for its own
    batches = parity_batches([len(text) for text in rows.texts], seed)
    pytorch = rows.scores(pytorch_forward(load_model(checkpoint)), batches)
    if strange := rows_not_finite(pytorch):
        raise GauntletError(
            f"{checkpoint}: the PyTorch model itself gives scores that are not finite for {strange} of "
            f"{len(rows)} validation rows, so its training went astray. Lower training.learning_rate."
        )
    trials: list[Trial | Failed] = []
    for graph in graphs:
        if isinstance(graph, Failed):
            trials.append(graph)
            continue
        try:
            scores = rows.scores(onnx_forward(graph.path, threads), batches)
        except Exception as error:  # whatever ONNX Runtime raises for a graph that it cannot run
            traceback.print_exc()
            trials.append(Failed(graph.name, f"does not run: {describe(error)}"))
            continue
        trials.append(_judge(graph, pytorch, scores, rows, section))
    return Comparison(
        bounds=section,
        threads=threads,
        cpu=describe_processor(),
        texts=rows.texts,
        pytorch_macro_f1=macro_f1(pytorch, rows.truth),
        candidates=trials,
    )


def _judge(graph: Graph, pytorch: Logits, scores: Logits, rows: Rows, bounds: Conversion) -> Trial | Failed:
    if strange := rows_not_finite(scores):
        return Failed(graph.name, f"gives scores that are not finite for {strange} of {len(rows)} rows")
    parity = compare(pytorch, scores, rows.truth, rows.labels)
    return Trial(graph, parity, refusal(parity, graph.precision, bounds))


def _compare_speed(
    comparison: Comparison, rows: Rows, seed: int, checkpoint: Path, folder: Path
) -> Comparison:
    """Time PyTorch and every candidate that ran; a refused one shows what its bound costs."""
    contenders = {PYTORCH: Contender("pytorch", checkpoint)}
    for candidate in comparison.candidates:
        if isinstance(candidate, Trial):
            contenders[candidate.name] = Contender("onnx", candidate.graph.path)
    batches = {
        size: [rows.batch(drawn) for drawn in draw_rows(len(rows), size, seed)]
        for size in comparison.bounds.batch_sizes
    }
    timing = measure(contenders, batches, comparison.threads, folder)
    if timing.contention is not None and timing.contention > BUSY:
        print(
            f"warning: other programs kept the models waiting for a CPU {timing.contention:.0%} of the time. "
            "That slows PyTorch most, so the speed-ups are too high.",
            flush=True,
        )
    return replace(
        comparison,
        pytorch_latency_ms=timing.latencies[PYTORCH],
        contention=timing.contention,
        candidates=[_with_speed(candidate, timing.latencies) for candidate in comparison.candidates],
    )


def _with_speed(candidate: Trial | Failed, latencies: Mapping[str, Mapping[int, Latency]]) -> Trial | Failed:
    if isinstance(candidate, Failed):
        return candidate
    latency = latencies[candidate.name]
    return replace(candidate, latency_ms=latency, speedup=speedup(latencies[PYTORCH], latency))
