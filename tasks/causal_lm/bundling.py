"""What conversion leaves of a language model: the table of candidates, its certificate and its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gauntlet.components.convert_to_onnx.admission import Trial, pareto_front
from gauntlet.components.convert_to_onnx.bundling import (
    by_size,
    known,
    lineage_of,
    portability,
    tensor_of,
)
from gauntlet.components.convert_to_onnx.candidates import Failed
from gauntlet.components.convert_to_onnx.quantization import opset_of
from gauntlet.components.convert_to_onnx.shipping import refusing
from gauntlet.components.convert_to_onnx.timing import Clock, Latency
from gauntlet.components.convert_to_onnx.timing_worker import NEW_TOKENS
from gauntlet.components.step import write_json
from gauntlet.components.training_rows import bundled_file
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.serving.bundle import (
    MODEL_FILE,
    PARITY_FILE,
    TOKENIZER_FILE,
    BundleInfo,
    file_sha256,
    write_bundle,
)
from gauntlet.serving.cpu import usable_cpus
from gauntlet.tasks.causal_lm.parity import DecoderParity
from gauntlet.tasks.causal_lm.training import ADAPTER_FOLDER

Candidate = Trial[DecoderParity] | Failed

PYTORCH = "eager"


@dataclass(frozen=True)
class Tried:
    """PyTorch and every candidate on the same rows; what is timed is absent where none was admitted."""

    bounds: Conversion
    processor: str
    rows: int
    pytorch_perplexity: float
    candidates: Sequence[Candidate]
    pytorch_latency_ms: Mapping[int, Latency] | None = None
    pytorch_memory_mb: float | None = None
    contention: float | None = None
    threads: int = field(default_factory=usable_cpus)
    clock: Clock = "wall"

    def without(self, refused: Trial[DecoderParity], reason: str) -> Tried:
        """The same with a candidate refused that was admitted before."""
        return replace(self, candidates=refusing(self.candidates, refused, reason))


def document(tried: Tried, chosen: Trial[DecoderParity] | None) -> dict[str, Any]:
    """The output `candidates`, in the form that `bundling.candidates_document` has."""
    bounds, latency = tried.bounds, tried.pytorch_latency_ms
    trials = [candidate for candidate in tried.candidates if isinstance(candidate, Trial)]
    content: dict[str, Any] = {
        "threads": tried.threads,
        "clock": tried.clock,
        "processor": tried.processor,
        "rows": tried.rows,
        "new_tokens": NEW_TOKENS,
        "pytorch": {
            **known({"perplexity": tried.pytorch_perplexity}),
            "latency_ms": {PYTORCH: by_size(latency)} if latency else {},
            "memory_mb": known({PYTORCH: tried.pytorch_memory_mb or np.nan}),
        },
        "objective": bounds.objective,
        "objective_batch_size": bounds.objective_batch_size,
        "candidates": [_row(candidate) for candidate in tried.candidates],
    }
    if chosen is not None:
        content |= {
            "chosen": chosen.name,
            "chosen_speedup": by_size(chosen.speedup),
            "pareto_front": pareto_front(trials, bounds.objective_batch_size),
        }
    if tried.contention is not None:
        content["contention"] = tried.contention
    return content


def bundle_winner(
    folder: Path,
    name: str,
    manifest_sha256: str,
    checkpoint: Path,
    record: TrainingRecord,
    splits: Path,
    winner: Trial[DecoderParity],
    tried: Tried,
) -> BundleInfo:
    """Write the bundle of the winning graph to `folder`, with its certificate, its training rows'
    fingerprints and any adapters."""
    model = onnx.load(winner.graph.path)
    certificate = winner.graph.path.with_name(PARITY_FILE)
    bounds = tried.bounds.model_dump(
        include={
            "max_abs_logit_difference",
            "min_label_agreement",
            "max_metric_drop",
            "max_neighbour_difference",
        }
    )
    write_json(
        certificate,
        {
            "candidate": winner.name,
            "model_sha256": file_sha256(winner.graph.path),
            "bounds": bounds,
            **_figures(winner),
            "rows": tried.rows,
            "processor": tried.processor,
            **portability(model),
        },
    )
    info = BundleInfo(
        name=name,
        task=record.task,
        labels=(),
        inputs=tuple(tensor_of(value) for value in model.graph.input),
        outputs=tuple(tensor_of(value) for value in model.graph.output),
        max_length=record.max_length,
        frame=record.frame,
        repetition_penalty=None if (penalty := tried.bounds.repetition_penalty) == 1 else penalty,
        opset=opset_of(model),
        candidate=winner.name,
        precision=winner.precision,
        quality=known(quality_of(winner.parity)),
        latency_ms={str(size): latency.median for size, latency in winner.latency_ms.items()},
        speedup=by_size(winner.speedup),
        lineage=lineage_of(record, manifest_sha256, tried.processor),
    )
    files = {MODEL_FILE: winner.graph.path, PARITY_FILE: certificate}
    files |= {TOKENIZER_FILE: checkpoint / TOKENIZER_FILE, **bundled_file(splits)}
    files |= {path.name: path for path in sorted((checkpoint / ADAPTER_FOLDER).glob("*"))}
    return write_bundle(folder, info, files)


def _row(candidate: Candidate) -> dict[str, Any]:
    row = {
        "name": candidate.name,
        "admitted": candidate.reason is None,
        "reason": candidate.reason,
        "precision": candidate.precision,
    }
    return row if isinstance(candidate, Failed) else {**row, **_figures(candidate)}


def _figures(trial: Trial[DecoderParity]) -> dict[str, Any]:
    return {
        "precision": trial.precision,
        "size_mb": trial.graph.size_mb,
        **quality_of(trial.parity),
        "neighbours": asdict(trial.neighbours),
        "fused": asdict(trial.graph.fused),
        **known({"memory_mb": trial.memory_mb}),
        "latency_ms": by_size(trial.latency_ms),
        "speedup": by_size(trial.speedup),
    }


def quality_of(parity: DecoderParity) -> dict[str, float]:
    """How closely a candidate follows PyTorch, by figure."""
    return {
        "perplexity": parity.perplexity,
        "perplexity_change": parity.perplexity_change,
        "next_token_agreement": parity.next_token_agreement,
        "max_abs_difference": parity.max_abs_difference,
        "compared_tokens": parity.tokens,
    }
