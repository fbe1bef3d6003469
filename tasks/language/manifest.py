"""The manifest of a language model that answers in conversations: what its kinds have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gauntlet.manifests.dataset import RecordDataset, RowCheck, Severity, SimilarityCheck
from gauntlet.manifests.gates import (
    SMALLEST_MARGIN,
    CommonEvaluation,
    CommonGates,
    resolvable,
    say_resolution,
)
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.section import Fraction, Section
from gauntlet.tasks.therapy.manifest import Stages, Therapy

Marker = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^:\n]+$")]


class PromptColumns(Section):
    """The columns of rows that are one question and one answer.

    A text in `input` follows the prompt after an empty line, as in Alpaca's data. `system` has the system
    message. `time`, also a key of records of any form, says when the row was made, as ISO 8601 or as a
    number: the splits that no file provides are then made by time, with the newest conversations as the test
    split.
    """

    prompt: str = Field("input_text", min_length=1)
    response: str = Field("output_text", min_length=1)
    input: str | None = Field(None, min_length=1)
    system: str | None = Field(None, min_length=1)
    time: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.prompt == self.response:
            raise ValueError(f"prompt and response are both {self.prompt}: the model would learn to echo")
        named = [name for name in (self.prompt, self.response, self.input, self.system, self.time) if name]
        if len(set(named)) < len(named):
            raise ValueError(f"columns are named twice: {', '.join(named)}")
        return self


class RoleMarkers(Section):
    """The words before a colon that say who speaks, in upper or lower case, in a conversation that is one
    text.

    The model learns to speak as `assistant`.
    """

    user: tuple[Marker, ...] = Field(("Client", "Patient", "User", "Human"), min_length=1)
    assistant: tuple[Marker, ...] = Field(("Therapist", "Counselor", "Assistant", "AI"), min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        both = {name.casefold() for name in self.user} & {name.casefold() for name in self.assistant}
        if both:
            raise ValueError(f"user and assistant are both called {', '.join(sorted(both))}")
        return self


class UnusedColumnsCheck(Section):
    """A check on columns or keys of records that hold text that nothing reads, except those in `ignore`."""

    severity: Severity = "warn"
    ignore: tuple[str, ...] = ()


class ConversationChecks(Section):
    """What is checked before a model is trained, with strict defaults.

    `message_keys` finds keys of messages that nothing reads. `tool_messages` finds calls of tools and their
    answers that the model's chat template leaves out.

    `context_length` is about rows of more than `dataset.max_tokens`: `fail` refuses them, `drop` leaves them
    out, and `warn` cuts them when the model is trained. Prompts are compared for `leakage`, whole rows for
    `exact_duplicates`.
    """

    empty_conversations: RowCheck = RowCheck()
    role_markers: RowCheck = RowCheck()
    message_keys: RowCheck = RowCheck()
    tool_messages: RowCheck = RowCheck()
    encoding: RowCheck = RowCheck()
    special_tokens: RowCheck = RowCheck()
    context_length: RowCheck = RowCheck()
    exact_duplicates: RowCheck = RowCheck()
    leakage: SimilarityCheck = SimilarityCheck()
    unused_columns: UnusedColumnsCheck = UnusedColumnsCheck()


class ConversationDataset(RecordDataset):
    """Section of validate-data: conversations, of which each answer is a row.

    A file holds objects with lists of messages, with one `text` of marked turns, or with `columns` of texts;
    without `columns` those of known data are looked for. `tokenizer` is the model whose chat template and
    tokens count: `training.model`.
    """

    format: Literal["auto", "csv", "jsonl", "json", "parquet", "arrow"] = "auto"
    columns: PromptColumns | None = None
    roles: RoleMarkers = RoleMarkers()
    tokenizer: str = Field(min_length=1)
    max_tokens: int = Field(512, ge=16, le=131_072)
    checks: ConversationChecks = ConversationChecks()

    @property
    def text_columns(self) -> PromptColumns | None:
        """The columns of the texts; None where the manifest names none of them, or `time` alone."""
        if self.columns is None or self.columns == PromptColumns(time=self.columns.time or "-"):
            return None
        return self.columns

    @property
    def time_column(self) -> str | None:
        """The column, or the key of a record, that says when it was made."""
        return None if self.columns is None else self.columns.time


class LanguageEvaluation(CommonEvaluation):
    """Section of evaluate-model: the bundle, the model before training and the champion on the same prompts.

    `prompts` test rows, drawn by the seed, are answered twice, by the likeliest tokens and by tokens drawn
    with `temperature`, `top_k` (0: all) and `top_p`, `batch_size` at a time, in `max_new_tokens` at most.
    `therapy` judges the answers of a model that is to hold conversations with people who may be in distress.
    """

    prompts: int = Field(100, ge=2)
    max_new_tokens: int = Field(64, ge=1)
    batch_size: int = Field(8, ge=1)
    temperature: float = Field(0.7, gt=0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    therapy: Therapy | None = None


PERPLEXITY_SPREAD = 0.1
"""Assumed standard deviation, between two trainings, of one conversation's log-loss per token."""

ROUGE_L_SPREAD = 0.5
"""The same for ROUGE-L, as a share of its mean."""


def default_gain_margin(conversations: int, spread: float, confidence: float = 0.95) -> float:
    """`non_inferiority_margin` where the manifest has none: what the conversations can show, or 0.01."""
    return max(SMALLEST_MARGIN, resolvable(conversations, spread, confidence))


def describe_gain_resolution(conversations: int, spread: float, metric: str) -> str:
    """What a comparison with the champion can show on so many test conversations."""
    margin = default_gain_margin(conversations, spread)
    return say_resolution(
        f"{conversations:,} test conversations", f"a difference of {100 * margin:.2g} % in {metric}"
    )


class LanguageGates(CommonGates):
    """Section of gate-model.

    The tuned model must be better than the one that it began from in perplexity and ROUGE-L, each by more
    than 0 at the lower end of the paired bootstrap interval. `non_inferiority_margin` is the share by which
    perplexity may be over the champion's; by default it follows from the number of test conversations.
    `stages` are judged by the figures of `evaluation.therapy`.

    A managed model gives no probabilities of an answer: it has no `max_perplexity`, and its margin is of
    ROUGE-L.
    """

    max_perplexity: float | None = Field(None, gt=1)
    min_rouge_l: Fraction = 0.0
    min_speedup: float = Field(1.0, gt=0)
    max_model_mb: float = Field(2_000.0, gt=0)
    stages: Stages | None = None

    def margin_for(self, rows: int) -> float:
        """The default margin for so many conversations: of ROUGE-L if there is no bound on perplexity."""
        return default_gain_margin(rows, ROUGE_L_SPREAD if self.max_perplexity is None else PERPLEXITY_SPREAD)


class ConversationManifest(Manifest):
    """The manifest of a language model."""

    dataset: ConversationDataset
    evaluation: LanguageEvaluation = LanguageEvaluation()
    gates: LanguageGates

    shared_keys: ClassVar[Mapping[str, str]] = {"tokenizer": "model"}

    @model_validator(mode="after")
    def _stages_are_judged(self) -> Self:
        if self.gates.stages is not None and self.evaluation.therapy is None:
            raise ValueError("gates.stages without evaluation.therapy: nothing would judge them")
        return self
