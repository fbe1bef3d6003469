"""What the splits look like in numbers, and all that later steps have to know of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.language.manifest import ConversationDataset

# Fixed, so that histograms of different data can be compared bin by bin. Tokens.
LENGTH_EDGES = (0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)


@dataclass(frozen=True)
class TokenStatistics:
    """Tokens per row of one split, prompt and answer together.

    Attributes:
        edges: Lower bounds of the bins; a bin ends below the next edge, the last one nowhere.
        counts: Rows in each bin.
        answers: Tokens of all answers.
        truncated: Rows with more than `max_tokens`, which training cuts.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    p50: float
    p95: float
    max: int
    answers: int
    truncated: int


@dataclass(frozen=True)
class ConversationStatistics:
    """The content of `statistics.json`.

    Attributes:
        sha256: Of the rows of the three splits, as JSON lines of prompt and answer as they are rendered.
        labels: None; the other tasks have them here.
        tokenizer: The model whose chat template and tokenizer it is.
        frame: What stands before and after a single prompt.
    """

    name: str
    version: str
    commit_hash: str | None
    created: str | None
    uri: str
    sha256: str
    rows: Mapping[str, int]
    tokenizer: str
    max_tokens: int
    frame: tuple[str, str]
    token_length: Mapping[str, TokenStatistics]
    labels: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; what is unknown is absent."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def describe(
    table: pd.DataFrame, dataset: ConversationDataset, frame: tuple[str, str]
) -> ConversationStatistics:
    """The statistics of a table as `inspection.inspect` leaves it."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    digest = hashlib.sha256()
    for split, rows in by_split.items():
        digest.update(_line(split))
        for row in zip(rows["prompt"], rows["target"], strict=True):
            digest.update(_line(row))
    return ConversationStatistics(
        name=dataset.name,
        version=dataset.version,
        commit_hash=dataset.commit_hash,
        created=dataset.created.isoformat() if dataset.created else None,
        uri=dataset.uri,
        sha256=digest.hexdigest(),
        rows={split: len(rows) for split, rows in by_split.items()},
        tokenizer=dataset.tokenizer,
        max_tokens=dataset.max_tokens,
        frame=frame,
        token_length={
            split: describe_tokens(
                rows["prompt_tokens"].tolist(), rows["target_tokens"].tolist(), dataset.max_tokens
            )
            for split, rows in by_split.items()
        },
    )


def describe_tokens(prompts: Sequence[int], targets: Sequence[int], most: int) -> TokenStatistics:
    """Percentiles (linear interpolation; 0 of no rows) and histogram of rows' lengths."""
    lengths = np.array(prompts, dtype=np.int64) + np.array(targets, dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    p50, p95 = np.percentile(lengths, (50, 95)) if len(lengths) else (0.0, 0.0)
    return TokenStatistics(
        edges=LENGTH_EDGES,
        counts=tuple(int(count) for count in counts),
        p50=float(p50),
        p95=float(p95),
        max=int(lengths.max(initial=0)),
        answers=sum(targets),
        truncated=int((lengths > most).sum()),
    )


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
