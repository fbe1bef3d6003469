"""A tokenizer from its file, and texts through it, with every failure of the library as one exception.

`tokenizers` raises a bare `Exception` for a file that it cannot read. For some files that it can read it
panics in Rust, here or at a text, which arrives as an exception that `except Exception` does not catch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Encoding, Tokenizer

PANIC = "PanicException"
"""The name of a Rust panic's class, which no module offers for import."""


class TokenizerError(Exception):
    """A tokenizer that cannot be read, or cannot read a text."""


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file `tokenizer.json`.

    Raises:
        TokenizerError: The file is not one.
    """
    with _explained(str(path)):
        return Tokenizer.from_file(str(path))


def encodings(tokenizer: Tokenizer, texts: Sequence[str], add_special_tokens: bool = True) -> list[Encoding]:
    """The tokens of each text.

    Raises:
        TokenizerError: The tokenizer fails at one of them.
    """
    with _explained("tokenizer"):
        found: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return found


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        cause = " ".join(str(error).split()) or type(error).__name__
        raise TokenizerError(f"{what}: the library tokenizers fails: {cause}") from None
