"""From a record of a file to the turns of a conversation, and from these to one example for each answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.validate_data.texts.text import excerpt, is_blank
from manifests.causal_lm import PromptColumns, RoleMarkers

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
KNOWN_COLUMNS = (PromptColumns(), PromptColumns(prompt="questionText", response="answerText"))
"""Looked for in this order: the issue's own names, then CounselChat's."""


class RoleError(ValueError):
    """A text does not say who speaks."""


class EmptyError(ValueError):
    """Nobody says anything, or nobody answers."""


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    text: str


@dataclass(frozen=True)
class Example:
    """An answer and all turns before it, of which the last is the user's."""

    context: tuple[Turn, ...]
    response: str

    @property
    def opening(self) -> str:
        """What the user says first: answers with the same one belong to one split."""
        return next(turn.text for turn in self.context if turn.role == "user")


def turns_of(record: Mapping[str, Any], columns: PromptColumns | None, roles: RoleMarkers) -> list[Turn]:
    """The turns of one record, whichever of the forms it has.

    Raises:
        RoleError: Somebody speaks who is none of the roles, or a text has no markers.
        EmptyError: A turn, or all of it, is empty or no text.
    """
    if columns is None and isinstance(messages := record.get("messages"), Sequence):
        turns = [_turn_of_message(message) for message in messages]
    elif columns is None and "text" in record:
        turns = _turns_of_text(_text(record["text"]), roles)
    else:
        wanted = KNOWN_COLUMNS if columns is None else (columns,)
        names = next((c for c in wanted if c.prompt in record or c.response in record), None)
        if names is None:
            keys = " or ".join(f"{c.prompt} and {c.response}" for c in wanted)
            others = "" if columns else "messages, text, or "
            raise EmptyError(
                f"found the keys {', '.join(map(str, record)) or 'none'}; expected {others}{keys}"
            )
        turns = [
            Turn("user", _text(record.get(names.prompt))),
            Turn("assistant", _text(record.get(names.response))),
        ]
    if not turns:
        raise EmptyError("no turns")
    for turn in turns:
        if not turn.text:
            raise EmptyError(f"an empty turn of the {turn.role}")
    return turns


def examples_of(turns: Sequence[Turn]) -> Iterator[Example]:
    """One example for each answer. Turns of one side in a row are one; an answer to nobody is left out.

    Raises:
        EmptyError: There is no answer to anything.
    """
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Turn(turn.role, f"{merged[-1].text}\n{turn.text}")
        elif turn.role != "assistant" or any(before.role == "user" for before in merged):
            merged.append(turn)
    answers = [at for at, turn in enumerate(merged) if turn.role == "assistant"]
    if not answers:
        raise EmptyError("no answer to a turn of the user")
    for at in answers:
        yield Example(tuple(merged[:at]), merged[at].text)


def _turn_of_message(message: object) -> Turn:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        found = message.get("role") if isinstance(message, Mapping) else message
        raise RoleError(f"found the role {excerpt(str(found))}, expected one of {', '.join(ROLES)}")
    return Turn(message["role"], _text(message.get("content")))


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
        raise EmptyError(f"found {excerpt(json.dumps(value, ensure_ascii=False))} where a text should be")
    return value.strip() if value and not is_blank(value) else ""
