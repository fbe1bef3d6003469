"""Low-rank adapters through peft: added to a network, saved, and merged into its weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.causal_lm.manifest import LanguageTraining

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""As peft writes and reads them."""


def with_adapters(network: PreTrainedModel, section: LanguageTraining) -> PeftModel:
    """The network, frozen except for new adapters, which have no effect before training.

    Raises:
        UsageError: `training.target_modules` names a layer that the network does not have, or its head.
    """
    require_modules(network, section.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.lora_r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        bias=section.lora_bias,
        target_modules=list(section.target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in network.modules()),
    )
    return cast(PeftModel, get_peft_model(network, config))


def require_modules(network: nn.Module, targets: tuple[str, ...]) -> None:
    """Check that the network has layers of these names.

    Raises:
        UsageError: It does not; the message suggests a similar name.
    """
    # An adapter on the head would also be merged into the embedding, if they share weights.
    head = network.get_output_embeddings()  # type: ignore[operator]
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    known = sorted({name.rsplit(".", 1)[-1] for name in layers})
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in layers):
            continue
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
        raise UsageError(
            f"training.target_modules: found {target!r}, expected names of linear layers except the head: "
            f"{', '.join(known)}. {f'Did you mean {near[0]}?' if near else 'Choose among them.'}"
        )


def base_name(model: str) -> str:
    """The name of the adapters' base model: on the hub, or of a folder or file on this machine.

    Without the path, which another machine does not have.
    """
    is_local = "://" in model or Path(model).is_absolute() or Path(model).exists()
    return model.rstrip("/").rpartition("/")[2] if is_local else model


def save_adapters(model: PeftModel, weights: Mapping[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write `ADAPTER_FILES` for the base model `base`; `weights` are named as in the model."""
    config_file, weights_file = ADAPTER_FILES
    save_file(get_peft_model_state_dict(model, state_dict=dict(weights)), folder / weights_file)
    config = replace(model.peft_config["default"], inference_mode=True, base_model_name_or_path=base)
    config.target_modules = sorted(config.target_modules)  # peft makes it a set, whose order is random
    config.save_pretrained(str(folder))
    assert (folder / config_file).is_file()


def merged(model: PeftModel) -> PreTrainedModel:
    """The network with its adapters merged into its weights; the model cannot be used afterwards."""
    return cast(PreTrainedModel, model.merge_and_unload())
