"""BentoML: https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html"""

from __future__ import annotations

from typing import Any

import bentoml
from scorer import BATCH, WINDOW_MS, WORKERS, Scorer

BATCHING: dict[str, Any] = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": WINDOW_MS}


@bentoml.service(workers=WORKERS, traffic={"timeout": 10}, logging={"access": {"enabled": False}})
class Emotion:
    def __init__(self) -> None:
        self.score = Scorer()

    @bentoml.api(**(BATCHING if BATCH > 1 else {}))
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        return self.score(texts)
