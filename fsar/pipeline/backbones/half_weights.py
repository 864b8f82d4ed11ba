"""Weights in the half precision that autocast would cast them to in every forward pass, cast once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fsar.pipeline.backbones.taps import TapExtractor


def cast_weights(extractor: TapExtractor, dtype: torch.dtype) -> int:
    """Cast the weights of plain layers of a backbone in place and return how many, 0 where features would change.

    Autocast keeps a cast copy of weights that are trained, and casts frozen ones anew in every pass. Features under
    autocast are the same, bit for bit: that is tried out, with a random input, as a module may do more with its
    weights than multiply by them. The backbone stays on the device and in the layout that it has.
    """
    import torch
    from torch import nn

    before = _features(extractor, dtype)
    originals = list(_plain(extractor.backbone.module))
    for module, name, parameter in originals:
        module.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    if all(torch.equal(value, before[tap]) for tap, value in _features(extractor, dtype).items()):
        return len(originals)
    for module, name, parameter in originals:
        module.register_parameter(name, parameter)
    return 0


def _plain(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield the float32 parameters, of no other module, of layers that do nothing but multiply by their weights."""
    import torch
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    owners = Counter(id(p) for child in module.modules() for p in child.parameters(recurse=False))
    left_out = _in_attention(module) if _attention_is_native(module) else set()
    for child in module.modules():
        kind = next((kind for kind in kinds if isinstance(child, kind)), None)
        if kind is None or type(child).forward is not kind.forward or child in left_out:
            continue
        for name, parameter in child.named_parameters(recurse=False):
            if owners[id(parameter)] == 1 and parameter.dtype == torch.float32:
                yield child, name, parameter


def _attention_is_native(module: nn.Module) -> bool:
    """Return whether torch computes `nn.MultiheadAttention` in one operation of its own, which autocast leaves alone.

    It does so in inference, on CPUs even within autocast.
    """
    import torch

    return torch.backends.mha.get_fastpath_enabled() and next(module.parameters()).device.type == "cpu"


def _in_attention(module: nn.Module) -> set[nn.Module]:
    from torch import nn

    return {part for child in module.modules() if isinstance(child, nn.MultiheadAttention) for part in child.modules()}


def _features(extractor: TapExtractor, dtype: torch.dtype) -> dict[str, Tensor]:
    import torch

    example = extractor.backbone.example()
    device = next(extractor.backbone.module.parameters()).device
    example = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode(), torch.autocast(device.type, dtype):
        return extractor(example)
