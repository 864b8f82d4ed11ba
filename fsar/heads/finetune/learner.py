"""A backbone and a head as the training loop sees them."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fsar.errors import InputError
from fsar.heads.finetune.model import EndToEnd, Task
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.step import ALONE, Memory, learning_rate, train_step
from fsar.heads.finetune.trainable import merge_lora
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.recipes.presets import Preset
from fsar.heads.run_folder import save_head
from fsar.heads.training.loop import seed_step
from fsar.heads.training.step import StepMonitor
from fsar.pipeline.backbones import Backbone, save_weights
from fsar.pipeline.backbones.adapters import AdaptedTower, added_state

BACKBONE = "backbone.safetensors"


@dataclass(frozen=True, slots=True)
class FinetuneLearner:
    """What the loop needs of a model that trains end to end."""

    module: EndToEnd
    optimizer: torch.optim.Optimizer
    preset: Preset
    tuning: Tuning
    memory: Memory
    seed: int
    device: str
    processes: Processes = ALONE

    def step(self, number: int, batch: Iterator[Task], monitor: StepMonitor) -> float:
        """Do one step on the episodes of `batch`.

        Raises:
            InputError: no memory is left.
        """
        with _said_out_of_memory():
            train_step(
                self.module,
                batch,
                self.optimizer,
                self.preset,
                self.tuning,
                step=number,
                memory=self.memory,
                monitor=monitor,
                before_task=lambda episode: seed_step(self.seed, episode, self.device),
                processes=self.processes,
            )
        return learning_rate(self.preset, self.tuning, number)

    def agree(self, stop: bool) -> bool:
        """Tell whether one of the processes was asked to stop."""
        return self.processes.any(stop)

    def broken_episodes(self, number: int, batch: Iterator[Task]) -> list[int]:
        """Return all episodes of the step: to look for the one at fault would move the statistics of batch norm."""
        return list(self.tuning.episodes_of(number, self.preset.episodes_per_step))

    def save(self, folder: Path) -> None:
        """Write the head and the backbone."""
        merge_lora(self.module.tower)
        save_head(folder, self.module.head)
        save_backbone(folder / BACKBONE, self.module.tower.whole)


def save_backbone(path: Path, backbone: Backbone) -> None:
    """Write a backbone as `encode` takes it: a CLIP model with its text tower, as far as that was loaded.

    Adapters cannot be merged into plain weights: they stand beside them, and the header says how to build them.
    """
    facts = {"quick_gelu": "true"} if backbone.quick_gelu else {}
    tower, visual = backbone.module, "visual." if backbone.library == "open_clip" else ""
    added: dict[str, torch.Tensor] = {}
    if isinstance(tower, AdaptedTower):
        facts |= tower.adaptation.facts()
        added = added_state(tower)
        if tower.left_out is not None:
            added[f"{visual}proj"] = tower.left_out
        tower = tower.tower
    own = {f"{visual}{name}": tensor for name, tensor in tower.state_dict().items()}
    state = own if backbone.clip is None else backbone.clip.state_dict()
    save_weights(path, {**state, **added}, metadata=facts or None)


@contextlib.contextmanager
def _said_out_of_memory() -> Iterator[None]:
    """Say what helps where torch says only that memory is out."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            "out of memory in a training step: embed fewer frames at once with --micro-batch 32 (needs --batch-norm "
            "eval where the backbone has batch norm), or pass --checkpoint-blocks"
        ) from error
