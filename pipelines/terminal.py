"""The terminal that commands write to, and text from outside on its way to it."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Column

NAME_COLUMN = partial(Column, overflow="fold")  # a name cut short could not be copied
WIDE = 1000


def _console(stderr: bool = False) -> Console:
    """As wide as the terminal; a file or a pipe has no width, and nothing in it is to be cut short."""
    opened = Console(stderr=stderr)
    if not opened.is_terminal:
        opened.width = WIDE
    return opened


console = _console()
errors = _console(stderr=True)


def plain(text: object) -> str:
    """Text with nothing in it that rich or the terminal would take for a command."""
    shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return escape("".join(shown))
