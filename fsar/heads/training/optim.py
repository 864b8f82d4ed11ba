"""Optimisers from recipes."""

import torch
from torch import nn

from fsar.heads.recipes.presets import Preset

RATE = "rate"
"""Entry of a group: its learning rate as a share of the recipe's."""


def make_optimizer(head: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the trainable parameters of a head: decay and rate by parameter."""
    groups = parameter_groups(head, preset)
    if preset.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=preset.lr, momentum=preset.momentum, nesterov=preset.nesterov, fused=True)
    kind = torch.optim.Adam if preset.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=preset.lr, betas=preset.betas, eps=preset.eps, fused=True)  # one pass over the weights


def parameter_groups(head: nn.Module, preset: Preset) -> list[dict[str, object]]:
    """Return groups of parameters that share learning rate and weight decay, the recipe's own first."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(1.0, preset.weight_decay): []}
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((preset.rate_of(name), preset.decay_of(name)), []).append(parameter)
    return [
        {"params": own, "weight_decay": decay, "lr": rate * preset.lr, RATE: rate}
        for (rate, decay), own in groups.items()
        if own
    ]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(RATE, 1.0)
