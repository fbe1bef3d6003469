"""What the splits look like in numbers: the baseline that drift is measured against."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gauntlet.components.validate_data.classes import count_classes
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.words import words_of

# Fixed, so that histograms of different data can be compared bin by bin. Characters.
LENGTH_EDGES = (0, 20, 40, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000, 2000)
TOP_WORDS = 200


@dataclass(frozen=True)
class LengthStatistics:
    """Characters per text of one split.

    Attributes:
        count: Texts. The figures after it are absent when there are none.
        edges: Lower bounds of the bins; a bin ends below the next edge, the last one nowhere.
        counts: Texts in each bin.
    """

    count: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    mean: float | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    max: int | None = None


@dataclass(frozen=True)
class TextStatistics:
    """The content of `statistics.json`.

    Attributes:
        sha256: Of the rows of the three splits (`content_sha256`).
        words: All words of the training texts, in normal form (`words.words_of`).
        top_words: The 200 most frequent of them with their counts, most frequent first.
    """

    name: str
    version: str
    commit_hash: str | None
    created: str | None
    uri: str
    labels: tuple[str, ...]
    sha256: str
    rows: Mapping[str, int]
    class_counts: Mapping[str, Mapping[str, int]]
    text_length: Mapping[str, LengthStatistics]
    words: int
    top_words: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; what is unknown is absent."""
        content = {key: value for key, value in asdict(self).items() if value is not None}
        content["text_length"] = {
            split: {key: value for key, value in asdict(length).items() if value is not None}
            for split, length in self.text_length.items()
        }
        return content


def describe(table: pd.DataFrame, dataset: TextDataset) -> TextStatistics:
    """The statistics of a table of `text`, `label` (a name), `key` (the normalised text) and `split`."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    words = Counter(word for key in by_split["train"]["key"] for word in words_of(key))
    frequent = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TOP_WORDS]
    return TextStatistics(
        name=dataset.name,
        version=dataset.version,
        commit_hash=dataset.commit_hash,
        created=dataset.created.isoformat() if dataset.created else None,
        uri=dataset.uri,
        labels=dataset.labels,
        sha256=content_sha256(by_split, dataset.labels),
        rows={split: len(rows) for split, rows in by_split.items()},
        class_counts=count_classes(table, dataset.labels),
        text_length={split: describe_lengths(rows["text"].tolist()) for split, rows in by_split.items()},
        words=sum(words.values()),
        top_words=dict(frequent),
    )


def describe_lengths(texts: Sequence[str]) -> LengthStatistics:
    """Mean, percentiles (linear interpolation) and histogram of the texts' lengths."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    histogram = tuple(int(count) for count in counts)
    if not texts:
        return LengthStatistics(count=0, edges=LENGTH_EDGES, counts=histogram)
    p5, p50, p95 = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    return LengthStatistics(
        count=len(texts),
        edges=LENGTH_EDGES,
        counts=histogram,
        mean=float(lengths.mean()),
        p5=p5,
        p50=p50,
        p95=p95,
        max=int(lengths.max()),
    )


def content_sha256(splits: Mapping[SplitName, pd.DataFrame], labels: Sequence[str]) -> str:
    """Hash of the rows in their order, so that it does not change with the parquet library.

    Fed with one JSON line each: the labels, then for each split its name and its rows as [text, class index].
    """
    index = {label: number for number, label in enumerate(labels)}
    digest = hashlib.sha256(_line(list(labels)))
    for split in SPLITS:
        digest.update(_line(split))
        for text, label in zip(splits[split]["text"], splits[split]["label"], strict=True):
            digest.update(_line([text, index[label]]))
    return digest.hexdigest()


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
