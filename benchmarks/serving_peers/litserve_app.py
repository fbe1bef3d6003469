"""LitServe: https://lightning.ai/docs/litserve/features/batching"""

from __future__ import annotations

from typing import Any

import litserve
from scorer import BATCH, PORT, WINDOW_MS, WORKERS, Scorer


class Emotion(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.score = Scorer()

    def decode_request(self, request):  # LitServe reads an annotation as pydantic's
        return request["text"]

    def predict(self, inputs: Any) -> Any:
        return self.score(inputs) if BATCH > 1 else self.score([inputs])[0]


if __name__ == "__main__":
    api = Emotion(max_batch_size=BATCH, batch_timeout=WINDOW_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False)
