"""One optimiser step of a backbone and a head: the gradients of its episodes, one episode at a time."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor

from fsar.heads.batch import PairBatch
from fsar.heads.finetune.memory import TwoPass
from fsar.heads.finetune.model import EndToEnd, Task
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.head import Losses, Outputs
from fsar.heads.recipes.presets import Preset
from fsar.heads.training.optim import set_lr
from fsar.heads.training.step import StepMonitor, clip_gradients, update_weights

ALONE = Processes()


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
    accuracy: Tensor | None = None
    """Fraction of queries classified correctly, a scalar on the device; None for pairs."""


def train_step(
    model: EndToEnd,
    tasks: Iterable[Task],
    optimizer: torch.optim.Optimizer,
    preset: Preset,
    tuning: Tuning,
    *,
    step: int,
    memory: Memory = Memory(),
    monitor: StepMonitor | None = None,
    before_task: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> list[TaskReport]:
    """Do step number `step` of a training and return what its tasks gave.

    The learning rate is that of the step's last task, as in all published loops.

    Args:
        model: On the device of the tasks.
        tasks: Of frames, in order; one at a time is held.
        optimizer: By `finetune_optimizer`.
        preset: Says by what losses are divided, the learning rate, and how far gradients are clipped.
        tuning: Says which tasks a step has and how batch norm behaves.
        step: From 0.
        memory: How to spare it.
        monitor: Takes down loss terms, accuracy and whether anything was not finite.
        before_task: Called with the number of each task, to set random generators.
        processes: Of which this is one; `tasks` are its own.
    """
    numbers = tuning.episodes_of(step, preset.episodes_per_step)
    set_lr(optimizer, learning_rate(preset, tuning, step))
    optimizer.zero_grad(set_to_none=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with processes.shared_statistics(model.tower.module) as records:

        def begin(number: int) -> None:
            records.begin(number)
            if before_task is not None:
                before_task(number)

        own = processes.own(numbers)
        reports = backward(model, tasks, preset, tuning, numbers=own, memory=memory, before_task=begin)
    processes.add_gradients(parameters)
    overflowed = model.loss_scale.unscale(parameters) if model.loss_scale is not None else None
    if monitor is not None or preset.clip_norm is not None:
        norm = clip_gradients(parameters, preset.clip_norm)
    if monitor is not None:
        monitor.record(*mean_of(reports), norm if overflowed is None else torch.where(overflowed > 0, 0.0, norm))
    update_weights(optimizer, monitor, overflowed)
    if model.loss_scale is not None and overflowed is not None:
        model.loss_scale.update(overflowed)
    return reports


def learning_rate(preset: Preset, tuning: Tuning, step: int) -> float:
    """Return the rate of a step: that of its last task."""
    last = tuning.episodes_of(step, preset.episodes_per_step)[-1] // tuning.processes
    return preset.lr * preset.schedule.factor(last, preset.n_episodes)


def backward(
    model: EndToEnd,
    tasks: Iterable[Task],
    preset: Preset,
    tuning: Tuning,
    *,
    numbers: Sequence[int] | None = None,
    memory: Memory = Memory(),
    before_task: Callable[[int], None] | None = None,
) -> list[TaskReport]:
    """Add the gradients of the tasks of one step to those of the parameters; tasks are numbered from 0 by default.

    Tasks come one by one, so that only one of them is in memory, and batch norm sees one at a time: its running
    statistics move with every task and not with every step.
    """
    reports = []
    for number, task in zip(count() if numbers is None else numbers, tasks, strict=False):
        model.tower.batch_norm = tuning.batch_norm_at(number)
        model.train()
        if before_task is not None:
            before_task(number)
        reports.append(_backward(model, task, _divisor(preset, tuning), memory))
    return reports


def _divisor(preset: Preset, tuning: Tuning) -> float:
    in_one_process = float(preset.episodes_per_step) if preset.reduction == "mean" else 1.0
    return (in_one_process if tuning.divisor is None else tuning.divisor) * tuning.processes


def _backward(model: EndToEnd, task: Task, divisor: float, memory: Memory) -> TaskReport:
    embed = TwoPass(model.tower, memory.micro_batch) if memory.micro_batch else None
    with _precision(model, memory):
        losses, outputs = model.losses(task, embed)
    scaled = losses["total"].float() / divisor
    loss = scaled if model.loss_scale is None else scaled * model.loss_scale.scale
    loss.backward()  # type: ignore[no-untyped-call]
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
        right = outputs["logits"].detach().argmax(-1) == task[1].query_labels
        report.accuracy = right.float().mean()
    return report


def mean_of(reports: list[TaskReport]) -> tuple[Losses, Tensor | None]:
    """Return the means of the loss terms and of the accuracies over the tasks of a step."""
    if not reports:  # a step with fewer episodes than processes
        return {"total": torch.zeros(())}, None
    losses = {name: torch.stack([report.losses[name] for report in reports]).mean() for name in reports[0].losses}
    accuracies = [report.accuracy for report in reports if report.accuracy is not None]
    return losses, torch.stack(accuracies).mean() if accuracies else None
