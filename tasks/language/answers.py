"""A language model on the test rows: the loss of the references, and its answers. N = rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from gauntlet.components.training_rows import Flags
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.serving.generation import GREEDY, Decoder, Generator, Sampling, pad_left, token_losses
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.packing import TokenRow
from gauntlet.trainer.splits import read_rows, read_split

READ = ("question", "asked", "response", "prompt")
"""The columns of a split that a question and its reference answer are read from."""
LOSS_BATCH = 2  # their logits are of the whole vocabulary


@dataclass(frozen=True)
class Prompts:
    """Test rows: the last question, the reference answer, and both as the model reads them.

    Attributes:
        asked: What the user says in all turns.
        conversations: Rows of the same number are of one conversation, or answers to the same question.
        rows: Prompt and answer as tokens; empty for a model behind an API, whose tokens are unknown.
        rendered: The whole prompt as text, with the turns before.
    """

    ids: tuple[int, ...]
    questions: tuple[str, ...]
    asked: tuple[str, ...]
    references: tuple[str, ...]
    conversations: tuple[int, ...]
    rows: tuple[TokenRow, ...] = ()
    rendered: tuple[str, ...] = ()

    def where(self, kept: Flags) -> Prompts:
        """The rows for which `kept`, (N,), is true."""
        return Prompts(
            **{field.name: tuple(compress(getattr(self, field.name), kept)) for field in fields(self)}
        )


@dataclass(frozen=True)
class Answers:
    """Summed losses of the references (N,), if the model gives probabilities, and two answers to each
    prompt."""

    losses: npt.NDArray[np.float64] | None
    greedy: tuple[str, ...]
    sampled: tuple[str, ...]

    def where(self, kept: Flags) -> Answers:
        """The answers to the prompts for which `kept`, (N,), is true."""
        losses = None if self.losses is None else self.losses[kept]
        return Answers(losses, tuple(compress(self.greedy, kept)), tuple(compress(self.sampled, kept)))


def read_prompts(splits: Path, settings: LanguageEvaluation, seed: int, split: SplitName = "test") -> Prompts:
    """Draw rows of a split; a `DataError` if they are of one conversation, which has no spread."""
    conversations = read_split(splits, split, ["conversation"])["conversation"].to_numpy()
    drawn = np.random.default_rng(seed).permutation(len(conversations))[: settings.prompts]
    frame = read_rows(splits, split, np.sort(drawn), READ)
    frame["conversation"] = conversations[frame.index]
    if (found := frame["conversation"].nunique()) < 2:
        raise DataError(
            f"{splits}: found {len(frame)} {split} rows of {found} conversations, expected at least 2. "
            "Give the split more rows, or ask more `evaluation.prompts`."
        )
    return Prompts(
        ids=tuple(int(at) for at in frame.index),
        questions=tuple(frame["question"]),
        asked=tuple(frame["asked"]),
        references=tuple(frame["response"]),
        conversations=tuple(int(number) for number in frame["conversation"]),
        rendered=tuple(frame["prompt"]),
    )


def answer(
    decoder: Decoder, tokenizer: Tokenizer, prompts: Prompts, settings: LanguageEvaluation, seed: int
) -> Answers:
    """Ask a model; the same seed gives the same answers."""
    sampling = Sampling(settings.temperature, settings.top_k, settings.top_p)
    asked = [row.prompt for row in prompts.rows]
    return Answers(
        losses=reference_losses(decoder, prompts.rows),
        greedy=_answers(decoder, tokenizer, asked, settings, GREEDY, seed),
        sampled=_answers(decoder, tokenizer, asked, settings, sampling, seed),
    )


def answer_texts(model: Generator, texts: Sequence[str], settings: LanguageEvaluation) -> tuple[str, ...]:
    """The greedy answer to each text, which is in the chat template already."""
    return _answers(model.decoder, model.tokenizer, model.encode(texts), settings, GREEDY, seed=0)


def reference_losses(decoder: Decoder, rows: Sequence[TokenRow]) -> npt.NDArray[np.float64]:
    """-log p of each row's reference given its prompt, summed over tokens, (N,)."""
    losses = np.zeros(len(rows))
    order = np.argsort([len(row) for row in rows], kind="stable")
    for start in range(0, len(rows), LOSS_BATCH):
        batch = order[start : start + LOSS_BATCH]
        ids, mask = pad_left([rows[at].whole for at in batch])
        kept = 1 + max(len(rows[at].target) for at in batch)
        logits = decoder.tail_logits(ids, mask, kept)
        for place, at in enumerate(batch):
            own = 1 + len(rows[at].target)
            tail = logits[place : place + 1, -own:], ids[place : place + 1, -own:]
            losses[at] = token_losses(*tail, np.ones((1, own), dtype=bool)).sum()
    return losses


def _answers(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: LanguageEvaluation,
    sampling: Sampling,
    seed: int,
) -> tuple[str, ...]:
    room = decoder.context - settings.max_new_tokens
    asked = [prompt[-room:] for prompt in prompts]
    order = np.argsort([len(prompt) for prompt in asked], kind="stable")
    answers = [""] * len(asked)
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        continued = decoder.continue_tokens(
            [asked[at] for at in batch], settings.max_new_tokens, sampling, seed + start
        )
        for at, tokens in zip(batch, continued, strict=True):
            answers[at] = tokenizer.decode(tokens).strip()
    return tuple(answers)
