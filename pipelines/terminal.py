"""Text from outside on its way to a terminal."""

from __future__ import annotations

from rich.markup import escape


def plain(text: object) -> str:
    """Text with nothing in it that rich or the terminal would take for a command."""
    shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(text))
    return escape("".join(shown))
