"""Serves language models: a question in, the likeliest answer out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from tokenizers.decoders import DecodeStream

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, softmax
from gauntlet.serving.generation import Generator, PromptError, Sampling, Stream, Streams, pad_left
from gauntlet.serving.interface import Answer, Field, InputError, Part, Piece, Request, Row
from gauntlet.serving.verification import SMOKE_TEXTS, require_alike
from gauntlet.tasks.language.serving import answers_to, framed

FILES = (MODEL_FILE, TOKENIZER_FILE)
SMOKE_TOKENS = 8
GOLDEN_TOKENS = 16


class LanguageModel(Generator):
    """A language model that answers single questions."""

    parameters: Mapping[str, float] = {
        "max_new_tokens": 64, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0
    }  # fmt: skip
    most_rows: int | None = None
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
        return self.read([SMOKE_TEXTS[0]], {**self.parameters, "max_new_tokens": length})

    def read(
        self,
        parts: Sequence[Part],
        parameters: Mapping[str, float],
        most_pixels: int = 0,  # noqa: ARG002
    ) -> Row:
        """A question as the tokens of its prompt, with how many may follow; see `interface.RowModel`."""
        most = int(parameters["max_new_tokens"])
        try:
            [tokens] = self.encode([self.framed(str(parts[0]))])
            self.decoder.check([tokens], most)
            Stream(tokens, most, sampling_of(parameters), int(parameters["seed"]))
        except (PromptError, ValueError) as error:
            raise InputError(str(error)) from None
        inputs = {"input_ids": np.array([tokens], dtype=np.int64)}
        return Row(inputs, most, settings=parameters)

    def run(self, rows: Sequence[Row]) -> list[Answer]:
        """The answers to questions that are asked together; see `interface.RowModel`."""
        streams = self.streams()
        found: dict[int, Answer] = {}
        pieces = [streams.join(row) for row in rows]
        while pieces:
            found |= {id(piece.row): piece.answer for piece in pieces if piece.answer is not None}
            pieces = streams.step()
        return [found[id(row)] for row in rows]

    def features(self, parts: Sequence[Part], row: Row) -> Mapping[str, float]:
        """How long a question is; see `interface.LoggedModel`."""
        tokens = row.inputs["input_ids"].shape[1]
        return {"characters": len(str(parts[0])), "prompt_tokens": tokens, "most_answer_tokens": row.length}

    def logged(self, answer: Answer) -> Mapping[str, Any]:
        """The answer; see `interface.LoggedModel`."""
        return {"output": answer.content["answer"]}

    def streams(self) -> AnswerStreams:
        """See `interface.StreamModel`."""
        return AnswerStreams(self)

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


@dataclass(eq=False)
class _Open:
    """An answer that goes on: its row, its tokens, and the text of those that were given out."""

    row: Row
    stream: Stream
    text: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    given: int = 0
    has_begun: bool = False


class AnswerStreams:
    """The answers to several questions; see `interface.RowStreams`."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._streams = Streams(model.decoder)
        self._open: dict[Stream, _Open] = {}

    def join(self, row: Row) -> Piece:
        """Read a question, and begin its answer."""
        prompt = row.inputs["input_ids"][0].tolist()
        stream = Stream(prompt, row.length, sampling_of(row.settings), int(row.settings["seed"]))
        self._streams.join(stream)
        self._open[stream] = _Open(row, stream)
        return self._piece(stream)

    def step(self) -> list[Piece]:
        """The next piece of each answer."""
        return [self._piece(stream) for stream in self._streams.step()]

    def drop(self, row: Row) -> None:
        """End an answer."""
        for stream in [stream for stream, one in self._open.items() if one.row is row]:
            self._streams.drop(stream)
            del self._open[stream]

    def _piece(self, stream: Stream) -> Piece:
        one, tokenizer = self._open[stream], self._model.tokenizer
        new = stream.tokens[one.given :]
        one.given += len(new)
        text = "".join(one.text.step(tokenizer, token) or "" for token in new)
        if not one.has_begun:
            text = text.lstrip()
            one.has_begun = bool(text)
        if stream.finish is None:
            return Piece(one.row, text, one.given)
        del self._open[stream]
        [whole] = tokenizer.decode_batch([stream.tokens])
        answer = {"answer": whole.strip()}
        return Piece(one.row, text, one.given, stream.finish, Answer(answer, answer))


def sampling_of(parameters: Mapping[str, float]) -> Sampling:
    """How tokens are drawn, or a `ValueError`."""
    return Sampling(parameters["temperature"], int(parameters["top_k"]), parameters["top_p"])


def open_model(folder: Path, sha256: str | None = None) -> LanguageModel:
    """The model of a bundle; see `serving.generation.Generator`."""
    return LanguageModel(folder, sha256=sha256)
