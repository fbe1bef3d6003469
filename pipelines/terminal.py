"""The terminal that commands write to, and text from outside on its way to it."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Column

NAME_COLUMN = partial(Column, overflow="fold")  # a name cut short could not be copied
console = Console()
errors = Console(stderr=True)


def plain(text: object) -> str:
    """Text with nothing in it that rich or the terminal would take for a command."""
    shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return escape("".join(shown))
