"""mosec: https://mosecorg.github.io/mosec/reference/concept.html"""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker
from scorer import BATCH, PORT, WINDOW_MS, WORKERS, Scorer


class Emotion(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.score = Scorer()

    def forward(self, data: Any) -> Any:
        if BATCH > 1:
            return self.score([one["text"] for one in data])
        return self.score([data["text"]])[0]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "error"]
    server = Server()
    server.append_worker(Emotion, num=WORKERS, max_batch_size=BATCH, max_wait_time=max(1, round(WINDOW_MS)))
    server.run()
