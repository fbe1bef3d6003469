"""A network and a loss of the user's own: making them, and the checks before training.

docs/how-to/use_your_own_network.md says what they get and return. B = rows of a batch.
"""

from __future__ import annotations

import json
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.own_code import arguments_of, code_sha256, resolve
from gauntlet.manifests.training import Training
from gauntlet.trainer.task import Task

NETWORK, LOSS = "training.network", "training.loss"
OWN = "is_own_network"
"""The attribute of a network of the user's own, wherever it is in the model."""
CHECKED_ROWS = 3
NEWEST_OPSET = 20
"""The newest opset that the exporter knows: an operator that it lacks there cannot be exported at all."""


class NamesNetwork(Protocol):
    """A section `training`, or the record of a checkpoint."""

    @property
    def network(self) -> str | None: ...  # noqa: D102
    @property
    def network_args(self) -> Mapping[str, Any] | None: ...  # noqa: D102


def own_network(
    named: NamesNetwork, known: Mapping[str, Any] | None = None, **modules: Callable[[], nn.Module]
) -> nn.Module | None:
    """The network that a section or a checkpoint's record names; None if it names none.

    Args:
        named: Whose `network` is made.
        known: Arguments that its constructor may ask for by name, in JSON types. A record has them already.
        modules: By argument, functions that make a module that the constructor may ask for.

    Raises:
        UsageError: It cannot be imported or made, or is no `nn.Module`.
    """
    if not named.network:
        return None
    made = own_module(named.network, NETWORK, named.network_args or {}, known or {}, modules)
    setattr(made, OWN, True)
    return made


def own_module(
    path: str,
    key: str,
    given: Mapping[str, Any] | None = None,
    known: Mapping[str, Any] | None = None,
    modules: Mapping[str, Callable[[], nn.Module]] | None = None,
) -> nn.Module:
    """The module that a class or a function of the user's own makes; `key` names it in the manifest.

    It gets `given`, and of `known` and `modules` what it asks for. Raises as `own_network`.
    """
    made = _made(path, key, given or {}, known or {}, modules or {})
    if not isinstance(made, nn.Module):
        raise UsageError(f"{key}: {path} made a {type(made).__name__}, expected a torch.nn.Module.")
    return made


class OwnLoss:
    """A loss of the user's own, called with a batch's outputs and targets: (B,), one loss for each row."""

    def __init__(self, path: str, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self._path, self._loss = path, loss

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(B,).

        Raises:
            UsageError: It returned something else.
        """
        if isinstance(self._loss, nn.Module):
            self._loss.to(outputs.device)
        losses = self._loss(outputs, targets)
        if not isinstance(losses, torch.Tensor) or losses.shape != outputs.shape[:1]:
            raise UsageError(
                f"{LOSS}: {self._path} returned {_shown(losses)}, expected a tensor of shape "
                f"{tuple(outputs.shape[:1])}: one loss for each row, not their mean or sum."
            )
        return losses


def own_loss(section: Training, known: Mapping[str, Any]) -> OwnLoss | None:
    """The loss that a section names; None if it names none. See `own_network` for `known`.

    Raises:
        UsageError: It cannot be imported or made, or has parameters, which nothing would train.
    """
    if section.own_loss is None:
        return None
    made = _made(section.own_loss, LOSS, section.loss_args or {}, known, {})
    if not callable(made):
        raise UsageError(f"{LOSS}: {section.own_loss} made a {type(made).__name__}, which cannot be called.")
    if isinstance(made, nn.Module) and any(True for _ in made.parameters()):
        raise UsageError(
            f"{LOSS}: {section.own_loss} has parameters, which nothing trains. Register them as buffers, or "
            "make them part of the network."
        )
    return OwnLoss(section.own_loss, made)


def record_of(section: Training, task: Task) -> dict[str, Any]:
    """The fields of `TrainingRecord` with which a checkpoint's network is made again; none without one."""
    if section.network_code is None:
        return {}
    key, path = section.network_code
    record: dict[str, Any] = {"network": path, "network_sha256": code_sha256(path)}
    if section.network is not None:
        asked = arguments_of(resolve(path, key))
        known = {name: value for name, value in task.own_arguments.items() if name in asked}
        record["network_args"] = {**known, **(section.network_args or {})}
    return record


def _made(
    path: str,
    key: str,
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    modules: Mapping[str, Callable[[], nn.Module]],
) -> Any:
    make = resolve(path, key)
    asked = arguments_of(make)
    arguments = {name: value for name, value in known.items() if name in asked}
    arguments = json.loads(json.dumps(arguments | dict(given)))  # as a checkpoint's record will have them
    arguments |= {name: module() for name, module in modules.items() if name in asked and name not in given}
    offered = ", ".join(sorted({*known, *modules}))
    try:
        signature(make).bind(**arguments)
    except TypeError as error:
        if not offered:
            raise UsageError(
                f"{key}: {path} takes {signature(make)}, but {error}. Give it a default: it gets no "
                "arguments."
            ) from None
        raise UsageError(
            f"{key}_args: {path} takes {signature(make)}, but {error}. Set it in {key}_args, or give it a "
            f"default. Of these it gets those that it names: {offered}."
        ) from None
    except ValueError:  # a class that is not written in Python has no signature
        pass
    try:
        return make(**arguments)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code may raise
        traceback.print_exc()
        shown = ", ".join(f"{name}={value!r:.60}" for name, value in arguments.items())
        raise UsageError(
            f"{key}: {path} could not be made with {shown or 'no arguments'}: {type(error).__name__}: {error}"
        ) from error


def require_usable(task: Task, name: str, model: nn.Module, section: Training) -> None:
    """Try a network or a loss of the user's own on a few rows, before anything is trained.

    Args:
        task: Its rows.
        name: The name of the task kind.
        model: Of `task.build_model`, on the CPU. Nothing of it changes.
        section: The section `training`.

    Raises:
        UsageError: The network returns something other than the kind expects, or NaN, is not deterministic,
            has nothing to train, has frozen parameters that would be sharded, or cannot be exported; or the
            loss returns something else or NaN.
    """
    if section.network_code is None and section.own_loss is None:
        return
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]):  # training begins with the same state with and without the check
        if section.network_code is not None:
            _require_usable_network(task, name, model, section, *section.network_code)
        if section.own_loss is not None:
            _require_usable_loss(task, model, section)
    model.train(was_training)


def _require_usable_network(
    task: Task, name: str, model: nn.Module, section: Training, key: str, path: str
) -> None:
    own = next((module for module in model.modules() if getattr(module, OWN, False)), None)
    if own is None or not task.network_outputs:
        raise UsageError(
            f"{key}: found {path}, but the task kind {name} builds its own network and takes no other. "
            "Leave the key out."
        )
    if not any(parameter.requires_grad for parameter in own.parameters()):
        raise UsageError(f"{key}: {path} has no parameter with a gradient, so there is nothing to train.")
    frozen = [one for one, parameter in own.named_parameters() if not parameter.requires_grad]
    if frozen and section.distribution == "fsdp2":
        raise UsageError(
            f"{key}: {path} has {len(frozen)} frozen parameters, such as {frozen[0]}. distribution fsdp2 "
            "does not keep frozen weights whole: use ddp, or train them."
        )
    rows = range(min(CHECKED_ROWS, len(task.validation_lengths)))
    batch = task.validation_batch(rows, section.total_epochs)
    inputs: list[tuple[Any, ...]] = []
    outputs: list[tuple[torch.Tensor, ...]] = []

    def note_inputs(_: nn.Module, given: tuple[Any, ...]) -> None:
        inputs.append(given)

    def note_outputs(_: nn.Module, _given: tuple[Any, ...], returned: Any) -> None:
        outputs.append(_require_shapes(returned, key, path, task.network_outputs, len(rows)))

    hooks = own.register_forward_pre_hook(note_inputs), own.register_forward_hook(note_outputs)
    try:
        with torch.no_grad():
            for _ in range(2):
                task.outputs(model, batch)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code may raise
        traceback.print_exc()
        given = ", ".join(map(_shown, inputs[-1])) if inputs else "nothing"
        raise UsageError(
            f"{key}: {path} failed in forward, given {given}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    first, second = outputs[:2]
    if not all(bool(output.isfinite().all()) for output in first):
        raise UsageError(f"{key}: {path} returns NaN or infinity for the first rows, before any training.")
    if not all(torch.equal(*pair) for pair in zip(first, second, strict=True)):
        raise UsageError(
            f"{key}: {path} is not deterministic: in eval mode the same rows gave two different outputs. "
            "Use nn.Dropout, or functional.dropout with training=self.training, and draw nothing at random."
        )
    _require_exportable(own, key, path, inputs[0])


def _require_shapes(
    returned: Any, key: str, path: str, expected: Sequence[tuple[int, ...]], rows: int
) -> tuple[torch.Tensor, ...]:
    """The outputs as a tuple."""
    found = returned if isinstance(returned, tuple) else (returned,)
    wanted = [(rows, *shape) for shape in expected]
    fits = len(found) == len(wanted) and all(
        isinstance(one, torch.Tensor) and tuple(one.shape) == shape and one.is_floating_point()
        for one, shape in zip(found, wanted, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{key}: for {rows} rows {path} returned {', '.join(map(_shown, found))}, expected "
            f"{', '.join(f'a float tensor of shape {shape}' for shape in wanted)}."
        )
    return found


def _require_exportable(own: nn.Module, key: str, path: str, inputs: tuple[Any, ...]) -> None:
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("ignore")  # the exporter warns that it is deprecated
        graph = Path(scratch) / "network.onnx"
        try:
            torch.onnx.export(own, inputs, graph, opset_version=NEWEST_OPSET, dynamo=False)
        except Exception as error:  # whatever the exporter may raise
            traceback.print_exc()
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"{key}: {path} cannot be exported to ONNX, so it could not be served: "
                f"{type(error).__name__}: {reason}"
            ) from error


def _require_usable_loss(task: Task, model: nn.Module, section: Training) -> None:
    rows = range(min(CHECKED_ROWS, len(task.train_lengths)))
    try:
        with torch.no_grad():
            loss, _ = task.loss_sum(model, task.training_batch(rows, (0, section.total_epochs)))
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code may raise
        traceback.print_exc()
        raise UsageError(f"{LOSS}: {section.own_loss} failed: {type(error).__name__}: {error}") from error
    if not bool(loss.isfinite().all()):
        raise UsageError(
            f"{LOSS}: {section.own_loss} returns NaN or infinity for the first rows, before any training."
        )


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
