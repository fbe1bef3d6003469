"""Conversations as a managed model reads them: the contents of a Gemini request, as JSON.

https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning-prepare
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gauntlet.tasks.language.rendering import Context, Rendered
from gauntlet.tasks.language.turns import Turn

CHARACTERS_PER_TOKEN = 4
"""The vendor's own rule of thumb. The exact count is asked of its API before tuning is paid for."""

ROLES = {"user": "user", "assistant": "model"}


class ManagedRenderer:
    """What `Renderer` is for a model with a chat template of its own; nothing has to be loaded."""

    special_tokens: tuple[str, ...] = ()

    def frame(self, system: str | None = None) -> tuple[str, str]:  # noqa: ARG002
        """Nothing stands around a prompt: it is a request of its own."""
        return "", ""

    def unrendered(self, context: Context, answer: Turn, tools: str) -> str | None:
        """Why a conversation with tools cannot be a request, in words; None for one without tools."""
        if tools or any(turn.calls or turn.role == "tool" for turn in (*context, answer)):
            return "the requests for a managed model contain only texts, without tools"
        return None

    def render(
        self, contexts: Sequence[Context], answers: Sequence[Turn], tools: Sequence[str]
    ) -> list[Rendered]:
        """Each context as JSON with `contents` and, of what the system says, `systemInstruction`.

        There are no `tools`: see `unrendered`.
        """
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
    """Roles and texts as a request: what the system says is one instruction, and the sides take turns."""
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
