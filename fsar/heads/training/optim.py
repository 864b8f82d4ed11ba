"""Optimisers from recipes."""

import torch
from torch import nn

from fsar.heads.recipes.presets import Preset


def make_optimizer(head: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the trainable parameters of a head, with and without decay."""
    groups = parameter_groups(head, preset)
    if preset.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=preset.lr, momentum=preset.momentum, nesterov=preset.nesterov, fused=True)
    kind = torch.optim.Adam if preset.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=preset.lr, betas=preset.betas, fused=True)  # one pass over the weights instead of ten


def parameter_groups(head: nn.Module, preset: Preset) -> list[dict[str, object]]:
    """Return the groups: weights with the recipe's decay, and those whose name contains an `undecayed` fragment."""
    named = [(name, parameter) for name, parameter in head.named_parameters() if parameter.requires_grad]
    decayed = [p for name, p in named if not _matches(name, preset.undecayed)]
    undecayed = [p for name, p in named if _matches(name, preset.undecayed)]
    groups = [(decayed, preset.weight_decay), (undecayed, 0.0)]
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]


def _matches(name: str, fragments: tuple[str, ...]) -> bool:
    return any(fragment in name for fragment in fragments)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
