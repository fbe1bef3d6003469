"""Which of a model's tensors are its own to train and to write down."""

from __future__ import annotations

from torch import nn


def aliases(model: nn.Module) -> set[str]:
    """Names of parameters that another name holds too: a head that is tied to the embedding, say."""
    everything = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return everything - {name for name, _ in model.named_parameters()}


def changing(model: nn.Module) -> tuple[str, ...]:
    """Names in the model's state of what training changes: all but aliases and frozen parameters."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return tuple(name for name in model.state_dict() if name not in frozen | aliases(model))


def count(model: nn.Module) -> int:
    """Numbers in the parameters that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
