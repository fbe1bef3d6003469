"""KServe's model server: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/custom-predictor

Its batching is a sidecar container in Go, which is no part of the package.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from kserve import Model, ModelServer
from scorer import PORT, WORKERS, Scorer


class Emotion(Model):
    def __init__(self) -> None:
        super().__init__("emotion")
        self.ready = True

    @cached_property
    def score(self) -> Scorer:
        return Scorer()  # in each worker: the model server pickles a model for its workers

    async def predict(self, payload: dict[str, Any], *_: Any) -> dict[str, Any]:
        return {"predictions": self.score(payload["instances"])}


if __name__ == "__main__":
    server = ModelServer(http_port=PORT, workers=WORKERS, enable_grpc=False, enable_docs_url=False)
    server.start([Emotion()])
