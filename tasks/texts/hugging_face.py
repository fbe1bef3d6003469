"""Checkpoints of transformers' classifiers of texts, as `save_pretrained` and its Trainer write them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from gauntlet.components.convert_to_onnx.imported import label_order
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.tasks.texts.encoder_files import CONFIG_FILE
from gauntlet.tasks.texts.manifest import EncoderTraining
from gauntlet.tasks.texts.vocabulary import open_pretrained
from gauntlet.trainer.saved_model import require_tensors
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE

HEAD = "ForSequenceClassification"
NETWORK = f"{__name__}:SequenceClassifier"
UNNAMED = re.compile(r"LABEL_\d+")
NOT_WEIGHTS = re.compile(r"\.position_ids$")
"""Buffers that older releases of transformers wrote, and newer ones leave out."""


class SequenceClassifier(nn.Module):
    """A classifier of transformers, whose logits are put into the order of the manifest's labels.

    Args:
        folder: Of a checkpoint; its `config.json` says what is built, without weights.
        order: For each label the classifier's own column.
        attention: `sdpa` or `eager`.
    """

    def __init__(self, folder: str, order: Sequence[int], attention: str) -> None:
        super().__init__()
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        settings = {"attn_implementation": attention, "dtype": torch.float32}
        self.model = AutoModelForSequenceClassification.from_config(config, **settings)
        self._order = list(order)

    @property
    def encoder(self) -> nn.Module:
        """The transformer, so that it can be fused."""
        return cast(nn.Module, self.model.base_model)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of token ids and mask, both (B, T) int64."""
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits if self._order == sorted(self._order) else logits[:, self._order]


def import_checkpoint(
    section: EncoderTraining, source: Path, splits: Path, folder: Path
) -> Mapping[str, Any]:
    """Write a checkpoint's files of a classifier that transformers saved.

    Args:
        section: The section `training`, for `max_length`.
        source: Holds `config.json`, `model.safetensors` and `tokenizer.json`.
        splits: What validate-data wrote; their statistics have the labels.
        folder: Where the files are written.

    Returns:
        The fields of the checkpoint's record.

    Raises:
        UsageError: A file is missing, the model is no classifier, or its classes are not the labels.
        GauntletError: The weights are not those of the model.
    """
    where = "--from-checkpoint"
    require_saved(source)
    order = _order(source, read_statistics(splits).labels, f"{where}: {CONFIG_FILE}")
    try:
        weights = load_file(source / WEIGHTS_FILE)
    except SafetensorError as error:
        raise UsageError(
            f"{where}: {source / WEIGHTS_FILE}: cannot be read: {error}. Copy or save it again."
        ) from None
    kept = {name: tensor for name, tensor in weights.items() if not NOT_WEIGHTS.search(name)}
    with torch.device("meta"):  # names and shapes alone
        require_tensors(SequenceClassifier(str(source), order, "sdpa").model, kept, source / WEIGHTS_FILE)
    save_file(
        {
            f"model.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in kept.items()
        },
        folder / WEIGHTS_FILE,
    )
    shutil.copyfile(source / CONFIG_FILE, folder / CONFIG_FILE)
    opened = open_pretrained(source / TOKENIZER_FILE, where)
    opened.tokenizer.enable_truncation(section.max_length)
    opened.tokenizer.enable_padding(pad_id=opened.pad_id, pad_token=opened.pad_token)
    opened.tokenizer.save(str(folder / TOKENIZER_FILE))
    return {"max_length": section.max_length, "network": NETWORK, "network_args": {"order": order}}


def require_saved(source: Path) -> None:
    """Raise a `UsageError` unless `save_pretrained` wrote a model and a fast tokenizer to the folder."""
    missing = [name for name in (CONFIG_FILE, TOKENIZER_FILE) if not (source / name).is_file()]
    if missing:
        raise UsageError(
            f"--from-checkpoint: found no {', '.join(missing)} beside {WEIGHTS_FILE}. Save model and "
            "tokenizer into one folder by save_pretrained; the tokenizer must be a fast one, which has a "
            "tokenizer.json."
        )


def _order(source: Path, labels: Sequence[str], where: str) -> list[int]:
    """For each label the classifier's column."""
    try:
        config = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))
        architectures = [str(name) for name in config.get("architectures") or ()]
        named = config.get("id2label") or {}
        names = [str(named[str(number)]) for number in range(len(named))]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{where}: cannot be read: {error!r}.") from None
    if not any(name.endswith(HEAD) for name in architectures):
        raise UsageError(
            f"{where}: found the architecture {', '.join(architectures) or 'none'}, expected one that ends "
            f"in {HEAD}."
        )
    if all(UNNAMED.fullmatch(name) for name in names):
        raise UsageError(
            f"{where}: id2label has no names, only {', '.join(names) or 'nothing'}. Set it to the classes' "
            "names, in the order in which the model was trained."
        )
    return label_order(names, labels, f"{where}: id2label")
