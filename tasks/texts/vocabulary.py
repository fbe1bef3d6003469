"""Open the tokenizers of pretrained models, and compare them with the model's embedding.

This module loads no torch, so `gauntlet check` can check a model on this machine before anything is trained.
"""

from __future__ import annotations

import json
from pathlib import Path

from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.serving.texts import OpenedTokenizer, TokenizerError, largest_id, open_tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"


def open_pretrained(path: Path, key: str) -> OpenedTokenizer:
    """The tokenizer in a file; `key` is the manifest's of the model that it belongs to.

    Raises:
        UsageError: It cannot be read or used.
    """
    try:
        return open_tokenizer(path)
    except (TokenizerError, OSError) as error:
        raise UsageError(f"{key}: {error}.") from None


def require_embedded(largest: int, embedded: int, where: str, key: str) -> None:
    """Refuse a tokenizer with ids for which the model has no embedding.

    Args:
        largest: The largest id of the tokenizer.
        embedded: How many tokens its embedding has.
        where: The model, as the message names it.
        key: The manifest's key of the model.

    Raises:
        UsageError: Training on such a token would end in an error of PyTorch.
    """
    if largest >= embedded:
        raise UsageError(
            f"{key}: {where}: found a tokenizer with token ids up to {largest:,}, expected at most "
            f"{embedded - 1:,}, as the model's embedding has {embedded:,} tokens (vocab_size). Use the "
            "tokenizer.json that the model was published with, or enlarge the embedding "
            "(resize_token_embeddings of transformers) and save the model again."
        )


def embedded_tokens(folder: Path) -> int | None:
    """The size of the embedding that a folder's `config.json` describes; None where it does not say."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the model reports what is wrong with the file
        return None
    inner = content.get("text_config") if isinstance(content, dict) else None
    described = inner if isinstance(inner, dict) else content
    size = described.get("vocab_size") if isinstance(described, dict) else None
    return size if isinstance(size, int) else None


def check_local_model(name: str, key: str) -> None:
    """Compare the tokenizer in a folder on this machine with its model; other models are not checked.

    Raises:
        UsageError: The tokenizer cannot be used, or has more tokens than the embedding.
    """
    folder = Path(name)
    embedded = embedded_tokens(folder) if (folder / TOKENIZER_FILE).is_file() else None
    if embedded is not None:
        opened = open_pretrained(folder / TOKENIZER_FILE, key)
        require_embedded(largest_id(opened.tokenizer), embedded, name, key)


def require_own_vocabulary(name: str, key: str, file: str) -> None:
    """Compare the tokenizer of a pretrained model on this machine with the model's embedding.

    Raises:
        ManifestError: It has more tokens, or cannot be read.
    """
    try:
        check_local_model(name, key)
    except UsageError as error:
        expected = "a model whose embedding has every token of its tokenizer"
        raise ManifestError([Fault(file, key, name, expected, str(error))]) from None
