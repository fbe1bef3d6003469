"""The terminal that commands write to, and text from outside on its way to it.

Text is printed as it is: `[b]`, `:heart:` and control characters in a label, a path or a message are no
commands to rich or to the terminal. Style is asked for by `styled`.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.text import Text

NAME_COLUMN = partial(Column, overflow="fold")  # a name cut short could not be copied
WIDE = 1000


class LiteralConsole(Console):
    """A console that takes no text for markup, in lines and in cells of tables alike."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as it is, with what the terminal would take for a command shown as an escape."""
        return super().render_str(plain(text), **(options | {"markup": False, "emoji": False}))


def styled(template: str, *values: object) -> Text:
    """A line with rich's markup in `template`, and for each `{}` in it a value that is printed as it is."""
    line = Text.from_markup(template, emoji=False)
    for value in reversed(values):  # from the right, so that a `{}` in a value is left alone
        at = line.plain.rindex("{}")
        before, place, after = line.divide([at, at + 2])
        inserted = Text(plain(value))
        for span in place.spans:
            inserted.stylize(span.style)
        line = Text.assemble(before, inserted, after)
    return line


def plain(text: object) -> str:
    """Text in which control characters, and what no encoding can hold, are shown as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))


def print_any_text() -> None:
    """Let standard output take characters that its encoding lacks, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _console(stderr: bool = False) -> Console:
    """As wide as the terminal; a file or a pipe has no width, and nothing in it is to be cut short."""
    opened = LiteralConsole(stderr=stderr)
    if not opened.is_terminal:
        opened.width = WIDE
    return opened


console = _console()
errors = _console(stderr=True)
