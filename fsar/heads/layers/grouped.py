"""One block on several groups of sequences at once: the matrix products see all tokens, the attention each group."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fsar.heads.layers.attention import CrossBlock, attend, project_normed


def run_together(block: CrossBlock, groups: Sequence[Tensor]) -> list[Tensor]:
    """Return `block` of each group (..., L, D); lengths and leading axes may differ between groups.

    Episodes are small: a few hundred tokens. Joining supports and queries halves the number of products, makes each
    larger, and spares the sum of two gradients per weight.
    """
    if len(groups) == 1:
        return [block(groups[0])]
    own = block.attention
    rows = torch.cat([group.reshape(-1, group.shape[-1]) for group in groups])
    queries, keys, values = (_like(x, groups) for x in project_normed(own.norm, rows, own.to_q, own.to_k, own.to_v))
    attended = [attend(q, k, v, own.heads).flatten(0, -2) for q, k, v in zip(queries, keys, values, strict=True)]
    y: Tensor = rows + own.dropout(own.to_out(torch.cat(attended)))
    transformed: Tensor = block.feed_forward(y)
    return _like(y + transformed, groups)


def _like(rows: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    """Cut rows into the groups' shapes, the last axis aside."""
    parts = torch.split(rows, [group.shape[:-1].numel() for group in groups])
    return [part.view(*group.shape[:-1], -1) for part, group in zip(parts, groups, strict=True)]
