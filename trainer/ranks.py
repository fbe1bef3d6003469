"""The ranks of a training: one process per device, each with a copy or a shard of the model.

A training on one device is a world of one rank, without communication.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
from torch import distributed

LONGEST_WAIT = timedelta(minutes=30)
"""Time limit of a collective operation: longer than writing a state to a slow bucket takes."""


@dataclass(frozen=True)
class World:
    """This process among all ranks; the fields are torchrun's environment variables."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_environment(cls) -> Self:
        """From torchrun's variables; one rank if they are not set."""
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            size=int(os.environ.get("WORLD_SIZE", "1")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files, prints and tracks."""
        return self.rank == 0

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor, on each rank, by the sum of all ranks' tensors."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace the tensor, on each rank, by the first one's."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank. Exchanged on the CPU, so it waits for no device."""
        if self.size == 1:
            return flags
        votes = self.add_up(torch.tensor(flags, dtype=torch.int64))
        return tuple(bool(vote) for vote in votes)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]


class OutOfMemoryOnARank(Exception):
    """One of several ranks ran out of memory, after `halvings` halvings of its micro-batches."""

    def __init__(self, cause: str, halvings: int) -> None:
        super().__init__(cause)
        self.halvings = halvings


@contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Within, the ranks can communicate: by NCCL between GPUs, by gloo between CPUs."""
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=LONGEST_WAIT, device_id=device)
    else:
        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    yield  # after an error the process ends: shutdown would block if other ranks are dead
    gc.collect()  # objects that hold the group, such as DDP's hooks, could block forever later
    distributed.barrier()
    distributed.destroy_process_group()
