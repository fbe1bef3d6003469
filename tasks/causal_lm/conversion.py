"""The step convert-to-onnx for a language model: the same order, with tokens for classes.

B = batch, T = tokens.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from gauntlet.components.convert_to_onnx.admission import (
    Trial,
    admitted,
    decoder_refusal,
    neighbour_refusal,
    reasons_of,
    with_speed,
)
from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, describe
from gauntlet.components.convert_to_onnx.export import ConversionError, FusedOps
from gauntlet.components.convert_to_onnx.neighbours import NeighbourEffect, neighbour_effect
from gauntlet.components.convert_to_onnx.processor import describe_processor
from gauntlet.components.convert_to_onnx.shipping import ship
from gauntlet.components.convert_to_onnx.timing import Contender, Timing, draw_rows, measure
from gauntlet.components.convert_to_onnx.timing_worker import NEW_TOKENS
from gauntlet.components.step import write_json
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import DECODER_CANDIDATES, Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.generation import Decoder, Floats, pad_left
from gauntlet.serving.tokenizer import open_tokenizer
from gauntlet.tasks.causal_lm.bundling import (
    PYTORCH,
    Candidate,
    Tried,
    bundle_winner,
    document,
    quality_of,
)
from gauntlet.tasks.causal_lm.decoder import export_decoder
from gauntlet.tasks.causal_lm.parity import ScoredBatch, compare, pytorch_logits
from gauntlet.tasks.causal_lm.quantization import (
    quantize_int8,
    quantize_per_token,
    quantize_weights,
)
from gauntlet.tasks.causal_lm.training import network_of
from gauntlet.tasks.language.language_models import context_of
from gauntlet.tasks.language.packing import token_rows
from gauntlet.trainer.splits import read_split

PARITY_ROWS = 16
PARITY_BATCH = 2  # its logits are of every token and of the whole vocabulary
COMPANY_SIZES = (2, 5)
COMPANY_TOKENS = 128  # at most this much of a row is read, alone and in each batch size
CACHED_TOKENS = 4  # of each row that go one by one through the cache
TIMED_PROMPT_TOKENS = 128


def convert(
    section: Conversion,
    name: str,
    seed: int,
    manifest_sha256: str,
    checkpoint: Path,
    record: TrainingRecord,
    splits: Path,
    bundle: Path,
    candidates: Path,
) -> dict[str, float]:
    """Convert a checkpoint; return the chosen candidate's figures by name. See `run.run`.

    Raises:
        GauntletError: No candidate is within the bounds, or the checkpoint itself is of no use.
    """
    threads = usable_cpus()
    torch.set_num_threads(threads)
    tokenizer = open_tokenizer(checkpoint / TOKENIZER_FILE).tokenizer
    rows = token_rows(read_split(splits, "validation"), tokenizer, record.max_length)
    network = network_of(checkpoint)
    with tempfile.TemporaryDirectory(prefix="gauntlet-convert-") as scratch:
        folder = Path(scratch)
        graphs = build(section, network, folder)
        order = np.random.default_rng(seed).permutation(len(rows))[:PARITY_ROWS]
        drawn = [rows[at].whole for at in order]
        trials = []
        for number, graph in enumerate(graphs, start=1):
            print(f"comparing {graph.name} with PyTorch, candidate {number} of {len(graphs)}", flush=True)
            trials.append(_try(graph, network, drawn, threads, section))
        theirs = [trial.parity.pytorch_perplexity for trial in trials if isinstance(trial, Trial)]
        tried = Tried(section, describe_processor(), len(drawn), theirs[0] if theirs else np.nan, trials)
        try:
            admitted(tried.candidates)
        except GauntletError:
            write_json(candidates, document(tried, None))
            raise
        prompts = timed_prompts([row.prompt for row in rows], context_of(network))
        del network
        tried = _timed(tried, checkpoint, prompts, threads, seed, folder)
        winner = ship(
            tried,
            section,
            bundle,
            write=partial(bundle_winner, bundle, name, manifest_sha256, checkpoint, record, splits),
            note=lambda outcome, chosen: write_json(candidates, document(outcome, chosen)),
        )
        size = section.objective_batch_size
        return {
            **quality_of(winner.parity),
            "size_mb": winner.graph.size_mb,
            "speedup": winner.speedup[size],
            "latency_ms": winner.latency_ms[size].median,
        }


def build(section: Conversion, network: PreTrainedModel, folder: Path) -> list[Graph | Failed]:
    """Make the section's candidates in `folder`; one that fails costs itself, never the step.

    Raises:
        GauntletError: The model cannot be exported at all.
    """
    plain = folder / "plain.onnx"
    try:
        export_decoder(network, plain)
    except ConversionError as error:
        raise GauntletError(f"conversion: the model {error}. Choose another in training.model.") from None
    made: list[Graph | Failed] = []
    makers: dict[str, Callable[[Path, Path], None]] = {
        "int8_per_token": quantize_per_token,
        "int8": quantize_int8,
        "weights_int8": partial(quantize_weights, bits=8),
        "weights_int4": partial(quantize_weights, bits=4),
    }
    for name in section.candidates:
        path = folder / f"{name}.onnx"
        if name not in DECODER_CANDIDATES:
            made.append(Failed(name, "is for encoders, and this is a language model"))
            continue
        try:
            if name != "plain":
                makers[name](plain, path)
        except Exception as error:  # whatever the quantiser may raise
            traceback.print_exc()
            made.append(Failed(name, f"could not be made: {describe(error)}"))
        else:
            made.append(Graph(name, path, FusedOps.of(path)))
    return made


def _try(
    graph: Graph | Failed,
    network: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    threads: int,
    bounds: Conversion,
) -> Candidate:
    if isinstance(graph, Failed):
        return graph
    try:
        decoder = Decoder(graph.path, threads)
        parity = compare(_scored(decoder, network, rows))
        neighbours = measure_neighbours(decoder, rows)
    except Exception as error:  # whatever ONNX Runtime raises for a graph that it cannot run
        traceback.print_exc()
        return Failed(graph.name, f"does not run: {describe(error)}")
    reason = reasons_of(
        decoder_refusal(parity, graph.precision, bounds), neighbour_refusal(neighbours, bounds)
    )
    return Trial(graph, parity, reason, neighbours)


def measure_neighbours(decoder: Decoder, rows: Sequence[Sequence[int]]) -> NeighbourEffect:
    """How much other prompts in the batch, and the padding that they need, change the next token.

    If all rows have one length, every other row is halved, so that there is padding.
    """
    shown = [row[:COMPANY_TOKENS] for row in rows]
    shown = [row[: max(1, len(row) >> at % 2)] for at, row in enumerate(shown)]

    def last(size: int) -> Floats:
        parts = [
            decoder.tail_logits(*pad_left(shown[at : at + size]), 1) for at in range(0, len(shown), size)
        ]
        return np.concatenate(parts)[:, 0]  # (rows, vocabulary)

    return neighbour_effect(last(1), [last(size) for size in COMPANY_SIZES])


def _scored(
    decoder: Decoder, network: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> Iterator[ScoredBatch]:
    """Both models' logits, the last tokens of each row through the cache."""
    for start in range(0, len(rows), PARITY_BATCH):
        ids, mask = pad_left(rows[start : start + PARITY_BATCH])
        prompt = max(1, ids.shape[1] - CACHED_TOKENS)
        theirs = pytorch_logits(network, ids, mask, prompt)
        yield ScoredBatch(ids, mask, theirs, decoder.logits(ids, mask, prompt))


def timed_prompts(prompts: Sequence[Sequence[int]], context: int) -> list[Sequence[int]]:
    """The end of each prompt, which leaves room for `NEW_TOKENS` in the model's context."""
    length = max(1, min(TIMED_PROMPT_TOKENS, context - NEW_TOKENS))
    return [prompt[-length:] for prompt in prompts]


def _timed(
    tried: Tried, checkpoint: Path, prompts: Sequence[Sequence[int]], threads: int, seed: int, folder: Path
) -> Tried:
    """Time how PyTorch and every candidate that ran continue the same prompts by `NEW_TOKENS`."""
    contenders = {PYTORCH: Contender("generate", checkpoint)}
    for candidate in tried.candidates:
        if isinstance(candidate, Trial):
            contenders[candidate.name] = Contender("generate_onnx", candidate.graph.path)
    batches = {
        size: [
            dict(zip(("input_ids", "attention_mask"), pad_left([prompts[row] for row in drawn]), strict=True))
            for drawn in draw_rows(len(prompts), size, seed)
        ]
        for size in tried.bounds.batch_sizes
    }
    timing: Timing = measure(contenders, batches, threads, folder)
    modes = {PYTORCH: timing.latencies[PYTORCH]}
    return replace(
        tried,
        pytorch_latency_ms=timing.latencies[PYTORCH],
        pytorch_memory_mb=timing.memory_mb[PYTORCH],
        contention=timing.contention,
        threads=timing.threads,
        clock=timing.clock,
        candidates=[with_speed(candidate, modes, timing) for candidate in tried.candidates],
    )
