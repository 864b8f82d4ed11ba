"""A linear map of a concatenation, applied to its parts."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def block_linear(weight: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    """Return the images of rows under the column blocks of a linear map, part_i @ block_i.T: (R_i, D) -> (R_i, d).

    weight (d, n*D) for n parts. For rows that belong together the sum of the images is the map of their concatenation.
    Same numbers as slicing the weight, but its gradient is written block by block in place instead of being put
    together from copies, which for a weight of tens of MB took a quarter of a training step.
    """
    device = parts[0].device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        weight, *cast = (x.to(dtype) for x in (weight, *parts))
        with torch.autocast(device, enabled=False):
            return _images(weight, *cast)
    return _images(weight, *parts)


def _images(weight: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    return BlockLinear.apply(weight, *parts)


class BlockLinear(torch.autograd.Function):
    """The function of `block_linear`, differentiable once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the images of the parts."""
        ctx.save_for_backward(weight, *parts)
        return tuple(part @ block.T for part, block in zip(parts, weight.chunk(len(parts), 1), strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the weight and of the parts."""
        weight, *parts = ctx.saved_tensors
        wants_weight, *wants = ctx.needs_input_grad
        blocks = weight.chunk(len(parts), 1)
        of_weight = torch.empty_like(weight) if wants_weight else None
        if of_weight is not None:
            for gradient, part, block in zip(gradients, parts, of_weight.chunk(len(parts), 1), strict=True):
                torch.mm(gradient.T, part, out=block)
        of_parts = [
            gradient @ block if wanted else None
            for gradient, block, wanted in zip(gradients, blocks, wants, strict=True)
        ]
        return of_weight, *of_parts
