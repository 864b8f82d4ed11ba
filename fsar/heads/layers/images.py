"""A block on tokens that are sums of known parts: its linear maps are done once, before the sums are taken.

A block norms its tokens before it maps them. But a norm only scales and shifts what is linear in the token. So a part
can carry the maps of its centred self, its images, and a sum of parts has the sum of their images. What is left to do
at the sum: the scale, the softmax, a sum of values, and the feed-forward.
"""

import torch
from torch import Tensor

from fsar.heads.layers.attention import CrossBlock


def with_images(block: CrossBlock, x: Tensor) -> Tensor:
    """Return parts x (..., D) with their images beside them, linear in x: (..., W), W = D + 2I + H*D.

    The images are query and key (I wide) and, for each of H heads, the value after the output map (D wide).
    """
    own = block.attention
    centred = (x - x.mean(-1, keepdim=True)) * own.norm.weight
    values = map_by_head(own.to_v(centred), own.to_out.weight, own.heads).flatten(-2)
    return torch.cat((x, own.to_q(centred), own.to_k(centred), values), -1)


class SumBlock:
    """A block on sums of the same parts."""

    def __init__(self, block: CrossBlock, parts: Tensor) -> None:
        """Take parts (..., P, W) that carry their images."""
        own = block.attention
        inner, dim = own.to_q.weight.shape
        x, query, key, values = torch.split(parts, [dim, inner, inner, own.heads * dim], -1)
        query, key = (part.reshape(*part.shape[:-1], own.heads, -1).transpose(-2, -3) for part in (query, key))
        # The norm's shift matters in queries alone: what it adds to a key it adds to all, and softmax leaves that out.
        shift = own.to_q(own.norm.bias).view(own.heads, 1, -1)
        self._block, self._x, self._values = block, x, values.reshape(*values.shape[:-2], -1, dim)  # (..., P*H, D)
        self._scores, self._shift = ((q @ key.transpose(-1, -2)) * q.shape[-1] ** -0.5 for q in (query, shift))

    def __call__(self, mix: Tensor, first: int = 0) -> Tensor:
        """Return the block of the tokens `mix @ parts`, from the `first` on: (..., L, D) for `mix` (..., L, P)."""
        own, x = self._block.attention, mix @ self._x
        scale = (x.var(-1, correction=0, keepdim=True) + own.norm.eps).rsqrt().unsqueeze(-3)  # (..., 1, L, 1)
        mix, x = mix.unsqueeze(-3), x[..., first:, :]
        scaled = mix * scale
        scores = (scaled[..., first:, :] @ self._scores + self._shift) @ scaled.transpose(-1, -2)  # (..., H, L, L)
        weights = (scores.softmax(-1) @ scaled).movedim(-3, -1).flatten(-2)  # (..., L, P*H)
        y: Tensor = x + own.dropout(weights @ self._values + own.to_out(own.to_v(own.norm.bias)))
        transformed: Tensor = self._block.feed_forward(y)
        return y + transformed


def map_by_head(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Return the image of each head's channels of x (..., H*E) under its columns of a map (D, H*E): (..., H, D)."""
    rows = x.reshape(-1, heads, x.shape[-1] // heads).transpose(0, 1)
    maps = weight.view(len(weight), heads, -1).permute(1, 2, 0)  # (H, E, D)
    mapped: Tensor = (rows @ maps).transpose(0, 1)
    return mapped.reshape(*x.shape[:-1], heads, -1)
