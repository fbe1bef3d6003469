"""Serves language models: a question in, the likeliest answer out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, softmax
from gauntlet.serving.generation import Generator, PromptError, pad_left
from gauntlet.serving.interface import Answer, InputError, Request
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet.tasks.language.serving import answers_to, framed

FILES = (MODEL_FILE, TOKENIZER_FILE)
SMOKE_TOKENS = 8


class LanguageModel(Generator):
    """A language model that answers single questions."""

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session of its graph."""
        return self.decoder.session

    def answer(self, request: Request) -> list[Answer]:
        """Answer one question after the other: together, the longest would decide how much memory all take.

        Raises:
            InputError: A question cannot be asked, or is too long.
        """
        found = []
        for number, prompt in enumerate(framed(request.rows, self.framed), start=1):
            try:
                found += self.generate([prompt], request.max_new_tokens)
            except PromptError as error:
                raise InputError(f"text {number}: {error}.") from None
        return answers_to(request.rows, found)

    def prove(self, bound: float) -> str:
        """Compare the next token of two prompts together and alone, and continue one of them."""
        prompts = self.encode([self.framed(text) for text in SMOKE_TEXTS])
        together = self.decoder.tail_logits(*pad_left(prompts), 1)[:, 0]
        alone = np.concatenate([self.decoder.tail_logits(*pad_left([row]), 1)[:, 0] for row in prompts])
        if not np.isfinite(together).all():
            raise BundleError("a next token's logits are not finite")
        require_alike(softmax(together), softmax(alone), bound)
        answer = self.generate([self.framed(SMOKE_TEXTS[0])], SMOKE_TOKENS)[0]
        return f"{SMOKE_TEXTS[0]!r} is answered {answer!r}"


def open_model(folder: Path, sha256: str | None = None) -> LanguageModel:
    """The model of a bundle; see `serving.generation.Generator`."""
    return LanguageModel(folder, sha256=sha256)
