"""Pretrained models on the Hugging Face hub, and their tokenizers, which must fit the model's embedding.

This module does not load torch, so `gauntlet check` can check a model before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.serving.texts import OpenedTokenizer, TokenizerError, largest_id, open_tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"
REFUSALS = (401, 403, 404)
"""The hub's statuses for a model that does not exist or is private."""


def download_from_hub(key: str, name: str, files: Sequence[str], expected: str) -> Path:
    """A folder with a hub model's files.

    Args:
        key: The manifest's key, such as `training.encoder`.
        name: Its value.
        files: Patterns of the files to download.
        expected: What the key may name besides a model on the hub.

    Raises:
        UsageError: The hub has no such model, or is unavailable.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (HfHubHTTPError, ValueError, OSError) as error:  # the hub's other errors are of these classes
        said = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        unknown = status in REFUSALS or isinstance(error, HFValidationError)
    if unknown:
        raise UsageError(
            f"{key}: found {name!r}, expected {expected}, or a model's name on the Hugging Face hub. "
            f"The hub has no such model, or shows it only to its owners ({said})."
        )
    raise UsageError(
        f"{key}: {name!r} is no folder here, and the Hugging Face hub cannot be reached to look for it "
        f"({said}). Check the network, or name {expected}."
    )


def open_pretrained(path: Path, key: str) -> OpenedTokenizer:
    """The tokenizer in a file; `key` is the manifest's key of its model.

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
        largest: The tokenizer's largest id.
        embedded: The size of the model's embedding, in tokens.
        where: The model's name in the message.
        key: The manifest's key of the model.

    Raises:
        UsageError: There are such ids, on which training would fail with an error of PyTorch.
    """
    if largest >= embedded:
        raise UsageError(
            f"{key}: {where}: found a tokenizer with token ids up to {largest:,}, expected at most "
            f"{embedded - 1:,}, as the model's embedding has {embedded:,} tokens (vocab_size). Use the "
            "tokenizer.json that the model was published with, or enlarge the embedding "
            "(resize_token_embeddings of transformers) and save the model again."
        )


def embedded_tokens(folder: Path) -> int | None:
    """The size of the embedding in a folder's `config.json`; None if it is not there."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the model reports the fault
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
