"""Batch norm folded into the convolutions before it: fewer passes over memory, numbers that move by rounding alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fsar.pipeline.backbones.base import Backbone

TOLERANCE = 1e-4
"""How far features may move, by the largest of them; float32 rounds a thousandth of that."""


@dataclass
class _Calls:
    """What one forward pass did with convolutions and batch norms."""

    made_by: dict[int, nn.Module] = field(default_factory=dict)
    """Identity of a convolution's output -> the convolution."""
    n_calls: dict[nn.Module, int] = field(default_factory=dict)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    """Kept, so that no two share an identity."""


def fold_batch_norm(backbone: Backbone) -> int:
    """Fold every batch norm of a backbone that follows a convolution into it, in place; return how many.

    Its weights are those of the recipe before: hash them first. Convolutions and batch norms that run more than once in
    a forward pass stay.

    Raises:
        InputError: there is no such pair, or features become others, as where a convolution's output is also used
            elsewhere.
    """
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    name = f"{backbone.library}:{backbone.name}"
    module = backbone.module
    example = backbone.example()
    example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, pairs = _pairs(module, example)
    if not pairs:
        raise InputError(f"{name} has no batch norm behind a convolution: leave --fold-batch-norm out")
    parents = {child: (parent, key) for parent in module.modules() for key, child in parent.named_children()}
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        parent, key = parents[norm]
        setattr(parent, key, _rest(norm))
    with torch.inference_mode():
        after = module(example)
    if (after - before).abs().max() > TOLERANCE * before.abs().max():
        raise InputError(f"{name} gives other features with batch norm folded: leave --fold-batch-norm out")
    module.requires_grad_(False)
    return len(pairs)


def _pairs(module: nn.Module, example: Tensor) -> tuple[Tensor, list[tuple[Any, Any]]]:
    """Return the features of an example, and (convolution, batch norm on its output) where each runs once."""
    calls = _Calls()
    with _watched(module, calls):
        features = module(example)
    return features, [pair for pair in calls.pairs if all(calls.n_calls[one] == 1 for one in pair)]


@contextmanager
def _watched(module: nn.Module, calls: _Calls) -> Iterator[None]:
    from torch import nn

    def convolved(convolution: nn.Module, inputs: Any, output: Tensor) -> None:
        calls.made_by[id(output)] = convolution
        calls.outputs.append(output)
        calls.n_calls[convolution] = calls.n_calls.get(convolution, 0) + 1

    def normalised(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.n_calls[norm] = calls.n_calls.get(norm, 0) + 1
        if norm.running_mean is not None and id(inputs[0]) in calls.made_by:
            calls.pairs.append((calls.made_by[id(inputs[0])], norm))

    handles = []
    for one in module.modules():
        if isinstance(one, (nn.Conv2d, nn.Conv3d)):
            handles.append(one.register_forward_hook(convolved))
        elif isinstance(one, (nn.BatchNorm2d, nn.BatchNorm3d)):
            handles.append(one.register_forward_pre_hook(normalised))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rest(norm: nn.Module) -> nn.Module:
    """Return what is left of a batch norm: nothing, or the activation that timm puts into it."""
    from torch import nn

    if type(norm) in (nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.Identity()
    parts = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
    return nn.Sequential(*parts)
