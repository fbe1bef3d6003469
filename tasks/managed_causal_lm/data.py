"""Conversations for a managed model: the contents of a Gemini request, as JSON.

https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning-prepare
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from gauntlet.components.validate_data.checks import Examination
from gauntlet.tasks.language.data import Context, Rendered, Statistics, examine_conversations, sources
from gauntlet.tasks.language.manifest import ROUGE_L_SPREAD, ConversationDataset, describe_gain_resolution
from gauntlet.tasks.language.turns import Turn

__all__ = ["Statistics", "examine", "sources"]

CHARACTERS_PER_TOKEN = 4
"""The vendor's own rule of thumb. Its API gives the exact count before tuning is paid for."""

ROLES = {"user": "user", "assistant": "model"}


def examine(dataset: ConversationDataset) -> Examination:
    """Read and check a dataset. Raises what `examine_conversations` does."""
    resolution = partial(describe_gain_resolution, spread=ROUGE_L_SPREAD, metric="ROUGE-L")
    return examine_conversations(dataset, ManagedRenderer(), resolution)


class ManagedRenderer:
    """The `Renderer` of a model whose chat template is the vendor's; nothing has to be loaded."""

    special_tokens: tuple[str, ...] = ()

    def frame(self, system: str | None = None) -> tuple[str, str]:  # noqa: ARG002
        """Nothing: a prompt is a request of its own."""
        return "", ""

    def unrendered(self, context: Context, answer: Turn, tools: str) -> str | None:
        """Why a conversation with tools cannot be a request, in words; None for one without tools."""
        if tools or any(turn.calls or turn.role == "tool" for turn in (*context, answer)):
            return "the requests for a managed model contain only texts, without tools"
        return None

    def render(
        self, contexts: Sequence[Context], answers: Sequence[Turn], tools: Sequence[str]
    ) -> list[Rendered]:
        """Each context as JSON with `contents` and `systemInstruction`, without tools."""
        assert not any(tools)
        return [
            Rendered(
                json.dumps(request_of([(turn.role, turn.text) for turn in context]), ensure_ascii=False),
                answer.text,
                sum(estimated_tokens(turn.text) for turn in context),
                estimated_tokens(answer.text),
                answer.text,
            )
            for context, answer in zip(contexts, answers, strict=True)
        ]


def request_of(context: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Roles and texts as a request: system messages are one instruction, and the sides take turns."""
    instructions = [text for role, text in context if role == "system"]
    contents: list[dict[str, Any]] = []
    for role, text in context:
        if role == "system":
            continue
        if contents and contents[-1]["role"] == ROLES[role]:
            contents[-1]["parts"].append({"text": text})
        else:
            contents.append({"role": ROLES[role], "parts": [{"text": text}]})
    request: dict[str, Any] = {"contents": contents}
    if instructions:
        parts = [{"text": text} for text in instructions]
        request = {"systemInstruction": {"role": "system", "parts": parts}, **request}
    return request


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
