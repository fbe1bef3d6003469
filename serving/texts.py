"""Texts as a graph takes them: tokenised, cut at a number of tokens, padded on the right.

Every step, and serving, reads a `tokenizer.json` with `open_tokenizer`. The file may also hold a length at
which the tokenizer cuts texts, and a length to which it pads them. Both silently change every encoding, so
they are removed when the file is opened, and each caller says how long its texts may be.

B = batch, T = tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from gauntlet.serving.interface import Batch, InputError, Row

if TYPE_CHECKING:
    from gauntlet.serving.bundle import BundleInfo

PAD_TOKENS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>")


class TokenizerError(ValueError):
    """A file that is not a tokenizer, or a tokenizer that cannot be used."""


@dataclass(frozen=True)
class OpenedTokenizer:
    """A tokenizer that neither cuts nor pads, and the token that its file pads with.

    `pad_id` is that of the file's own padding, else of a token of `PAD_TOKENS`, else 0.
    """

    tokenizer: Tokenizer
    pad_id: int
    pad_token: str


def open_tokenizer(path: Path) -> OpenedTokenizer:
    """Read a `tokenizer.json` and remove its truncation and padding.

    Raises:
        TokenizerError: The file is not a tokenizer, or names special tokens that it does not have.
        OSError: The file cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    try:
        content = json.loads(text)
        for fault in _template_faults(content):
            raise TokenizerError(f"{path}: post_processor: {fault}. Fetch the file again")
        tokenizer = Tokenizer.from_str(text)
    except TokenizerError:
        raise
    except BaseException as error:  # tokenizers raises bare Exception for whatever it cannot read
        _require_failure_of_the_library(error)
        cause = " ".join(str(error).split())
        raise TokenizerError(
            f"{path}: found no tokenizer ({cause}), expected a file of the tokenizers library. Fetch it again"
        ) from None
    padding = tokenizer.padding
    without_padding_and_truncation(tokenizer)
    if padding:
        return OpenedTokenizer(tokenizer, padding["pad_id"], padding["pad_token"])
    known = [(tokenizer.token_to_id(token), token) for token in PAD_TOKENS]
    found = next(((number, token) for number, token in known if number is not None), (0, PAD_TOKENS[0]))
    return OpenedTokenizer(tokenizer, *found)


def encodings(tokenizer: Tokenizer, texts: Sequence[str], add_special_tokens: bool = True) -> list[Encoding]:
    """The tokens of each text, or a `TokenizerError` if the tokenizer fails at one."""
    try:
        found: list[Encoding] = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
    except BaseException as error:
        _require_failure_of_the_library(error)
        cause = " ".join(str(error).split())
        raise TokenizerError(f"the tokenizer cannot read a text: {cause}") from None
    return found


@dataclass(frozen=True)
class TextInputs:
    """A tokenizer as a bundle uses it."""

    tokenizer: Tokenizer
    pad_id: int

    @classmethod
    def open(cls, path: Path, max_length: int) -> TextInputs:
        """The tokenizer in a file, set to cut at `max_length` tokens and to pad on the right."""
        opened = open_tokenizer(path)
        opened.tokenizer.enable_truncation(max_length)
        opened.tokenizer.enable_padding(direction="right", pad_id=opened.pad_id, pad_token=opened.pad_token)
        return cls(opened.tokenizer, opened.pad_id)

    @classmethod
    def of_bundle(cls, folder: Path, info: BundleInfo) -> TextInputs:
        """The tokenizer of a bundle, or a `BundleError` if it cannot be used."""
        from gauntlet.serving.bundle import TOKENIZER_FILE, BundleError  # it imports onnxruntime

        if info.max_length is None:
            raise BundleError(f"{folder}: the key 'max_length' is missing")
        try:
            return cls.open(folder / TOKENIZER_FILE, info.max_length)
        except TokenizerError as error:
            raise BundleError(str(error)) from None

    def cut(self, rows: Sequence[str]) -> list[int]:
        """The positions of the texts that have more tokens than are read."""
        encoded = self.tokenizer.encode_batch(list(rows))
        return [position for position, encoding in enumerate(encoded) if encoding.overflowing]

    def batch(self, rows: Sequence[str]) -> Batch:
        """`input_ids` and `attention_mask`, each int64 (B, T); T is the length of the longest text in tokens.

        Raises:
            InputError: A row is not a text, or the tokenizer fails at one.
        """
        return _arrays(self._encoded(rows))

    def row(self, row: str) -> Row:
        """A text alone. Raises as `batch`, and for a text without a token."""
        [encoding] = self._encoded([row])
        if not encoding.ids:
            raise InputError("found a text without a token, expected a text that the tokenizer can read")
        return Row(_arrays([encoding]), len(encoding.ids), cut=bool(encoding.overflowing))

    def stacked(self, rows: Sequence[Row]) -> Batch:
        """What `batch` gives for the rows' texts."""
        shape = len(rows), max(row.length for row in rows)
        found = {
            "input_ids": np.full(shape, self.pad_id, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
        }
        for at, row in enumerate(rows):
            for name, values in row.inputs.items():
                found[name][at, : row.length] = values[0]
        return found

    def _encoded(self, rows: Sequence[str]) -> list[Encoding]:
        if not all(isinstance(row, str) for row in rows):
            raise InputError("found rows that are no texts, expected texts: this model classifies texts")
        try:
            return encodings(self.tokenizer, rows)
        except TokenizerError as error:
            raise InputError(str(error)) from None


def _arrays(encoded: Sequence[Encoding]) -> Batch:
    return {
        "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
    }


def _require_failure_of_the_library(error: BaseException) -> None:
    """Raise what is no error of the tokenizer, such as Ctrl-C. A Rust panic has no public class."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def without_padding_and_truncation(tokenizer: Tokenizer) -> None:
    """Remove the lengths at which a tokenizer cuts and to which it pads."""
    tokenizer.no_padding()
    tokenizer.no_truncation()


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest token id that an encoding may hold, -1 of an empty vocabulary."""
    template = json.loads(tokenizer.to_str()).get("post_processor")
    own = (number for special in _special_tokens(template) for number in special.get("ids", ()))
    return max(max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1), max(own, default=-1))


def _template_faults(content: Any) -> Iterator[str]:
    """Special tokens that a template names and does not define: encoding with it ends the process."""
    for processor in _processors(content.get("post_processor") if isinstance(content, dict) else None):
        defined = processor.get("special_tokens")
        for form in ("single", "pair"):
            pieces = processor.get(form)
            for piece in pieces if isinstance(pieces, list) else ():
                named = piece.get("SpecialToken") if isinstance(piece, dict) else None
                name = named.get("id") if isinstance(named, dict) else None
                if name is not None and not (isinstance(defined, dict) and name in defined):
                    yield f"{form} names the special token {name}, which special_tokens does not define"


def _special_tokens(processor: Any) -> Iterator[dict[str, Any]]:
    for one in _processors(processor):
        yield from (one.get("special_tokens") or {}).values()


def _processors(processor: Any) -> Iterator[dict[str, Any]]:
    """The templates of a post-processor, which may be a sequence of several."""
    if not isinstance(processor, dict):
        return
    if processor.get("type") == "Sequence":
        inner = processor.get("processors")
        for one in inner if isinstance(inner, list) else ():
            yield from _processors(one)
    elif processor.get("type") == "TemplateProcessing":
        yield processor
