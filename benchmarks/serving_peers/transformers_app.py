"""transformers behind a server, as its documentation streams: `generate` in a thread, `TextIteratorStreamer`.

https://huggingface.co/docs/transformers/en/internal/generation_utils#transformers.TextIteratorStreamer

CHECKPOINT is a folder of transformers' files, BEFORE and AFTER the texts around a question.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from threading import Thread
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TextIteratorStreamer

torch.set_num_threads(int(os.environ["THREADS"]))
folder = os.environ["CHECKPOINT"]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, os.environ["VARIANT"]))
app = FastAPI()


@app.post("/v1/chat/completions")
def complete(asked: dict[str, Any]) -> Any:
    question = os.environ["BEFORE"] + asked["messages"][0]["content"] + os.environ["AFTER"]
    inputs = tokenizer(question, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": asked["max_tokens"], "do_sample": False, "streamer": streamer}
    Thread(target=model.generate, kwargs={**inputs, **options}, daemon=True).start()
    if not asked.get("stream"):
        return {"choices": [{"message": {"content": "".join(streamer)}}]}

    def events() -> Iterator[str]:
        for text in streamer:
            yield f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error")
