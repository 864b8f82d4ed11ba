"""One optimiser step of a backbone and a head: the gradients of its episodes, one episode at a time."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsar.heads.batch import PairBatch
from fsar.heads.finetune.groups import set_rates
from fsar.heads.finetune.memory import TwoPass
from fsar.heads.finetune.model import EndToEnd, Task
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.head import Losses, Outputs
from fsar.heads.recipes.presets import Preset


@dataclass(frozen=True, slots=True)
class Memory:
    """What keeps a step small. None of it changes the result beyond rounding but `autocast`."""

    micro_batch: int | None = None
    """Frames that are embedded at once, in two passes; None for whole calls and one pass."""
    autocast: torch.dtype | None = None
    """Precision of the forward passes where torch deems it safe; weights and gradients stay float32."""


@dataclass(slots=True)
class TaskReport:
    """What one episode of a step gave, detached."""

    losses: Losses
    """The terms of the head, before they are divided."""
    outputs: Outputs = field(default_factory=dict)
    scaled: Tensor = field(default_factory=lambda: torch.zeros(()))
    """The number that was back-propagated."""
    n_right: Tensor | None = None
    """Queries answered rightly, a scalar on the device; None for pairs."""


def backward(
    model: EndToEnd,
    tasks: Iterable[Task],
    preset: Preset,
    tuning: Tuning,
    *,
    first: int = 0,
    memory: Memory = Memory(),
    scaler: torch.amp.GradScaler | None = None,
) -> list[TaskReport]:
    """Add the gradients of the tasks of one step to those of the parameters.

    Tasks come one by one, so that only one of them is in memory, and batch norm sees one at a time: its running
    statistics move with every task and not with every step.

    Args:
        model: Its parameters receive the gradients.
        tasks: Of frames.
        preset: Says by what the loss of a task is divided.
        tuning: Says how batch norm behaves.
        first: Number of the first task in the training.
        memory: How to spare it.
        scaler: For fp16.
    """
    reports = []
    for number, task in enumerate(tasks, first):
        model.tower.batch_norm = tuning.batch_norm_at(number)
        model.train()
        reports.append(_backward(model, task, _divisor(preset, tuning), memory, scaler))
    return reports


def _divisor(preset: Preset, tuning: Tuning) -> float:
    if tuning.divisor is not None:
        return tuning.divisor
    return float(preset.episodes_per_step) if preset.reduction == "mean" else 1.0


def _backward(
    model: EndToEnd, task: Task, divisor: float, memory: Memory, scaler: torch.amp.GradScaler | None
) -> TaskReport:
    embed = TwoPass(model.tower, memory.micro_batch) if memory.micro_batch else None
    with _precision(model, memory):
        losses, outputs = model.losses(task, embed)
    scaled = losses["total"].float() / divisor
    (scaler.scale(scaled) if scaler else scaled).backward()  # type: ignore[no-untyped-call]
    if embed is not None:
        embed.finish(_precision(model, memory))
    return _report(task, losses, outputs, scaled)


def _precision(model: EndToEnd, memory: Memory) -> AbstractContextManager[object]:
    if memory.autocast is None:
        return nullcontext()
    device = next(model.tower.module.parameters()).device
    return torch.autocast(device.type, memory.autocast)


def _report(task: Task, losses: Losses, outputs: Outputs, scaled: Tensor) -> TaskReport:
    report = TaskReport(
        {name: value.detach() for name, value in losses.items()},
        {name: value.detach() for name, value in outputs.items()},
        scaled.detach(),
    )
    if not isinstance(task, PairBatch):
        report.n_right = (outputs["logits"].detach().argmax(-1) == task[1].query_labels).sum()
    return report


def train_step(
    model: EndToEnd,
    tasks: Iterable[Task],
    optimizer: torch.optim.Optimizer,
    preset: Preset,
    tuning: Tuning,
    *,
    step: int,
    memory: Memory = Memory(),
) -> tuple[list[TaskReport], Tensor]:
    """Do step number `step` of a training; return what its tasks gave and the norm of the gradient before clipping.

    The learning rate is that of the step's last task, as in all published loops.
    """
    numbers = tuning.episodes_of(step, preset.episodes_per_step)
    set_rates(optimizer, preset.lr * preset.schedule.factor(numbers[-1], preset.n_episodes))
    optimizer.zero_grad(set_to_none=True)
    reports = backward(model, tasks, preset, tuning, first=numbers[0], memory=memory)
    norm = clip(model, preset.clip_norm)
    optimizer.step()
    return reports, norm


def clip(model: EndToEnd, largest: float | None) -> Tensor:
    """Return the norm of the gradient of all parameters together, after limiting it if a limit is given."""
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), largest, norm)
    return norm
