"""FastAPI as its tutorial has it: pydantic models and a path operation, in a thread pool or inline.

https://fastapi.tiangolo.com/async/
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from pydantic import BaseModel
from scorer import Scorer


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    label: str
    probabilities: dict[str, float]


app = FastAPI()
score = Scorer()


def in_a_thread(question: Question) -> Answer:
    return Answer(**score([question.text])[0])


async def inline(question: Question) -> Answer:
    return Answer(**score([question.text])[0])


app.post("/predict")(inline if os.environ["VARIANT"] == "inline" else in_a_thread)
