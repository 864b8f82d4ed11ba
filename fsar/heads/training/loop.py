"""The training loop: steps from a seed and a number, validation for selection, exact resume."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from fsar.device import forked_generators, seed_generators
from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, PairBatch, Targets
from fsar.heads.episodes.batches import prefetched
from fsar.heads.episodes.counter_rng import Counter
from fsar.heads.evaluation.evaluate import Evaluation
from fsar.heads.head import Head
from fsar.heads.recipes.presets import Preset
from fsar.heads.run_folder import STATE, save_head
from fsar.heads.training.interrupt import stop_requests
from fsar.heads.training.metrics_log import MetricsLog
from fsar.heads.training.optim import make_optimizer, set_lr
from fsar.heads.training.state import Progress, Weights, load_state, save_state
from fsar.heads.training.step import StepMonitor, autocast, train_step
from fsar.progress import progress, say

Batch = PairBatch | tuple[EpisodeBatch, Targets]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a training runs, beyond its recipe."""

    preset: Preset
    seed: int = 0
    validate_every: int = 20
    """Steps between validations."""
    patience: int = 10
    """Validations without a better one before training stops; 0 for never."""
    log_every: int = 10
    """Steps between lines of the log."""
    save_every_seconds: float = 60.0
    """A kill loses at most this much; the state is also saved on Ctrl-C."""
    amp: bool = False
    """Compute in bfloat16 where torch deems it safe."""
    writes: bool = True
    """False in all processes but one, where several train one model: that one alone writes files."""
    prefetch: bool = False
    """Make the next batch in a thread: for features that are read from disk."""

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return max(self.preset.n_episodes // self.preset.episodes_per_step, 1)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training did."""

    n_steps: int
    stopped_early: bool
    best_step: int
    best_accuracy: float | None
    """On the validation episodes; None without validation."""
    seconds: float
    """Since the run began or went on."""
    train_accuracy: float | None = None
    """On the last training episodes that were logged; None for pairs of videos and where no step was done."""
    n_steps_before: int = 0
    """Steps that were done before an interruption, which `seconds` does not count."""

    def to_text(self) -> str:
        """Return what the training did and why it ended, as a sentence."""
        ended = "stopped early, validation had not improved for long" if self.stopped_early else "to the end"
        since = f", the last {self.n_steps - self.n_steps_before} of them" if self.n_steps_before else ""
        lines = [f"{self.n_steps} steps{since} in {self.seconds:.0f} s, {ended}"]
        if self.best_accuracy is None:
            lines.append("no validation, the last weights are kept")
        else:
            lines.append(
                f"best validation {100 * self.best_accuracy:.1f} % at step {self.best_step}, these weights are kept"
            )
        if self.train_accuracy is not None:
            lines.append(f"train accuracy at the end {100 * self.train_accuracy:.1f} %")
        return "; ".join(lines)


Validate = Callable[[Any], Evaluation]
"""Evaluates what is trained (a head, or a head and its backbone) on fixed episodes."""


class Learner(Protocol):
    """What the loop trains, and how a step changes it."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained, selected and saved."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over its parameters."""
        ...

    def step(self, number: int, batch: Any, monitor: StepMonitor) -> float:
        """Do step `number` and return its learning rate; it depends on the number, the seed and the weights alone."""
        ...

    def agree(self, stop: bool) -> bool:
        """Tell whether to stop after this step; where several processes train one model they do so together."""
        ...

    def broken_episodes(self, number: int, batch: Any) -> list[int]:
        """Return the numbers of the episodes of a step that the model, as it was then, answers without a number."""
        ...

    def save(self, folder: Path) -> None:
        """Write what the training leaves behind."""
        ...


@dataclass(frozen=True, slots=True)
class HeadLearner:
    """A head that learns from features."""

    module: Head
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    device: str

    def step(self, number: int, batch: Batch, monitor: StepMonitor) -> float:
        """Do one step on a batch of episodes or pairs."""
        preset = self.options.preset
        last_episode = (number + 1) * preset.episodes_per_step - 1
        lr = preset.lr * preset.schedule.factor(last_episode, preset.n_episodes)
        set_lr(self.optimizer, lr)
        seed_step(self.options.seed, number, self.device)
        episodes, targets = batch if isinstance(batch, tuple) else (batch, None)
        train_step(
            self.module,
            episodes,
            targets,
            self.optimizer,
            clip_norm=preset.clip_norm,
            gradient_scale=preset.episodes_per_step if preset.reduction == "sum" else 1.0,
            amp=self.options.amp,
            monitor=monitor,
        )
        return lr

    def agree(self, stop: bool) -> bool:
        """Return `stop`: this process is alone."""
        return stop

    def broken_episodes(self, number: int, batch: Batch) -> list[int]:
        """Return the episodes whose logits are not finite; all of a batch of pairs."""
        n_episodes = self.options.preset.episodes_per_step
        numbers = [number * n_episodes + place for place in range(n_episodes)]
        if isinstance(batch, PairBatch):
            return numbers
        seed_step(self.options.seed, number, self.device)
        with torch.no_grad(), autocast(self.device, self.options.amp):
            answers = self.module.train().outputs(batch[0])["logits"].flatten(1)
        return [n for n, whole in zip(numbers, answers.isfinite().all(1).tolist(), strict=True) if not whole]

    def save(self, folder: Path) -> None:
        """Write the head."""
        save_head(folder, self.module)


def train(
    head: Head,
    make_batch: Callable[[int], Batch],
    validate: Validate | None,
    folder: Path,
    options: TrainOptions,
    *,
    device: str = "cpu",
    quiet: bool = False,
) -> TrainReport:
    """Train `head` in place and save it in `folder`; a run that was interrupted there goes on.

    A step depends on its number, the seed and the weights alone: episodes, views and templates are hashes of them, and
    torch's generator (dropout) is set from them before every step. Hence a training that was interrupted at any moment
    and resumed ends with the same weights, bit for bit on a CPU.

    Args:
        head: On `device`.
        make_batch: Step number -> the batch of that step, on `device`.
        validate: Evaluates the head on fixed validation episodes; None keeps the last weights.
        folder: The run's folder.
        options: Recipe, seed and rhythm.
        device: Of the head and the batches.
        quiet: Show no progress.

    Raises:
        InputError: the loss is not finite.
        KeyboardInterrupt: asked to stop by Ctrl-C or SIGTERM; the state is saved.
    """
    learner = HeadLearner(head, make_optimizer(head, options.preset), options, device)
    return train_learner(learner, make_batch, validate, folder, options, device=device, quiet=quiet)


def train_learner(
    learner: Learner,
    make_batch: Callable[[int], Any],
    validate: Validate | None,
    folder: Path,
    options: TrainOptions,
    *,
    device: str = "cpu",
    quiet: bool = False,
) -> TrainReport:
    """Do what `train` does for anything that learns by steps; `learner` understands what `make_batch` returns."""
    module, optimizer = learner.module, learner.optimizer
    best, done = snapshot(module), Progress()
    if (folder / STATE).is_file():
        best, done = load_state(folder / STATE, module, optimizer, device)
    loop = _Loop(learner, make_batch, validate, folder, options, device, best, done, StepMonitor(device))
    with MetricsLog(folder, step=done.n_steps) if options.writes else nullcontext() as log:
        report = loop.run(log, quiet=quiet)
    if validate:
        module.load_state_dict(loop.best)
    module.eval()
    if options.writes:
        learner.save(folder)
    return report


def snapshot(module: nn.Module) -> Weights:
    """Return a copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@dataclass(slots=True)
class _Loop:
    learner: Learner
    make_batch: Callable[[int], Any]
    validate: Validate | None
    folder: Path
    options: TrainOptions
    device: str
    best: Weights
    done: Progress
    monitor: StepMonitor
    first_step: int = field(init=False)
    """The step that the monitor counts from."""
    recent: list[dict[str, float]] = field(default_factory=list)
    """What was logged since the last line for people."""
    train_accuracy: float | None = None
    """Over the steps that were logged before the last line for people."""

    def __post_init__(self) -> None:
        self.first_step = self.done.n_steps

    def run(self, log: MetricsLog | None, *, quiet: bool) -> TrainReport:
        """Do the remaining steps."""
        begin = saved = time.monotonic()
        steps = range(self.first_step, self.options.n_steps)
        batches = prefetched(self.make_batch, steps) if self.options.prefetch else map(self.make_batch, steps)
        bar = progress("train", self.options.n_steps, n_done=steps.start, unit="steps", quiet=quiet)
        with stop_requests() as asked, bar as advance, forked_generators(self.device):
            if self._exhausted():  # killed between the end of the training and its result
                steps = range(0)
            for step, batch in zip(steps, batches, strict=False):
                self._step(step, batch, log)
                self.done.n_steps = step + 1
                advance()
                if self.done.n_steps % self.options.validate_every == 0 or self.done.n_steps == self.options.n_steps:
                    self._validate(log)
                    self._tell(quiet=quiet)
                late = time.monotonic() - saved > self.options.save_every_seconds
                stop = self.learner.agree(asked.to_stop)
                if stop or late:
                    self.save()
                    saved = time.monotonic()
                if stop:
                    raise asked.interruption
                if self._exhausted():
                    break
        if self.done.n_steps > steps.start:
            self.save()
        return self._report(time.monotonic() - begin)

    def _exhausted(self) -> bool:
        return 0 < self.options.patience <= self.done.n_validations_since_best

    def _step(self, step: int, batch: Any, log: MetricsLog | None) -> None:
        lr = self.learner.step(step, batch, self.monitor)
        if (step + 1) % self.options.log_every == 0 or step == 0:
            self._refuse_broken()
            self.recent.append(self.monitor.latest())
            if log is not None:
                log.write(step + 1, lr=lr, **self.recent[-1])

    def _refuse_broken(self) -> None:
        """Raise InputError if a loss or gradient was not finite, naming the step and, where an answer shows it, the
        episode: no weight has changed since.
        """
        broken = self.monitor.broken_step()
        if broken is None:
            return
        step = self.first_step + broken.step
        what = f"gradient has norm {broken.gradient_norm}" if math.isfinite(broken.loss) else f"loss is {broken.loss}"
        named = ", ".join(map(str, self.learner.broken_episodes(step, self.make_batch(step))))
        raise InputError(
            f"the {what} at step {step + 1}{named and f', in episode {named}'}; lower --lr or check the features "
            "(what was saved before this step is kept)"
        )

    def _validate(self, log: MetricsLog | None) -> None:
        self._refuse_broken()
        if self.validate is None:
            return
        result = self.validate(self.learner.module)
        done = self.done
        done.history.append({"step": done.n_steps, "accuracy": result.mean})
        if log is not None:
            log.write(done.n_steps, **{"val/accuracy": result.mean, "val/ci95": result.ci95 or 0.0})
        if result.mean > done.best_accuracy:
            done.best_accuracy, done.best_step, done.n_validations_since_best = result.mean, done.n_steps, 0
            self.best = snapshot(self.learner.module)
        else:
            done.n_validations_since_best += 1

    def _tell(self, *, quiet: bool) -> None:
        """Say how the training stands; the numbers of steps are means since the last line."""
        done, words = self.done, [f"step {self.done.n_steps}/{self.options.n_steps}"]
        loss = _mean(entry["loss/total"] for entry in self.recent if "loss/total" in entry)
        self.train_accuracy = _mean(entry["train/accuracy"] for entry in self.recent if "train/accuracy" in entry)
        self.recent.clear()
        if loss is not None:
            words.append(f"loss {loss:.3f}")
        if self.train_accuracy is not None:
            words.append(f"train {100 * self.train_accuracy:.1f} %")
        if self.validate is not None and done.history:
            best = "best so far" if done.best_step == done.n_steps else f"best {100 * done.best_accuracy:.1f} %"
            at = "" if done.best_step == done.n_steps else f" at step {done.best_step}"
            words.append(f"val {100 * done.history[-1]['accuracy']:.1f} % ({best}{at})")
        if not quiet:
            say(", ".join(words))

    def save(self) -> None:
        """Write the state that `train` goes on from."""
        self._refuse_broken()
        if self.options.writes:
            save_state(self.folder / STATE, self.learner.module, self.learner.optimizer, self.best, self.done)

    def _report(self, seconds: float) -> TrainReport:
        validated = self.validate is not None
        return TrainReport(
            n_steps=self.done.n_steps,
            stopped_early=self.done.n_steps < self.options.n_steps,
            best_step=self.done.best_step if validated else self.done.n_steps,
            best_accuracy=self.done.best_accuracy if validated else None,
            train_accuracy=self.train_accuracy,
            seconds=seconds,
            n_steps_before=self.first_step,
        )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def seed_step(seed: int, step: int, device: str) -> None:
    """Set torch's generators from the seed and the number of a step."""
    seed_generators(int(Counter(seed).stream("dropout", np.array([step]))[0] >> np.uint64(1)), device)
