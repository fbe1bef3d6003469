"""What all peers call: the bundle's graph and tokenizer, as a person would use them without Gauntlet.

The settings come from the environment: BUNDLE, PORT, WORKERS, THREADS (of each worker's session), BATCH and
WINDOW_MS. N = texts, T = tokens, C = labels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

PORT, WORKERS, THREADS, BATCH = (
    int(os.environ.get(name, default))
    for name, default in (("PORT", "8080"), ("WORKERS", "1"), ("THREADS", "1"), ("BATCH", "1"))
)
WINDOW_MS = float(os.environ.get("WINDOW_MS", "0"))


class Scorer:
    """Texts in, labels with probabilities out."""

    def __init__(self) -> None:
        folder = Path(os.environ["BUNDLE"])
        info = json.loads((folder / "bundle.json").read_text())
        self._labels = info["labels"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        pad = self._tokenizer.padding or {
            "pad_id": self._tokenizer.token_to_id("[PAD]"),
            "pad_token": "[PAD]",
        }
        self._tokenizer.enable_truncation(info["max_length"])
        self._tokenizer.enable_padding(pad_id=pad["pad_id"], pad_token=pad["pad_token"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
        model = str(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """The answers, each `{"label": …, "probabilities": {label: …}}`."""
        encoded = self._tokenizer.encode_batch(texts)
        inputs = {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),  # (N, T)
            "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        }
        [logits] = self._session.run(["logits"], inputs)  # (N, C)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        return [
            {
                "label": self._labels[int(row.argmax())],
                "probabilities": dict(zip(self._labels, row.tolist(), strict=True)),
            }
            for row in probabilities
        ]
