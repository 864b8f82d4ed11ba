"""Which part of a backbone trains: all of it, its last blocks, its normalisations, additions to it, or nothing."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fsar.errors import InputError
from fsar.heads.finetune.tower import Tower
from fsar.pipeline.backbones.adapters import ADAPTER_KINDS, AdaptedTower

FORMS = "all, none, norm, last:N (the last N blocks or stages), lora:R (rank R in every attention), " + " or ".join(
    ADAPTER_KINDS
)


def set_trainable(tower: Tower, choice: str) -> None:
    """Let the part of a tower that `choice` names train, and freeze the rest.

    `last:N` counts transformer blocks, or the stages of a ResNet (layer1 to layer4), from the end, and includes what
    comes after them; `norm` is the scales and shifts of all normalisations; `lora:R` (Hu et al., ICLR 2022,
    https://arxiv.org/abs/2106.09685) adds a product of rank R to the query and value projections of every attention,
    and `merge_lora` makes plain weights of the sum, exactly. Adapters are in the tower already (see `with_adapters`):
    they train, and with those of D2ST-Adapter the class token and the norm behind the last block, as released.

    Raises:
        InputError: not one of these forms, or a part that this backbone does not have.
    """
    module = tower.module
    kind, _, number = choice.partition(":")
    if kind in ("last", "lora") and not re.fullmatch("[1-9][0-9]*", number):
        raise InputError(f"what trains must be {FORMS}, got {choice!r}")
    module.requires_grad_(kind == "all")
    if kind == "last":
        for part in last_parts(tower, int(number)):
            part.requires_grad_(True)
    elif kind == "lora":
        add_lora(tower, int(number))
    elif choice == "norm":
        _let_norms_train(tower)
    elif choice in ADAPTER_KINDS:
        _let_adapters_train(tower, choice)
    elif choice == "task-adapter++":
        raise InputError(
            "task-adapter++ lets the videos of an episode see each other: it is a head, on a store with tokens.9.raw "
            "(--option levels=10), or with --finetune BACKBONE --trainable none on frames"
        )
    elif choice not in ("all", "none"):
        raise InputError(f"what trains must be {FORMS}, got {choice!r}")


def _let_norms_train(tower: Tower) -> None:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    norms = [child for child in tower.module.modules() if isinstance(child, kinds)]
    for norm in norms:
        norm.requires_grad_(True)
    if not any(list(norm.parameters()) for norm in norms):
        raise InputError(f"{tower.backbone.name} has no normalisations with weights: choose another part to train")


def _let_adapters_train(tower: Tower, kind: str) -> None:
    module = tower.module
    if not isinstance(module, AdaptedTower) or module.adaptation.kind != kind:
        raise InputError(f"{tower.backbone.name} has no adapters of kind {kind} in it")
    for parameter in module.trained():
        parameter.requires_grad_(True)


def last_parts(tower: Tower, n: int) -> list[nn.Module | nn.Parameter]:
    """Return the last `n` blocks or stages of a tower and everything behind them.

    Raises:
        InputError: it has fewer, or none that are known.
    """
    module, points = tower.module, tower.backbone.points
    parts = list(points.blocks) or [getattr(module, f"layer{i}") for i in (1, 2, 3, 4) if hasattr(module, f"layer{i}")]
    what = "blocks" if points.blocks else "stages"
    if not parts:
        raise InputError(f"{tower.backbone.name} has no blocks or stages that are known here: train all or norm")
    if n > len(parts):
        raise InputError(f"{tower.backbone.name} has {len(parts)} {what}, got last:{n}")
    behind = [
        getattr(module, name) for name in ("ln_post", "proj", "attnpool", "norm", "fc_norm") if _has(module, name)
    ]
    return [*parts[-n:], *behind]


def _has(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), (nn.Module, nn.Parameter))


@dataclass(frozen=True, slots=True)
class _Projection:
    """The joint projection of an attention to queries, keys and values: a weight (3W, W) and whose it is."""

    owner: nn.Module
    name: str


class LowRank(nn.Module):
    """Adds `up @ down` to the query and the value rows of a joint projection; zero at first."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, rank, width) / rank)
        self.up = nn.Parameter(torch.zeros(2, width, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight (3W, W) that the attention uses."""
        query, value = self.up @ self.down  # each (W, W)
        return weight + torch.cat((query, torch.zeros_like(query), value))


def add_lora(tower: Tower, rank: int) -> None:
    """Add `LowRank` of a rank to every attention of a transformer; its weights come from torch's current generator."""
    found = _projections(tower.module)
    if not found:
        raise InputError(f"{tower.backbone.name} has no attentions that are known here: lora needs a transformer")
    for projection in found:
        weight = getattr(projection.owner, projection.name)
        if rank > weight.shape[1]:
            raise InputError(f"lora:{rank} is of higher rank than the width {weight.shape[1]} of {tower.backbone.name}")
        addition = LowRank(weight.shape[1], rank).to(weight.device)
        parametrize.register_parametrization(projection.owner, projection.name, addition)


def _projections(module: nn.Module) -> list[_Projection]:
    found = []
    for child in module.modules():
        if isinstance(child, nn.MultiheadAttention) and child.in_proj_weight is not None:
            found.append(_Projection(child, "in_proj_weight"))
        elif isinstance(qkv := getattr(child, "qkv", None), nn.Linear):
            found.append(_Projection(qkv, "weight"))
    return found


def merge_lora(tower: Tower) -> None:
    """Make plain weights of what `add_lora` added; what the tower computes stays the same."""
    for module in list(tower.module.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
