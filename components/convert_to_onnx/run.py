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
    Candidate,
    CandidateResult,
    Comparison,
    admitted,
    refusal,
    ship,
)
from gauntlet.components.convert_to_onnx.bundling import bundle_winner, candidates_document, headline
from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, describe, with_portable
from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.components.convert_to_onnx.imported import GraphSubject
from gauntlet.components.convert_to_onnx.processor import describe_device, require_device
from gauntlet.components.convert_to_onnx.quantization import UNSIGNED
from gauntlet.components.convert_to_onnx.subject import Subject, TracedSubject
from gauntlet.components.convert_to_onnx.timing import draw_rows, measure, time_tokenizing
from gauntlet.contracts.conversion import Latency
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.kinds import task_kind
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.saved_model import read_record


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

    The table of candidates is written even if none is chosen.

    Raises:
        UsageError: The bundle is for a GPU, and this machine has none.
        GauntletError: No candidate is within the bounds, or the checkpoint itself is of no use.
    """
    require_device(section.device)
    record = read_record(checkpoint_path)
    open_subject = task_kind(record.task).function("conversion", "open_subject")
    subject: Subject = open_subject(section, checkpoint_path, record, splits_path, seed)
    if record.origin is not None and record.origin.form == "onnx":
        assert isinstance(subject, TracedSubject)  # or train-model would have refused the graph
        subject = GraphSubject.of(subject)

    def note(comparison: Comparison, chosen: CandidateResult | None) -> None:
        candidates_document(comparison, chosen).write(candidates_path)

    with tempfile.TemporaryDirectory(prefix="gauntlet-convert-") as scratch:
        folder = Path(scratch)
        graphs = subject.build(folder)
        comparison = compare_candidates(subject, with_portable(graphs) if section.portable else graphs)
        comparison = require_portable(comparison)
        try:
            admitted(comparison.candidates)
        except GauntletError:
            note(comparison, None)
            raise
        comparison = time_candidates(comparison, folder)
        write = partial(bundle_winner, bundle_path, name, manifest_sha256)
        winner = ship(comparison, section, bundle_path, write, note)
        return headline(winner, section.objective_batch_size)


def compare_candidates(subject: Subject, graphs: Sequence[Graph | Failed]) -> Comparison:
    """Compare each graph with PyTorch on the same rows, and hold it to its bounds."""
    threads = usable_cpus()
    torch.set_num_threads(threads)  # by default it uses all CPUs of a container's host
    candidates = []
    for number, graph in enumerate(graphs, start=1):
        if isinstance(graph, Graph):
            print(f"comparing {graph.name} with PyTorch, candidate {number} of {len(graphs)}", flush=True)
        candidates.append(graph if isinstance(graph, Failed) else _judge(graph, subject))
    return Comparison(
        subject=subject,
        threads=threads,
        processor=describe_device(subject.section.device),
        candidates=candidates,
        pytorch=subject.reference([one.parity for one in candidates if isinstance(one, CandidateResult)]),
    )


def _judge(graph: Graph, subject: Subject) -> Candidate:
    try:
        parity, neighbours = subject.compare(graph)
    except GauntletError:
        raise
    except ConversionError as error:
        return Failed(graph.name, str(error), graph.precision)
    except Exception as error:  # whatever ONNX Runtime raises for a graph that it cannot run
        traceback.print_exc()
        return Failed(graph.name, f"does not run: {describe(error)}", graph.precision)
    return CandidateResult(graph, parity, refusal(parity, neighbours, graph, subject.section), neighbours)


def require_portable(comparison: Comparison) -> Comparison:
    """The same, in which a candidate is refused if that for other CPUs, which was made of it, is."""
    refused = {one.name: one.reason for one in comparison.candidates if one.reason is not None}
    for one in comparison.candidates:
        reason = refused.get(one.name + UNSIGNED)
        if isinstance(one, CandidateResult) and one.reason is None and reason is not None:
            why = f"gives other answers on CPUs without int8 dot products, and {one.name}{UNSIGNED}: {reason}"
            comparison = comparison.without(one, why)
    return comparison


def time_candidates(comparison: Comparison, folder: Path) -> Comparison:
    """Time PyTorch and every candidate that ran; the times of a refused one show what its bound costs."""
    subject, section = comparison.subject, comparison.section
    contenders = dict(subject.pytorch)
    for candidate in comparison.candidates:
        if isinstance(candidate, CandidateResult):
            contenders[candidate.name] = subject.contender(candidate.graph)
    batches = {
        size: [subject.batch(drawn) for drawn in draw_rows(subject.timed_rows, size, subject.seed)]
        for size in section.batch_sizes
    }
    timing = measure(contenders, batches, comparison.threads, folder)
    modes: dict[str, Mapping[int, Latency]] = {
        mode: timing.latencies[mode] for mode in subject.pytorch if mode in timing.latencies
    }
    if subject.pytorch and not modes:
        reasons = "; ".join(timing.absent.values())
        raise GauntletError(f"conversion.pytorch: nothing to compare with: {reasons}")
    return replace(
        comparison,
        pytorch_latency_ms=modes,
        pytorch_absent=timing.absent,
        pytorch_memory_mb={mode: timing.memory_mb[mode] for mode in modes},
        tokenizing_ms={
            size: time_tokenizing(subject.batch, subject.timed_rows, size, subject.seed)
            for size in section.batch_sizes
            if subject.is_tokenized
        },
        contention=timing.contention,
        timing_threads=timing.threads,
        clock=timing.clock,
        candidates=[
            candidate.timed(modes, timing) if isinstance(candidate, CandidateResult) else candidate
            for candidate in comparison.candidates
        ],
    )
