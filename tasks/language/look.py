"""A first look at data: whether they are conversations, and in which columns."""

from __future__ import annotations

from typing import Any

from gauntlet.tasks.language.turns import KNOWN_COLUMNS, MESSAGE_LISTS
from gauntlet.tasks.texts.look import look_at_table


def conversations_in(uri: str) -> tuple[str, dict[str, Any]] | None:
    """What was seen, and the keys of `dataset` that name it; None if there are no conversations."""
    look = look_at_table(uri)
    if look is None:
        return None
    for name in MESSAGE_LISTS:
        column = look.columns.get(name)
        if column is not None and column.values and all(isinstance(value, list) for value in column.values):
            return f"{name} holds lists of messages", {}
    for known in KNOWN_COLUMNS:
        pair = (known.prompt, known.response)
        if all(name in look.columns and look.columns[name].values for name in pair):
            if not look.columns[known.response].is_text:
                continue  # such as a label
            return f"{known.prompt} holds questions, {known.response} the answers", {}
    return None
