"""One block on several groups of sequences at once: the matrix products see all tokens, the attention each group."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.layers import CrossAttention, CrossBlock, attend


def run_together(block: CrossBlock, groups: Sequence[Tensor]) -> list[Tensor]:
    """Return `block` of each group (..., L, D); lengths and leading axes may differ between groups.

    Episodes are small: a few hundred tokens. Joining supports and queries halves the number of products, makes each
    larger, and spares the sum of two gradients per weight.
    """
    if len(groups) == 1:
        return [block(groups[0])]
    own = block.attention
    rows = torch.cat([group.reshape(-1, group.shape[-1]) for group in groups])
    queries, keys, values = (_like(x, groups) for x in _projections(own, rows))
    attended = [attend(q, k, v, own.heads).flatten(0, -2) for q, k, v in zip(queries, keys, values, strict=True)]
    y: Tensor = rows + own.dropout(own.to_out(torch.cat(attended)))
    transformed: Tensor = block.feed_forward(y)
    return _like(y + transformed, groups)


def _projections(attention: CrossAttention, rows: Tensor) -> list[Tensor]:
    """Return queries, keys and values of the normalised rows.

    Cached features want no gradient. Then the norm's scale g and shift b are moved into the projections,
    W (g x + b) = (W g) x + W b, and their gradients come from that of W g instead of a product per projection with W.
    """
    norm, layers = attention.norm, (attention.to_q, attention.to_k, attention.to_v)
    if rows.requires_grad or not torch.is_grad_enabled():
        normed = norm(rows)
        return [layer(normed) for layer in layers]
    plain = F.layer_norm(rows, norm.normalized_shape, eps=norm.eps)
    return [F.linear(plain, layer.weight * norm.weight, layer.weight @ norm.bias) for layer in layers]


def _like(rows: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    """Cut rows into the groups' shapes, the last axis aside."""
    parts = torch.split(rows, [group.shape[:-1].numel() for group in groups])
    return [part.view(*group.shape[:-1], -1) for part, group in zip(parts, groups, strict=True)]
