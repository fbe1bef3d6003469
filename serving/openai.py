"""OpenAI's chat and text completions, whole or as server-sent events.

https://platform.openai.com/docs/api-reference/chat. What the model cannot do is refused by name, not ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from time import time
from typing import Any, Literal

import msgspec

from gauntlet.serving.faces import Fault, Limits, decoded_body, read_instances, read_parameters
from gauntlet.serving.interface import Answer, Part, Piece, Row, RowModel

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
DONE = b"data: [DONE]\n\n"
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "n": (1, None),
    "stop": (None, []),
    "logprobs": (False, None),
    "top_logprobs": (None,),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "echo": (False, None),
    "suffix": (None, ""),
    "best_of": (1, None),
}
"""What may be named only with a value that asks for nothing."""
IGNORED = ("user", "store", "metadata", "model", "stream", "stream_options", "messages", "prompt")
PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
}


class _Text(msgspec.Struct):
    type: Literal["text"]
    text: str


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Text]


class _Options(msgspec.Struct):
    include_usage: bool = False


class _Completion(msgspec.Struct):
    model: str
    messages: list[_Message] | None = None
    prompt: str | list[str] | None = None
    stream: bool = False
    stream_options: _Options | None = None


@dataclass(frozen=True)
class Completion:
    """A completion that was asked for.

    Attributes:
        model: Its name.
        instance: The question.
        is_streamed: Whether each piece is sent when it is there.
    """

    model: str
    question: str
    given: Mapping[str, Any]
    is_chat: bool
    is_streamed: bool
    has_usage: bool
    identity: str
    created: int

    def read(self, model: RowModel, limits: Limits) -> tuple[Mapping[str, Part], dict[str, float]]:
        """The question as an instance, and the parameters, or a `Fault`."""
        [instance] = read_instances([self.question], model, limits)
        return instance, read_parameters(model, self.given)

    def whole(self, row: Row, answer: Answer, pieces: Sequence[Piece], fingerprint: str) -> bytes:
        """The body of an answer that is sent at once."""
        text, last = str(next(iter(answer.content.values()))), pieces[-1]
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": last.finish}
        content = {**self._head("", fingerprint), "choices": [choice], "usage": usage(row, last)}
        return msgspec.json.encode(content)

    def first(self, fingerprint: str) -> Iterator[bytes]:
        """The event before the first piece."""
        if self.is_chat:
            yield self._event(
                {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}, fingerprint
            )

    def events(self, piece: Piece, fingerprint: str) -> Iterator[bytes]:
        """The events of a piece; after the last one the usage, if it is asked for, and the end."""
        said: dict[str, Any]
        if piece.text:
            said = {"delta": {"content": piece.text}} if self.is_chat else {"text": piece.text}
            yield self._event({**said, "finish_reason": None}, fingerprint)
        if piece.finish is None:
            return
        said = {"delta": {}} if self.is_chat else {"text": ""}
        yield self._event({**said, "finish_reason": piece.finish}, fingerprint)
        if self.has_usage:
            head = self._head(".chunk", fingerprint)
            yield _sent({**head, "choices": [], "usage": usage(piece.row, piece)})
        yield DONE

    def _event(self, choice: Mapping[str, Any], fingerprint: str) -> bytes:
        return _sent({**self._head(".chunk", fingerprint), "choices": [{"index": 0, **choice}]})

    def _head(self, suffix: str, fingerprint: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.is_chat else "text_completion"
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }


def parse(path: str, body: bytes) -> Completion:
    """A request for a completion, or a `Fault`."""
    asked: _Completion = decoded_body(body, _Completion)
    everything: dict[str, Any] = decoded_body(body, dict[str, Any])
    given: dict[str, Any] = {}
    for name, value in everything.items():
        if name in PARAMETERS:
            if value is not None:
                given[PARAMETERS[name]] = value
        elif name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise Fault(400, f"{name}: this server cannot do that; leave it out")
        elif name not in IGNORED:
            raise Fault(400, f"found the key {name[:60]!r}, which this server does not know; leave it out")
    is_chat = path == CHAT
    return Completion(
        asked.model,
        _asked_in(asked.messages) if is_chat else _prompt_of(asked.prompt),
        given,
        is_chat,
        asked.stream,
        asked.stream_options is not None and asked.stream_options.include_usage,
        ("chatcmpl-" if is_chat else "cmpl-") + token_hex(12),
        int(time()),
    )


def usage(row: Row, last: Piece) -> dict[str, int]:
    """The tokens of a question and of its answer."""
    prompt = int(row.inputs["input_ids"].shape[1])
    return {"prompt_tokens": prompt, "completion_tokens": last.tokens, "total_tokens": prompt + last.tokens}


def failure(message: str, kind: str) -> bytes:
    """The event of an answer that cannot be ended."""
    return _sent(error_of(message, kind)) + DONE


def error_of(message: str, kind: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _asked_in(messages: Sequence[_Message] | None) -> str:
    if messages is None or len(messages) != 1 or messages[0].role != "user":
        found = [one.role for one in messages or ()]
        raise Fault(
            400,
            f"messages: found the roles {found!r:.100}, expected one message of the role user: the model was "
            "trained on single questions, and its bundle has the text around one",
        )
    content = messages[0].content
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _prompt_of(prompt: str | list[str] | None) -> str:
    prompts = [prompt] if isinstance(prompt, str) else prompt or []
    if len(prompts) != 1:
        raise Fault(400, f"prompt: found {len(prompts) or 'none'}, expected a text")
    return prompts[0]


def _sent(content: Any) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
