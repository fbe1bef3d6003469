"""From a record of a file to the turns of a conversation, and from these to one example for each answer.

A record is read by the first form that fits:

- a list of messages under `messages`, `conversations` or `conversation`, in the form of OpenAI's API or of
ShareGPT; - `prompt` and `completion`, each a text or a list of messages; - columns of texts: those of the
manifest, else `KNOWN_COLUMNS`; - `text`, in which markers say who speaks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gauntlet.components.validate_data.text import excerpt, is_blank
from gauntlet.tasks.language.manifest import PromptColumns, RoleMarkers

Role = Literal["system", "user", "assistant", "tool"]
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SPEAKERS: Mapping[str, Role] = {
    **ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""The roles that `from` may have."""

MESSAGE_LISTS = ("messages", "conversations", "conversation")
PROMPT, COMPLETION = "prompt", "completion"
SYSTEM, TOOLS, FUNCTIONS, TEXT = "system", "tools", "functions", "text"
KNOWN_COLUMNS = (
    PromptColumns(),
    PromptColumns(prompt="questionText", response="answerText"),
    PromptColumns(prompt="instruction", input="input", response="output", system=SYSTEM),
    PromptColumns(prompt="instruction", input="context", response="response"),
    PromptColumns(prompt=PROMPT, response=COMPLETION, system=SYSTEM),
)
"""Tried in this order: Gauntlet's own names, CounselChat's, Alpaca's, Dolly's, OpenAI's older form."""

TEXT_PARTS = ("text", "input_text", "output_text")
KEYS_OF: Mapping[Role, Collection[str]] = {
    "system": ("role", "content", "weight"),
    "user": ("role", "content", "weight"),
    "assistant": ("role", "content", "weight", "tool_calls", "function_call"),
    "tool": ("role", "content", "weight", "name", "tool_call_id"),
}
"""The keys of a message that are read."""


class RoleError(ValueError):
    """A text or a message does not say who speaks."""


class EmptyError(ValueError):
    """A conversation has no turns or answers, or a turn is not a text."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        learned: For an answer, whether the model learns it.
        calls: For an answer, the tools that it calls, as JSON in the form of OpenAI's `tool_calls`.
        name, call_id: For a tool, its name and the id of the call that it answers.
    """

    role: Role
    text: str
    learned: bool = True
    calls: str = ""
    name: str = ""
    call_id: str = ""

    def as_message(self) -> dict[str, Any]:
        """As a chat template expects it."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.calls:
            message["tool_calls"] = json.loads(self.calls)
        if self.name:
            message["name"] = self.name
        if self.call_id:
            message["tool_call_id"] = self.call_id
        return message


@dataclass(frozen=True)
class Example:
    """An answer and all turns before it."""

    context: tuple[Turn, ...]
    answer: Turn

    @property
    def response(self) -> str:
        """The text of the answer."""
        return self.answer.text

    @property
    def opening(self) -> str:
        """The first turn of the user: answers with the same opening belong to one split."""
        return next(turn.text for turn in self.context if turn.role == "user")


@dataclass(frozen=True)
class Conversation:
    """The conversation of one record.

    Attributes:
        tools: The tools that the model may call, as JSON in the form of OpenAI's `tools`.
        unread_keys: Keys of messages that nothing reads, in words; `unread_columns` are keys of the record
            with text.
    """

    turns: tuple[Turn, ...]
    tools: str = ""
    unread_keys: tuple[str, ...] = ()
    unread_columns: tuple[str, ...] = ()


def conversation_of(
    record: Mapping[str, Any], columns: PromptColumns | None, roles: RoleMarkers
) -> Conversation:
    """The conversation of one record, in any of the forms. Keys whose value is null are ignored.

    Raises:
        RoleError: A turn has an unknown role, or a text has no markers.
        EmptyError: A turn, or the whole conversation, is empty or not a text.
    """
    record = {key: value for key, value in record.items() if value is not None}
    unread: list[str] = []
    turns, read = _turns(record, columns, roles, unread)
    if not turns:
        raise EmptyError("no turns")
    for turn in turns:
        if not turn.text and not turn.calls:
            raise EmptyError(f"an empty turn of the {turn.role}")
    tools = "" if columns else _tools(record)
    others = [
        str(key)
        for key, value in record.items()
        if key not in read and key not in (() if columns else (TOOLS, FUNCTIONS)) and _holds_text(value)
    ]
    return Conversation(tuple(turns), tools, tuple(dict.fromkeys(unread)), tuple(others))


def examples_of(turns: Sequence[Turn]) -> Iterator[Example]:
    """One example for each answer that is learned; an `EmptyError` if there is none.

    Consecutive turns of one side are joined. An answer without a turn before it is left out.
    """
    merged: list[Turn] = []
    for turn in turns:
        if merged and _continues(merged[-1], turn):
            merged[-1] = replace(turn, text=f"{merged[-1].text}\n{turn.text}")
        elif turn.role not in ("assistant", "tool") or any(before.role == "user" for before in merged):
            merged.append(turn)
    answers = [at for at, turn in enumerate(merged) if turn.role == "assistant"]
    if not answers:
        raise EmptyError("no answer to a turn of the user")
    learned = [at for at in answers if merged[at].learned]
    if not learned:
        raise EmptyError("no answer to learn: each has the weight 0")
    for at in learned:
        yield Example(tuple(merged[:at]), merged[at])


def _continues(before: Turn, turn: Turn) -> bool:
    """Whether a turn continues the one before it."""
    if before.role != turn.role or turn.role == "tool" or before.calls or turn.calls:
        return False
    if before.role == "assistant" and before.learned != turn.learned:
        raise EmptyError(
            "two answers in a row, of which one has the weight 0: consecutive answers are learned as one"
        )
    return True


def _turns(
    record: Mapping[str, Any], columns: PromptColumns | None, roles: RoleMarkers, unread: list[str]
) -> tuple[list[Turn], Collection[str]]:
    """The turns, and the keys of the record that they were read from."""
    listed = next((key for key in MESSAGE_LISTS if isinstance(record.get(key), list)), None)
    if columns is None and listed is not None:
        turns = [_turn_of_message(message, unread) for message in record[listed]]
        if any(turn.role == "system" for turn in turns[:1]) or not isinstance(record.get(SYSTEM), str):
            return turns, (listed,)
        return [*_system(record, SYSTEM), *turns], (listed, SYSTEM)
    if columns is None and any(isinstance(record.get(key), list) for key in (PROMPT, COMPLETION)):
        return _prompt_and_completion(record, unread), (PROMPT, COMPLETION)
    wanted = KNOWN_COLUMNS if columns is None else (columns,)
    names = next((c for c in wanted if {c.prompt, c.response} <= record.keys()), None)
    if names is None and columns is None and TEXT in record:
        return _turns_of_text(_text(record[TEXT]), roles), (TEXT,)
    names = names or next((c for c in wanted if c.prompt in record or c.response in record), None)
    if names is None:
        keys = " or ".join(f"{c.prompt} and {c.response}" for c in wanted)
        others = "" if columns else "messages, text, or "
        raise EmptyError(
            f"found the keys {', '.join(map(str, record)) or 'none'}; expected {others}{keys}"
            f"{'' if columns else ' or conversations'}. "
            "Set dataset.columns.prompt and dataset.columns.response"
        )
    prompt = _text(record.get(names.prompt))
    added = _text(record.get(names.input)) if names.input else ""
    turns = [
        *(_system(record, names.system) if names.system else ()),
        Turn("user", "\n\n".join(filter(None, (prompt, added)))),
        Turn("assistant", _text(record.get(names.response))),
    ]
    read = (names.prompt, names.response, names.input, names.system)
    return turns, [name for name in read if name is not None]


def _system(record: Mapping[str, Any], column: str) -> list[Turn]:
    text = _text(record.get(column))
    return [Turn("system", text)] if text else []


def _prompt_and_completion(record: Mapping[str, Any], unread: list[str]) -> list[Turn]:
    def side(key: str, role: Role) -> list[Turn]:
        value = record.get(key)
        if isinstance(value, list):
            return [_turn_of_message(message, unread) for message in value]
        return [Turn(role, _text(value))]

    return [*(replace(turn, learned=False) for turn in side(PROMPT, "user")), *side(COMPLETION, "assistant")]


def _turn_of_message(message: object, unread: list[str]) -> Turn:
    if not isinstance(message, Mapping):
        raise RoleError(f"found the role {excerpt(str(message))}, expected one of {', '.join(ROLES)}")
    by_speaker = "from" in message and "role" not in message
    known, speaker = (SPEAKERS, message["from"]) if by_speaker else (ROLES, message.get("role"))
    role = known.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RoleError(f"found the role {excerpt(str(speaker))}, expected one of {', '.join(known)}")
    said = {key: value for key, value in message.items() if value not in (None, "", [], {})}
    if by_speaker:
        said = {{"from": "role", "value": "content"}.get(key, key): value for key, value in said.items()}
    unread += [f"{key} of a message of the {role}" for key in said if key not in KEYS_OF[role]]
    text = _content(said.get("content"))
    calls = [*_list(said.get("tool_calls")), *_list(said.get("function_call"))] if role == "assistant" else []
    if by_speaker and speaker == "function_call":
        calls, text = _list(_json(text)), ""
    return Turn(
        role,
        text,
        learned=_is_learned(message.get("weight"), role),
        calls=_canonical([_call(call) for call in calls]) if calls else "",
        name=_text(said.get("name")) if role == "tool" else "",
        call_id=_text(said.get("tool_call_id")) if role == "tool" else "",
    )


def _is_learned(weight: object, role: Role) -> bool:
    """Whether the weight of a message says to learn it; 0 means no, as in OpenAI's files."""
    if weight is None:
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        raise EmptyError(
            f"found the weight {excerpt(str(weight))}, expected 0 (an answer that is not learned) or 1"
        )
    if weight and role != "assistant":
        raise EmptyError(f"found the weight 1 on a message of the {role}: only answers are learned")
    return bool(weight)


def _content(value: object) -> str:
    if not isinstance(value, list):
        return _text(value)
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        if kind not in TEXT_PARTS:
            raise EmptyError(
                f"found a part of the type {excerpt(str(kind))}: a language model reads only text here. "
                "Leave the record out"
            )
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise EmptyError(f"found {_shown(part)} where a text should be")
        texts.append(text)
    return "\n".join(texts).strip()


def _call(call: object) -> dict[str, Any]:
    """One call of a tool with its arguments as an object, as chat templates expect."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise EmptyError(
            f"found {_shown(call)} where the call of a tool should be, with its name and arguments"
        )
    given = function.get("arguments")
    arguments = _json(given) if isinstance(given, str) and given else given or {}
    if not isinstance(arguments, Mapping):
        raise EmptyError(f"found {_shown(given)} where the arguments of {function['name']} should be")
    own = {"id": call["id"]} if isinstance(call, Mapping) and isinstance(call.get("id"), str) else {}
    return {**own, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _tools(record: Mapping[str, Any]) -> str:
    """The tools of a record, as JSON; `functions` is their older name."""
    given = record.get(TOOLS)
    found = _list(_json(given) if isinstance(given, str) and given.strip() else given)
    found += [{"type": "function", "function": one} for one in _list(record.get(FUNCTIONS))]
    for tool in found:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise EmptyError(f"found {_shown(tool)} among the tools, expected a function with a name")
    return _canonical(found) if found else ""


def _list(value: object) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise EmptyError(f"found {excerpt(text)} where JSON should be") from None


def _canonical(value: object) -> str:
    return json.dumps(_without_null(value), ensure_ascii=False, sort_keys=True)


def _without_null(value: Any) -> Any:
    """Without the keys that are null: in parquet each object has the keys of all."""
    if isinstance(value, Mapping):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def _holds_text(value: object) -> bool:
    if isinstance(value, str):
        return any(map(str.isalpha, value))
    if isinstance(value, Mapping):
        return any(map(_holds_text, value.values()))
    return isinstance(value, list) and any(map(_holds_text, value))


def _turns_of_text(text: str, roles: RoleMarkers) -> list[Turn]:
    if not text:
        raise EmptyError("an empty text")
    known: dict[str, Role] = {name.casefold(): "user" for name in roles.user}
    known |= {name.casefold(): "assistant" for name in roles.assistant}
    names = "|".join(map(re.escape, sorted((*roles.user, *roles.assistant), key=len, reverse=True)))
    found = re.finditer(rf"^[ \t]*({names})[ \t]*:", text, re.MULTILINE | re.IGNORECASE)
    marks = [mark for mark in found if mark[1].casefold() in known]  # re takes İ for i, casefold does not
    if not marks or text[: marks[0].start()].strip():
        markers = ", ".join(f"{name}:" for name in (*roles.user, *roles.assistant))
        raise RoleError(f"does not begin with a role marker ({markers}): {excerpt(text)}")
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [
        Turn(known[mark[1].casefold()], text[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise EmptyError(f"found {_shown(value)} where a text should be")
    return value.strip() if value and not is_blank(value) else ""


def _shown(value: object) -> str:
    return excerpt(json.dumps(value, ensure_ascii=False, default=str))
