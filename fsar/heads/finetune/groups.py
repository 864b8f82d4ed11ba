"""Parameter groups of a backbone and a head that train together: decay and learning rate by parameter."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fsar.heads.finetune.model import EndToEnd
from fsar.heads.finetune.official_names import official_name
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.recipes.presets import Preset
from fsar.heads.training.optim import RATE


def finetune_optimizer(model: EndToEnd, preset: Preset, tuning: Tuning) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over everything that trains.

    Decay is coupled (L2, part of the gradient) in "adam" and "sgd", decoupled in "adamw", as published.
    """
    groups = finetune_groups(model, preset, tuning)
    if preset.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=preset.lr, momentum=preset.momentum, fused=True)
    kind = torch.optim.Adam if preset.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=preset.lr, betas=preset.betas, eps=preset.eps, fused=True)


def finetune_groups(model: EndToEnd, preset: Preset, tuning: Tuning) -> list[dict[str, Any]]:
    """Return groups of parameters that share weight decay and learning rate; those of the head come first."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.head.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((preset.rate_of(name), preset.decay_of(name)), []).append(parameter)
    for parameter, undecayed in _backbone_parameters(model, preset, tuning):
        if parameter.requires_grad:
            decay = 0.0 if undecayed else preset.weight_decay
            groups.setdefault((tuning.backbone_rate, decay), []).append(parameter)
    return [{"params": own, "weight_decay": decay, RATE: rate} for (rate, decay), own in groups.items()]


def _backbone_parameters(model: EndToEnd, preset: Preset, tuning: Tuning) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each parameter of the backbone and whether it is spared weight decay."""
    tower = model.tower
    normalising = {id(parameter) for module in _normalisations(tower.module) for parameter in module.parameters()}
    for name, parameter in tower.module.named_parameters():
        name = name.removeprefix("tower.")  # where there are adapters
        if tuning.compat == "official":
            yield parameter, _holds(f"head.backbone.{official_name(tower.backbone.library, name)}", preset.undecayed)
        else:
            yield parameter, bool(preset.undecayed) and id(parameter) in normalising


def _normalisations(module: nn.Module) -> Iterator[nn.Module]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    return (child for child in module.modules() if isinstance(child, kinds))


def _holds(name: str, fragments: tuple[str, ...]) -> bool:
    return any(fragment in name for fragment in fragments)
