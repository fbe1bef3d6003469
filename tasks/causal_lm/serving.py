"""Serves language models: a question in, the likeliest answer out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, softmax
from gauntlet.serving.generation import Generator, PromptError, pad_left
from gauntlet.serving.interface import Answer, Field, InputError, Part, Request, Row
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet.tasks.language.serving import answers_to, framed

FILES = (MODEL_FILE, TOKENIZER_FILE)
SMOKE_TOKENS = 8
GOLDEN_TOKENS = 16


class LanguageModel(Generator):
    """A language model that answers single questions."""

    parameters: Mapping[str, int] = {"max_new_tokens": 64}
    most_rows: int | None = 1
    medium: Literal["text"] = "text"
    columns = ("question",)

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session of its graph."""
        return self.decoder.session

    @property
    def fields(self) -> tuple[Field, ...]:
        """The answer."""
        return (Field("answer", "BYTES"),)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of short questions: what a long one takes is not measured before it is asked."""
        return (SMOKE_TOKENS,)

    def sample(self, length: int) -> Row:
        """A made-up question, answered with `length` tokens."""
        return self.read([SMOKE_TEXTS[0]], {"max_new_tokens": length})

    def read(
        self,
        parts: Sequence[Part],
        parameters: Mapping[str, int],
        most_pixels: int = 0,  # noqa: ARG002
    ) -> Row:
        """A question as the tokens of its prompt, with how many may follow; see `interface.RowModel`."""
        most = parameters["max_new_tokens"]
        try:
            [tokens] = self.encode([self.framed(str(parts[0]))])
            self.decoder.check([tokens], most)
        except PromptError as error:
            raise InputError(str(error)) from None
        inputs = {"input_ids": np.array([tokens], dtype=np.int64)}
        return Row(inputs, most)

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """The answer to each question, one after the other; one that nobody waits for is cut short."""
        return [self._answered(row) for row in rows]

    def _answered(self, row: Row) -> Answer:
        tokens = []
        prompt = row.inputs["input_ids"].tolist()
        for drawn in self.decoder.steps(prompt, row.length):
            if drawn[0] in self.decoder.stop_tokens or not row.is_wanted:
                break
            tokens.append(int(drawn[0]))
        [text] = self.tokenizer.decode_batch([tokens])
        answer = {"answer": text.strip()}
        return Answer(answer, answer)

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

    def golden(self) -> list[list[float]]:
        """The likeliest next tokens' probabilities after two made-up questions; see `GraphModel`."""
        prompts = self.encode([self.framed(text) for text in SMOKE_TEXTS])
        logits = np.concatenate([self.decoder.tail_logits(*pad_left([row]), 1)[:, 0] for row in prompts])
        likeliest: list[list[float]] = np.sort(softmax(logits), axis=1)[:, : -GOLDEN_TOKENS - 1 : -1].tolist()
        return likeliest


def open_model(folder: Path, sha256: str | None = None) -> LanguageModel:
    """The model of a bundle; see `serving.generation.Generator`."""
    return LanguageModel(folder, sha256=sha256)
