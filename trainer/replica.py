"""One rank's replica of the model: takes optimizer steps, scores rows, saves and restores its tensors.

B = rows of a micro-batch, N = rows of the validation split, K = numbers per row in a task's outputs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.training import Training
from gauntlet.trainer.batching import Lengths, MicroBatch, evaluation_batches, in_step
from gauntlet.trainer.device import AUTOCAST, apply_format, choose_format
from gauntlet.trainer.ranks import World
from gauntlet.trainer.task import Batch, Task, Tensors, unaliased

PREFETCHED_ON_A_GPU = 2
STEP = "step"
"""AdamW's name for its counter, which belongs to a parameter but is a number."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Snapshot:
    """Every tensor that training changes and the next step depends on, whole and on the CPU, by name.

    Tensors that are whole and on the CPU already are not copied.
    `generators` holds the states of each rank's random number generators, as uint8.
    """

    model: Tensors
    optimizer: Tensors
    generators: Tensors


class Replica:
    """The model on this rank's device, wrapped for the other ranks, with its optimizer.

    `model` has the same weights on every rank; it is moved and trained in place.
    """

    def __init__(
        self, task: Task, model: nn.Module, section: Training, device: torch.device, world: World
    ) -> None:
        self.task, self.device, self.world = task, device, world
        self._format = choose_format(section, device)
        apply_format(self._format)
        self._max_grad_norm = section.max_grad_norm
        self._validation_rows = task.validation_batch_size
        self._memory_advice = section.memory_advice
        usual = PREFETCHED_ON_A_GPU if device.type == "cuda" else 0
        self.prefetch = usual if section.prefetch_batches is None else section.prefetch_batches
        if device.type == "cpu" and task.uses_cpu_kernels:
            from gauntlet.trainer.cpu.kernels import use_cpu_kernels

            use_cpu_kernels(model)
        self._module = model.to(device)
        self._changing = changing(model)
        self._running = running_statistics(model)
        if section.compile:
            model.compile(dynamic=True)
        self._is_sharded = world.size > 1 and section.distribution == "fsdp2"
        self._model = distribute(model, section, device, world)
        self.optimizer = build_optimizer(self._model, section)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._format == "fp16")

    def prepare(self, seed: tuple[int, int], share: Sequence[MicroBatch]) -> list[tuple[Batch, bool]]:
        """The training tensors of one step's micro-batches, on the CPU; pinned if a GPU fetches them."""
        return [
            (self._pinned(self.task.training_batch(part.rows.tolist(), seed)), part.counts) for part in share
        ]

    def step(self, micro_batches: Sequence[tuple[Batch, bool]], weight: float, rate: float) -> torch.Tensor:
        """One optimizer step on all ranks' micro-batches.

        Returns their loss and then their tally, summed over the rows, (1 + S,) float64, on the device.
        The gradient is that of the mean over the `weight` losses of their rows, however they are cut. Nothing
        waits for the device.

        Raises:
            torch.OutOfMemoryError: On this rank, before weights or moments were touched.
            GauntletError: In the optimizer's step.
        """
        self._model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(1, dtype=torch.float64, device=self.device)
        for number, (batch, counts) in enumerate(micro_batches, start=1):
            with self._gradients_travel(number == len(micro_batches)):
                with self._autocast():
                    loss, tally = self.task.loss_sum(self._model, self._on_device(batch))
                loss = loss * float(counts)
                # Ranks' gradients are averaged, so the sum over them all takes a factor of their number.
                self._scaler.scale(loss * self.world.size / weight).backward()  # type: ignore[no-untyped-call]
            sums = sums + torch.cat([loss.detach().view(1), tally * counts])
        self._update()
        self._share_running_statistics()
        return self.world.add_up(sums)

    def _share_running_statistics(self) -> None:
        """Average the running statistics of batch normalisation over the ranks, as gradients are averaged.

        After every step: otherwise the ranks would score different models, and a state would hold only the
        first rank's statistics.
        """
        if self.world.size == 1 or not self._running:
            return
        whole = self.world.add_up(torch.cat([buffer.flatten() for buffer in self._running]))
        sizes = [buffer.numel() for buffer in self._running]
        for buffer, mean in zip(self._running, torch.split(whole / self.world.size, sizes), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _update(self) -> None:
        """Clip the gradients and take the optimizer's step. It must not be repeated, even if it fails."""
        try:
            self._scaler.unscale_(self.optimizer)
            self._clip()
            self._scaler.step(self.optimizer)
            self._scaler.update()
        except torch.OutOfMemoryError as error:
            raise GauntletError(
                "training: the optimizer's moments, two numbers for each weight, do not fit into memory "
                f"({error}). Take a larger accelerator, or several with training.distribution fsdp2."
            ) from None

    def _clip(self) -> None:
        """Scale the gradients to a norm of at most `max_grad_norm`.

        The fused optimizer divides by its `grad_scale` in its own pass, which saves one; with FSDP2's shards
        it does not support that.
        """
        if self._is_sharded:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._max_grad_norm)
            return
        gradients = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.optimizer.grad_scale = (norm / self._max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]

    def validate(self, epoch: int) -> tuple[dict[str, float], list[list[int]]]:
        """The task's metrics of all validation rows and its confusion, on all ranks. Raises as `outputs`."""
        outputs = self.outputs(
            self.task.validation_lengths, lambda rows: self.task.validation_batch(rows, epoch)
        )
        # The first rank's: machines may round differently, and all ranks must agree which epoch is best.
        metrics: dict[str, float] = self.world.from_first(self.task.metrics(outputs))
        return metrics, self.task.confusion(outputs)

    def outputs(self, lengths: Lengths, batch_of: Callable[[Sequence[int]], Batch]) -> torch.Tensor:
        """The task's outputs (N, K) of N rows of these lengths, on every rank's CPU; called on all ranks.

        Raises:
            GauntletError: Out of memory, with a single row or on one rank of several.
        """
        try:
            return self._outputs(lengths, batch_of)
        except torch.OutOfMemoryError as error:
            if self.world.size > 1 or self._validation_rows == 1:
                raise GauntletError(
                    f"training: out of memory in validation, {self._validation_rows} rows at a time "
                    f"({error}). {self._memory_advice}, or take a larger accelerator."
                ) from None
        self._validation_rows = math.ceil(self._validation_rows / 2)
        return self.outputs(lengths, batch_of)

    @torch.no_grad()
    def _outputs(self, lengths: Lengths, batch_of: Callable[[Sequence[int]], Batch]) -> torch.Tensor:
        self._model.eval()
        batches = [MicroBatch(rows) for rows in evaluation_batches(lengths, self._validation_rows)]
        share = in_step(batches, self.world.rank, self.world.size)
        outputs: torch.Tensor | None = None  # (N, K)
        tensors = prefetched(lambda part: self._pinned(batch_of(part.rows.tolist())), share, self.prefetch)
        for part, batch in zip(share, tensors, strict=True):
            of_batch = self.task.outputs(self._module, self._on_device(batch)).float()  # (B, K)
            if outputs is None:
                outputs = torch.zeros(len(lengths), of_batch.shape[1], device=self.device)
            if part.counts:
                outputs[torch.from_numpy(part.rows)] = of_batch
        assert outputs is not None, "validate-data gives no empty split"
        return self.world.add_up(outputs).cpu()

    def weights(self) -> Tensors:
        """The tensors that training changes, whole and on every rank's CPU; called on all ranks."""
        state = self._module.state_dict()
        return {name: self._whole(state[name]) for name in self._changing}

    def set_weights(self, weights: Tensors | None) -> None:
        """Set what `weights` returned on the first rank; the other ranks may pass None."""
        state = self._module.state_dict()
        for name in self._changing:
            self._fill(state[name], self._from_first(weights[name] if weights else None, state[name]))

    def snapshot(self) -> Snapshot:
        """The state to resume from; called on all ranks."""
        weights = self.weights()  # first: with it FSDP2 puts back the shards that the moments belong to
        moments = {
            f"{name}:{key}": self._whole(tensor)
            for name, parameter in self._module.named_parameters()
            if parameter.requires_grad
            for key, tensor in self.optimizer.state[parameter].items()
        }
        generators = {
            f"{rank}.{name}": state
            for rank, states in enumerate(self.world.gather(self.generators()))
            for name, state in states.items()
        }
        return Snapshot(weights, moments, generators)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Return to the first rank's snapshot; the other ranks may pass None."""
        self.set_weights(snapshot.model if snapshot else None)
        keys = self.world.from_first(snapshot and list(snapshot.optimizer))
        moments: dict[str, dict[str, torch.Tensor]] = {}
        parameters = dict(self._module.named_parameters())
        for key in keys:
            name, moment = key.rsplit(":", 1)
            like = (
                torch.zeros((), device=self.device) if moment == STEP else torch.zeros_like(parameters[name])
            )
            self._fill(like, self._from_first(snapshot.optimizer[key] if snapshot else None, like))
            moments.setdefault(name, {})[moment] = like
        for name, state in moments.items():
            self.optimizer.state[parameters[name]] = state
        generators = self.world.from_first(snapshot and snapshot.generators)
        prefix = f"{self.world.rank}."
        own = {key.removeprefix(prefix): state for key, state in generators.items() if key.startswith(prefix)}
        self.set_generators(own)

    def _from_first(self, whole: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """The first rank's tensor, shaped `like`, on this rank's device."""
        if whole is None:
            whole = torch.empty(like.shape, dtype=like.dtype)
        return self.world.broadcast(whole.to(self.device))

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the CPU, put together from its shards on all ranks."""
        if self._is_sharded:
            from torch.distributed.tensor import DTensor

            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return tensor.detach().cpu().contiguous()

    @torch.no_grad()
    def _fill(self, target: torch.Tensor, whole: torch.Tensor) -> None:
        """Copy the values, or this rank's shard of them, into the target."""
        if self._is_sharded:
            from torch.distributed.tensor import DTensor, distribute_tensor

            if isinstance(target, DTensor):
                whole = distribute_tensor(whole, target.device_mesh, target.placements)
        target.copy_(whole)

    def generators(self) -> Tensors:
        """The states of the random number generators that this rank's dropout draws from."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def set_generators(self, states: Tensors) -> None:
        """Set them back."""
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    def scaler_state(self) -> dict[str, float]:
        """The loss scale of fp16 and how many steps it has held; empty for other formats."""
        return dict(self._scaler.state_dict())

    def set_scaler_state(self, state: dict[str, float]) -> None:
        """Set it back."""
        if state:
            self._scaler.load_state_dict(state)

    def _autocast(self) -> torch.autocast:
        kind = AUTOCAST.get(self._format)
        return torch.autocast(self.device.type, kind, enabled=kind is not None)

    @contextmanager
    def _gradients_travel(self, travel: bool) -> Iterator[None]:
        """Exchange gradients once a step: `travel` is True for its last micro-batch."""
        if self._is_sharded:
            self._model.set_requires_gradient_sync(travel)  # type: ignore[operator]
        held_back = isinstance(self._model, DistributedDataParallel) and not travel
        with self._model.no_sync() if held_back else nullcontext():  # type: ignore[operator]
            yield

    def _pinned(self, batch: Batch) -> Batch:
        return tuple(tensor.pin_memory() for tensor in batch) if self.device.type == "cuda" else batch

    def _on_device(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)


def running_statistics(model: nn.Module) -> list[torch.Tensor]:
    """The running means and variances of the model's batch normalisations."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]


def build_optimizer(model: nn.Module, section: Training) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019) without weight decay on biases and normalisation weights."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True)  # each step sets its rate


def distribute(model: nn.Module, section: Training, device: torch.device, world: World) -> nn.Module:
    """The model wrapped so that ranks exchange gradients: a copy on each (DDP) or a shard on each (FSDP2).

    FSDP2 gathers one block of layers at a time; blocks are the members of the model's module lists.
    """
    if world.size == 1:
        return model
    if section.distribution == "ddp":
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            find_unused_parameters=section.leaves_weights_idle,
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # 0.8 s, so only if it is used

    mesh = init_device_mesh(device.type, (world.size,))
    for module in reversed(list(model.modules())):  # what lies inside first
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


def changing(model: nn.Module) -> tuple[str, ...]:
    """Names in the model's state that training changes: all but aliases and frozen parameters."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return tuple(name for name in unaliased(model) if name not in frozen)


def prefetched(prepare: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """`map(prepare, items)`, on a thread that is up to `ahead` results early; 0 prepares each on demand."""
    if ahead == 0:
        yield from map(prepare, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        for item in items:
            waiting.append(thread.submit(prepare, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
