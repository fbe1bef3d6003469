"""Serves the tagger: a sentence's words between spaces, a tag for each, and the spans that they make.

This module and those that it imports need only numpy and onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import MODEL_FILE, BundleError, loaded, read_info, softmax
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.interface import Answer, InputError, Request
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet_token_classification.entities import spans
from gauntlet_token_classification.features import batch_ids

CONFIG_FILE = "tagger.json"
FILES = (MODEL_FILE, CONFIG_FILE)
INPUT, OUTPUT = "features", "logits"


class TaggerModel:
    """The tagger of a verified bundle."""

    def __init__(self, folder: Path, sha256: str | None = None) -> None:
        """Verify the bundle and load it.

        Raises:
            BundleError: It is incomplete or altered.
        """
        self.info = read_info(folder, sha256)
        self.folder = folder
        self.session = loaded(folder / MODEL_FILE, usable_cpus(), self.info.device or "cpu")
        self._buckets = int(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["buckets"])

    def probabilities(self, sentences: Sequence[Sequence[str]]) -> list[npt.NDArray[np.float32]]:
        """Of each sentence the probability of every tag for every word, (T, K)."""
        logits = self.session.run([OUTPUT], {INPUT: batch_ids(sentences, self._buckets)})[0]  # (B, T, K)
        return [softmax(found[: len(words)]) for found, words in zip(logits, sentences, strict=True)]

    def answer(self, request: Request) -> list[Answer]:
        """The tags and the entities of each sentence.

        Raises:
            InputError: A sentence has no words.
        """
        sentences = [row.split() for row in request.rows]
        for number, words in enumerate(sentences, start=1):
            if not words:
                raise InputError(f"text {number}: found no words, expected a sentence.")
        found = zip(request.rows, sentences, self.probabilities(sentences), strict=True)
        return [self._answer(row, words, scores) for row, words, scores in found]

    def _answer(self, row: str, words: Sequence[str], scores: npt.NDArray[np.float32]) -> Answer:
        tags = [self.info.labels[at] for at in scores.argmax(axis=1)]
        entities = [
            {"text": " ".join(words[start:end]), "kind": kind, "start": start, "end": end}
            for start, end, kind in sorted(spans(tags))
        ]
        shown = ", ".join(f"{entity['text']} ({entity['kind']})" for entity in entities) or "none"
        content = {"text": row, "words": list(words), "tags": tags, "entities": entities}
        return Answer({"text": row, "entities": shown}, content)

    def prove(self, bound: float) -> str:
        """See `gauntlet.serving.interface.GraphModel`."""
        sentences = [text.split() for text in SMOKE_TEXTS]
        together = np.concatenate(self.probabilities(sentences))
        if not np.isfinite(together).all():
            raise BundleError(f"{self.folder}: a prediction is not finite")
        require_alike(together, np.array(self.golden(), dtype=np.float32), bound)
        return self.answer(Request([SMOKE_TEXTS[1]]))[0].cells["entities"]

    def golden(self) -> list[list[float]]:
        """The probabilities of the tags of each made-up word; see `gauntlet.serving.interface.GraphModel`."""
        sentences = [text.split() for text in SMOKE_TEXTS]
        return [word.tolist() for words in sentences for one in self.probabilities([words]) for word in one]


open_model = TaggerModel
