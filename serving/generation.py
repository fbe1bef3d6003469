"""Text from a bundled causal language model, greedy or sampled: onnxruntime, numpy and tokenizers alone.

B = batch, T = tokens fed at once, C = columns of a batch so far, V = vocabulary.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers.decoders import DecodeStream

from gauntlet.serving.bundle import MODEL_FILE, TOKENIZER_FILE, BundleError, loaded, read_info
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.texts import TokenizerError, encodings, open_tokenizer

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

PAST, PRESENT = "past_key_values.", "present."
METADATA_KEY = "gauntlet"  # of what the graph says of itself: {"context": 2048, "stop_tokens": [2]}


class PromptError(ValueError):
    """A prompt that the model cannot continue."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: Divides the logits. 0 takes the likeliest token, and then nothing else counts.
        top_k: Only that many of the likeliest tokens may be drawn; 0 is all.
        top_p: Only the likeliest tokens that together reach this probability may be drawn.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1")

    def probabilities(self, logits: Floats) -> npt.NDArray[np.float64]:
        """What each token is drawn with, (B, V), given logits (B, V) and a temperature above 0."""
        scores = logits.astype(np.float64) / self.temperature
        if 0 < self.top_k < scores.shape[1]:
            bound = np.partition(scores, -self.top_k, axis=1)[:, -self.top_k, None]
            scores[scores < bound] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        if self.top_p < 1:
            order = np.argsort(weights, axis=1, kind="stable")
            below = np.take_along_axis(weights, order, axis=1).cumsum(axis=1) <= 1 - self.top_p
            below[:, -1] = False  # the likeliest one is always kept
            drop = np.empty_like(below)
            np.put_along_axis(drop, order, below, axis=1)
            weights[drop] = 0
            weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray(weights)

    def draw(self, logits: Floats, generator: np.random.Generator) -> Tokens:
        """The next token of each row, (B,), given logits (B, V)."""
        if self.temperature == 0:
            return np.asarray(logits.argmax(axis=1))
        steps = self.probabilities(logits).cumsum(axis=1)
        # The last step is 1, except for rounding.
        chance = generator.random((len(logits), 1)) * steps[:, -1:]
        return np.asarray((steps <= chance).sum(axis=1))


GREEDY = Sampling()


class Generator:
    """A verified bundle of a causal language model, ready to continue text."""

    def __init__(self, folder: str | Path, threads: int | None = None, sha256: str | None = None) -> None:
        """Verify the bundle and load it, as `Bundle` does.

        Raises:
            BundleError: The bundle is incomplete or altered, or its graph is not a decoder.
        """
        self.info = read_info(Path(folder), sha256)
        model, penalty = Path(folder) / MODEL_FILE, self.info.repetition_penalty or 1.0
        self.decoder = Decoder(model, threads or usable_cpus(), penalty)
        try:
            self.tokenizer = open_tokenizer(Path(folder) / TOKENIZER_FILE).tokenizer
        except TokenizerError as error:
            raise BundleError(str(error)) from None
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._special_tokens = [token.content for token in added if token.special]

    def framed(self, question: str) -> str:
        """A question within the bundle's `frame`, as the model was trained on. Raises as `readable`."""
        before, after = self.info.frame or ("", "")
        return before + readable(question, self._special_tokens) + after

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, or a `PromptError`. If prompts are framed, all special tokens come from the frame."""
        plain = self.info.frame is None
        try:
            return [encoding.ids for encoding in encodings(self.tokenizer, texts, add_special_tokens=plain)]
        except TokenizerError as error:
            raise PromptError(str(error)) from None

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling = GREEDY, seed: int = 0
    ) -> list[str]:
        """What follows each prompt, up to a token that ends a text or `max_new_tokens`.

        Raises:
            PromptError: A prompt is empty, or with the new tokens longer than the model reads.
        """
        encoded = self.encode(prompts)
        continued = self.decoder.continue_tokens(encoded, max_new_tokens, sampling, seed)
        return [str(text) for text in self.tokenizer.decode_batch(continued)]

    def stream(
        self, prompt: str, max_new_tokens: int, sampling: Sampling = GREEDY, seed: int = 0
    ) -> Iterator[str]:
        """The same for one prompt, piece by piece: each holds whole characters."""
        text = DecodeStream(skip_special_tokens=True)
        for token in self.decoder.steps(self.encode([prompt]), max_new_tokens, sampling, seed):
            piece = text.step(self.tokenizer, int(token[0]))
            if piece is not None and token[0] not in self.decoder.stop_tokens:
                yield piece


def readable(question: str, special_tokens: Sequence[str] = ()) -> str:
    """A question without the space around it, or a `PromptError` for what training data may not have."""
    question = question.strip()
    if not question:
        raise PromptError("found nothing, expected a question")
    if held := next((token for token in special_tokens if token in question), None):
        raise PromptError(f"found {held}, a token of the model's template. Leave it out")
    if control := next((c for c in question if unicodedata.category(c) == "Cc" and c not in "\t\r\n"), None):
        raise PromptError(f"found the control character U+{ord(control):04X}. Leave it out")
    return question


def penalised(logits: Floats, seen: npt.NDArray[np.bool_], penalty: float) -> Floats:
    """Logits (B, V), with the tokens that a row holds already, `seen` (B, V), made less likely.

    Above 0 they are divided by it, below 0 multiplied (Keskar et al., 2019, "CTRL"); 1 changes nothing.
    """
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


def token_losses(logits: Floats, input_ids: Tokens, real: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """-log p of every token (1-D) that follows a token of its text, given logits (B, T, V)."""
    follows = real[:, :-1] & real[:, 1:]
    scores = logits[:, :-1][follows].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(scores, input_ids[:, 1:][follows][:, None], axis=1)[:, 0]
    return np.asarray(np.log(np.exp(scores).sum(axis=1)) - chosen)


class Decoder:
    """A causal language model's graph, over tokens."""

    def __init__(self, path: Path, threads: int, repetition_penalty: float = 1.0) -> None:
        """Load the graph. `repetition_penalty` is that of `penalised`, for each token of prompt and answer.

        Raises:
            BundleError: The graph does not name its context and stop tokens, so it is not a decoder.
        """
        self.session = loaded(path, threads)
        facts = self.session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        try:
            said = json.loads(facts or "null")
            self.context: int = int(said["context"])
            self.stop_tokens: list[int] = [int(token) for token in said["stop_tokens"]]
        except (ValueError, TypeError, KeyError, OverflowError):
            raise BundleError(f"{path}: not the graph of a causal language model") from None
        self.repetition_penalty = repetition_penalty

    def continue_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> list[list[int]]:
        """The tokens that follow each prompt, without the one that ends a text."""
        steps = list(self.steps(prompts, max_new_tokens, sampling, seed))
        rows = np.array(steps, dtype=np.int64).reshape(len(steps), len(prompts))
        stops = np.isin(rows, self.stop_tokens)
        return [
            rows[: stop.argmax() if stop.any() else len(rows), row].tolist()
            for row, stop in enumerate(stops.T)
        ]

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> Iterator[Tokens]:
        """The next token of every prompt, (B,), step by step, until all have ended.

        A row's tokens after its stop token mean nothing.

        Raises:
            PromptError: A prompt is empty, or with the new tokens longer than the model reads.
        """
        self.check(prompts, max_new_tokens)
        generator = np.random.default_rng(seed)
        tokens, mask = pad_left(prompts)
        cache = _Cache(self.session, len(prompts))
        ended = np.zeros(len(prompts), dtype=bool)
        seen: npt.NDArray[np.bool_] | None = None  # (B, V), if there is a penalty
        for _ in range(max_new_tokens):
            if ended.all():
                return
            logits = cache.feed(tokens, mask, keep=np.array([tokens.shape[1] - 1]))
            scores = logits[:, 0]
            if self.repetition_penalty != 1:
                seen = present(prompts, scores.shape[1]) if seen is None else seen
                seen[np.arange(len(prompts)), tokens[:, -1]] = True
                scores = penalised(scores, seen, self.repetition_penalty)
            drawn = sampling.draw(scores, generator)
            yield drawn
            ended |= np.isin(drawn, self.stop_tokens)
            tokens = drawn[:, np.newaxis]
            mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)

    def logits(self, input_ids: Tokens, attention_mask: Tokens, prompt: int | None = None) -> Floats:
        """Logits (B, T, V) of tokens (B, T), padded on either side.

        The first `prompt` columns, by default all, are read at once, the others one by one.
        """
        total = input_ids.shape[1]
        bounds = [0, *range(total if prompt is None else prompt, total + 1)]
        cache = _Cache(self.session, len(input_ids))
        parts = [
            cache.feed(input_ids[:, start:stop], attention_mask[:, :stop], keep=np.arange(stop - start))
            for start, stop in pairwise(bounds)
        ]
        return np.concatenate(parts, axis=1)

    def tail_logits(self, input_ids: Tokens, attention_mask: Tokens, count: int) -> Floats:
        """Logits (B, `count`, V) of the last columns of tokens (B, T), padded on the left."""
        width = input_ids.shape[1]
        cache = _Cache(self.session, len(input_ids))
        return cache.feed(input_ids, attention_mask, keep=np.arange(width - count, width))

    def check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        """Raise the `PromptError` of `steps`."""
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise PromptError(f"prompt {row + 1} has no tokens; a model needs one to continue")
            if len(prompt) + max_new_tokens > self.context:
                raise PromptError(
                    f"prompt {row + 1} has {len(prompt)} tokens, with {max_new_tokens} new ones more than "
                    f"the {self.context} that the model reads. Shorten it, or ask for fewer new ones"
                )


def present(rows: Sequence[Sequence[int]], vocabulary: int) -> npt.NDArray[np.bool_]:
    """Which of a vocabulary's tokens each row holds, (B, V)."""
    found = np.zeros((len(rows), vocabulary), dtype=bool)
    for at, row in enumerate(rows):
        found[at, list(row)] = True
    return found


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tokens, Tokens]:
    """Tokens and attention mask, each (B, T), T being the longest row's; 0 fills the rest."""
    width = max(map(len, rows), default=0)
    tokens, mask = np.zeros((2, len(rows), width), dtype=np.int64)
    for at, row in enumerate(rows):
        tokens[at, width - len(row) :] = row
        mask[at, width - len(row) :] = 1
    return tokens, mask


@dataclass(eq=False)
class Stream:
    """A continuation that shares its steps with others.

    Attributes:
        prompt: Its tokens.
        most: How many tokens may follow.
        tokens: Those that did, without one that ends a text.
        finish: Why it has ended; None while it goes on.
    """

    prompt: Sequence[int]
    most: int
    sampling: Sampling = GREEDY
    seed: int = 0
    tokens: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None

    def __post_init__(self) -> None:
        if self.most < 1 or self.seed < 0:
            raise ValueError(
                f"found {self.most} new tokens and the seed {self.seed}, expected 1 and 0 at least"
            )
        self._generator = np.random.default_rng(self.seed)
        self._seen: npt.NDArray[np.bool_] | None = None  # (1, V), if there is a penalty

    def draw(self, logits: Floats, decoder: Decoder) -> None:
        """Draw the next token, given logits (1, V)."""
        if decoder.repetition_penalty != 1:
            if self._seen is None:
                self._seen = present([self.prompt], logits.shape[1])
            self._seen[0, self.tokens[-1:]] = True
            logits = penalised(logits, self._seen, decoder.repetition_penalty)
        token = int(self.sampling.draw(logits, self._generator)[0])
        if token in decoder.stop_tokens:
            self.finish = "stop"
            return
        self.tokens.append(token)
        if len(self.tokens) == self.most:
            self.finish = "length"


class Streams:
    """Continuations by one decoder that share steps; each may join and end at any step.

    A stream's tokens depend on the others only as far as the graph's scores depend on the rows of a batch.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._streams: list[Stream] = []
        self._cache: _Cache | None = None
        self._mask: Tokens = np.empty((0, 0), dtype=np.int64)  # (B, C)

    def __len__(self) -> int:
        return len(self._streams)

    def join(self, stream: Stream) -> None:
        """Read a prompt, alone, and draw its first token; a `PromptError` if it cannot be read."""
        self._decoder.check([stream.prompt], stream.most)
        cache = _Cache(self._decoder.session, 1)
        tokens, mask = pad_left([stream.prompt])
        logits = cache.feed(tokens, mask, keep=np.array([tokens.shape[1] - 1]))
        stream.draw(logits[:, 0], self._decoder)
        if stream.finish is not None:
            return
        if self._cache is None:
            self._cache, self._mask = cache, mask
        else:
            width = max(mask.shape[1], self._mask.shape[1])
            self._cache.append(cache, width)
            both = [np.pad(one, ((0, 0), (width - one.shape[1], 0))) for one in (self._mask, mask)]
            self._mask = np.concatenate(both)
        self._streams.append(stream)

    def step(self) -> list[Stream]:
        """Draw the next token of every stream, and return them; those that have ended leave."""
        if self._cache is None:
            return []
        tokens = np.array([[stream.tokens[-1]] for stream in self._streams], dtype=np.int64)
        self._mask = np.pad(self._mask, ((0, 0), (0, 1)), constant_values=1)
        logits = self._cache.feed(tokens, self._mask, keep=np.array([0]))
        stepped = self._streams
        for row, stream in enumerate(stepped):
            stream.draw(logits[row], self._decoder)
        self._keep([stream.finish is None for stream in stepped])
        return stepped

    def drop(self, stream: Stream) -> None:
        """End a stream whose text nobody wants."""
        self._keep([one is not stream for one in self._streams])

    def _keep(self, kept: Sequence[bool]) -> None:
        """Keep some streams, and no column of the cache that is padding in all of them."""
        if all(kept):
            return
        self._streams = [one for one, stays in zip(self._streams, kept, strict=True) if stays]
        if self._cache is None or not self._streams:
            self._cache = None
            return
        rows = np.flatnonzero(kept)
        mask = self._mask[rows]
        first = int(mask.any(axis=0).argmax())
        self._mask = mask[:, first:]
        self._cache.keep(rows, first)


class _Cache:
    """Keys and values of one batch, as numpy arrays: OrtValues were no faster (onnxruntime 1.31)."""

    def __init__(self, session: onnxruntime.InferenceSession, rows: int) -> None:
        self._session = session
        self._past = {
            tensor.name: np.zeros((rows, tensor.shape[1], 0, tensor.shape[3]), dtype=np.float32)
            for tensor in session.get_inputs()
            if tensor.name.startswith(PAST)
        }
        self._outputs = ["logits", *(PRESENT + name.removeprefix(PAST) for name in self._past)]

    def feed(self, input_ids: Tokens, attention_mask: Tokens, keep: Tokens) -> Floats:
        """Logits (B, K, V) of those of the tokens (B, T) that `keep` (K,) names; the mask is (B, C)."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "logits_to_keep": keep}
        logits, *present = self._session.run(self._outputs, inputs | self._past)
        self._past = dict(zip(self._past, present, strict=True))
        return np.asarray(logits, dtype=np.float32)

    def append(self, other: _Cache, width: int) -> None:
        """Add the rows of another cache; both are padded on the left to `width` columns."""

        def widened(values: Floats) -> Floats:
            return np.pad(values, ((0, 0), (0, 0), (width - values.shape[2], 0), (0, 0)))

        for name, values in self._past.items():
            self._past[name] = np.concatenate([widened(values), widened(other._past[name])])

    def keep(self, rows: npt.NDArray[np.intp], first: int) -> None:
        """Keep some rows, from the column `first` on."""
        self._past = {name: values[rows, :, first:] for name, values in self._past.items()}
