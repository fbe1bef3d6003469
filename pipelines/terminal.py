"""The console that commands write to, and safe printing of text from outside.

Text is printed unchanged: neither rich nor the terminal reads `[b]`, `:heart:` or control characters in a
label, a path or a message as commands. `styled` adds style.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

NAME_COLUMN = partial(Column, overflow="fold")  # a name cut short could not be copied
WIDE = 1000


class LiteralConsole(Console):
    """A console that reads no text as markup, neither in lines nor in cells of tables.

    Attributes:
        shows_progress: Whether it shows what is going on, and not only how it ended.
    """

    shows_progress = True

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, with characters that the terminal would read as commands shown as escapes."""
        return super().render_str(plain(text), **(options | {"markup": False, "emoji": False}))

    def say(self, text: object, style: str = "") -> None:
        """Print a line as it is: not wrapped, and with no colours for numbers and paths in it."""
        shown = text if isinstance(text, Text) else plain(text)
        self.print(shown, style=style, soft_wrap=True, highlight=False)

    def progress(self, text: object) -> None:
        """Print a line about what is going on."""
        if self.shows_progress:
            self.say(text)


def borderless(*headers: Column | str) -> Table:
    """A table of columns without lines between them."""
    return Table(*headers, box=None, pad_edge=False)


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
    """The text with control characters, and characters that cannot be encoded, shown as escapes."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))


def print_json(rows: Iterable[Mapping[str, object]]) -> None:
    """Print one JSON object per line, for each row of a listing: what `--json` means in every command."""
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def print_any_text() -> None:
    """Let standard output take characters that its encoding lacks, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _console(stderr: bool = False) -> LiteralConsole:
    """As wide as the terminal; a file or a pipe has no width, and nothing in it is to be cut short."""
    opened = LiteralConsole(stderr=stderr)
    if not opened.is_terminal:
        opened.width = WIDE
    return opened


console = _console()
errors = _console(stderr=True)
