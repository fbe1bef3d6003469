"""MLServer: https://mlserver.readthedocs.io/en/latest/user-guide/custom.html"""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from scorer import Scorer


class Emotion(MLModel):
    async def load(self) -> bool:
        self.score = Scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = [text for one in payload.inputs for text in StringCodec.decode_input(one)]
        answers = [json.dumps(answer) for answer in self.score(texts)]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("answers", answers)]
        )
