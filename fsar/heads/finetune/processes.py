"""Several processes that train one model: episodes are dealt by number, gradients and statistics are shared.

Any number of processes does the same training as one: a step has the same episodes, their gradients are added up before
the optimiser steps, and the running statistics of batch norm move by every call of every process in the order of the
episodes. The first process alone writes; all of them read the state that it wrote.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fsar.heads.finetune.tower import batch_norms

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """A process among those that train one model."""

    rank: int = 0
    n: int = 1

    @classmethod
    def joined(cls, device: str) -> "Processes":
        """Join the processes that `torchrun` started, if it did: gloo between CPUs, NCCL between GPUs."""
        n = int(os.environ.get("WORLD_SIZE", "1"))
        if n == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), n)

    @property
    def writes(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    def own(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return the episodes of a step that this process does."""
        return numbers[self.rank :: self.n]

    def from_first(self, value: T | None) -> T:
        """Return what the first process passes, in all of them."""
        if self.n == 1:
            assert value is not None
            return value
        held: list[Any] = [value]
        dist.broadcast_object_list(held, src=0)
        found: T = held[0]
        return found

    def of_all(self, value: T) -> list[T]:
        """Return what each of the processes passes, in all of them."""
        if self.n == 1:
            return [value]
        found: list[Any] = [None] * self.n
        dist.all_gather_object(found, value)
        return found

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is raised in one of the processes."""
        return any(self.of_all(flag))

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add up the gradients of all processes; a parameter that has one anywhere has one everywhere afterwards."""
        if self.n == 1:
            return
        device = parameters[0].device
        has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32, device=device)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        wanted = [parameter for parameter, one in zip(parameters, has.tolist(), strict=True) if one]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in wanted if parameter.grad is not None])
        dist.all_reduce(flat)
        for parameter, grad in zip(wanted, torch.split(flat, [p.numel() for p in wanted]), strict=True):
            parameter.grad = grad.view_as(parameter)

    @contextmanager
    def shared_statistics(self, module: nn.Module) -> Iterator["CallRecords"]:
        """Record what the calls inside do to running statistics, and move them by the calls of all processes after it.

        With a single process the statistics simply move.
        """
        norms = batch_norms(module) if self.n > 1 else []
        records = CallRecords(norms)
        try:
            yield records
        finally:
            records.close()
        if norms:
            records.apply([call for calls in self.of_all(records.calls) for call in calls])


Call = tuple[int, int, int, Tensor, Tensor]
"""Episode, number of the call in it, place of the norm; momentum times the mean and the variance of the call."""


class CallRecords:
    """What each call of each batch norm adds to its running statistics.

    While it is open the norms have statistics of zero, which a call turns into momentum x its own. The tensors are
    exchanged and never written to, because graphs hold them.
    """

    def __init__(self, norms: Sequence[_BatchNorm]) -> None:
        self.episode = 0
        self.calls: list[Call] = []
        self._norms = norms
        self._before = [(norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
        self._counts = [0] * len(norms)
        self._handles = [norm.register_forward_hook(self._hook(place)) for place, norm in enumerate(norms)]

    def begin(self, episode: int) -> None:
        """Say which episode the next calls belong to; the norms are in the mode of that episode by now."""
        self.episode, self._counts = episode, [0] * len(self._norms)
        for norm, (mean, variance, count) in zip(self._norms, self._before, strict=True):
            norm.running_mean, norm.running_var = mean, variance
            norm.num_batches_tracked = None if count is None else count.clone()
            _clear(norm)

    def _hook(self, place: int) -> Any:
        def record(norm: _BatchNorm, inputs: Any, output: Tensor) -> None:
            if norm.training and norm.running_mean is not None and norm.running_var is not None:
                mean, variance = norm.running_mean.cpu(), norm.running_var.cpu()
                self.calls.append((self.episode, self._counts[place], place, mean.clone(), variance.clone()))
                self._counts[place] += 1
                _clear(norm)

        return record

    def close(self) -> None:
        """Give the norms back what they had."""
        for handle in self._handles:
            handle.remove()
        for norm, (mean, variance, count) in zip(self._norms, self._before, strict=True):
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, count

    def apply(self, calls: Sequence[Call]) -> None:
        """Move the statistics by calls, in the order of episodes."""
        for _, _, place, mean, variance in sorted(calls, key=lambda call: call[:3]):
            norm = self._norms[place]
            assert norm.running_mean is not None
            assert norm.running_var is not None
            kept = 1 - (0.1 if norm.momentum is None else norm.momentum)
            norm.running_mean.mul_(kept).add_(mean.to(norm.running_mean.device))
            norm.running_var.mul_(kept).add_(variance.to(norm.running_var.device))
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)


def _clear(norm: _BatchNorm) -> None:
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean, norm.running_var = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
