"""How HCL compares two videos: the best tuples of frames, and the best patches inside them.

Which parts match is a choice and has no gradient. So the choice is made first, without a graph and in chunks of bounded
memory, and kept as a count per part; pooling the chosen parts is then one small matrix product, and only that one is
differentiated.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.layers.frame_tuples import all_tuples

CHUNK_BYTES = {"cpu": 2 * 2**20}
"""Largest temporary of a chunk by device. On a CPU the products are reduced while they are in its cache."""
ROOMY_CHUNK_BYTES = 256 * 2**20
"""The same for all other devices, where every chunk is a launch."""

LARGE_PRODUCT = 1 << 20
"""Multiplications of a pair of frames from which a call of its own is cheap on a CPU."""


def unit(x: Tensor) -> Tensor:
    """Return `x` at length one along its last axis; zero stays zero."""
    return F.normalize(x, dim=-1, eps=1e-12)


def frame_tuples(n_frames: int, cardinality: int, device: torch.device | str = "cpu") -> Tensor:
    """Return all ascending tuples of `cardinality` frames in lexicographic order, (G, t) int64. Do not write to them.

    Raises:
        InputError: the videos have fewer frames than a tuple.
    """
    if cardinality > n_frames:
        raise InputError(f"tuples of {cardinality} frames need videos of at least {cardinality} frames, got {n_frames}")
    return all_tuples(n_frames, cardinality, torch.device(device))


def slices(length: int, bytes_each: int, device: torch.device) -> Iterator[slice]:
    """Yield consecutive slices of 0..length whose temporaries stay within the chunk bytes (one item at least)."""
    step = max(1, CHUNK_BYTES.get(device.type, ROOMY_CHUNK_BYTES) // max(1, bytes_each))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


@torch.no_grad()
def rank_tuples(query: Tensor, support: Tensor, n_keep: int, *, scramble: bool = False) -> tuple[Tensor, Tensor]:
    """Return the best pairs of tuples of every query and support, best first.

    Each query tuple meets the support tuple most similar to it; the `n_keep` query tuples with the best meetings stay.
    For embedded tuples query (B, Q, G, d) and support (B, S, G, d): indices of the query tuples and of the support
    tuples, both (B, Q, S, R), R = min(n_keep, G). `scramble` reads the scores of (support, tuple) as (tuple, support),
    as the released code does with several shots: choices then belong to other tuples and videos.
    """
    n_support, n_tuples = support.shape[1:3]
    flat = support.flatten(1, 2).transpose(1, 2)  # (B, d, S*G)
    n_keep = min(n_keep, n_tuples)
    ranked = []
    for part in slices(query.shape[1], len(query) * n_tuples * flat.shape[2] * 4, query.device):
        scores = query[:, part].flatten(1, 2) @ flat  # (B, q*G, S*G)
        if scramble:
            best, chosen = scores.view(len(query), -1, n_tuples, n_tuples, n_support).max(3)
        else:
            best, chosen = scores.view(len(query), -1, n_tuples, n_support, n_tuples).max(4)
        kept = best.topk(n_keep, dim=2).indices  # (B, q, R, S)
        ranked.append(torch.stack((kept, chosen.gather(2, kept))).transpose(3, 4))
    query_tuples, support_tuples = torch.cat(ranked, 2)
    return query_tuples, support_tuples


@torch.no_grad()
def choose_patches(
    query: Tensor,
    support: Tensor,
    query_frames: Tensor,
    support_frames: Tensor,
    n_keep: int,
    row_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return how often each patch is chosen when matched tuples of frames are compared patch by patch.

    Each patch of the query's tuple meets the most similar patch of the support's tuple; the `n_keep` best meetings of
    each ranked pair of tuples count. Pairs of tuples share frames, so every pair of frames is multiplied once.

    Args:
        query: (B, Q, T, P, d) patches.
        support: (B, S, T, P, d) patches.
        query_frames: (B, Q, S, R, t) frames of the R ranked tuples.
        support_frames: (B, Q, S, R, t) their partners.
        n_keep: meetings that count, at most t*P.
        row_weights: broadcastable to (B, Q, S, R, t*P), positive: scales a meeting by its query patch when ranking.

    Returns:
        Counts (B, Q, S, T*P) of query patches and of support patches; each sums to R * min(n_keep, t*P).
    """
    n_frames, n_patches = query.shape[2:4]
    pairs = query_frames.unsqueeze(-1) * n_frames + support_frames.unsqueeze(-2)  # (B, Q, S, R, t, t)
    value, column = meet_frames(query, support, pairs.flatten(3))
    value, column = (x.view(*pairs.shape, n_patches) for x in (value, column))
    best, slot = value.max(5)  # (B, Q, S, R, t, P): over the frames of the support's tuple
    column = column.gather(5, slot.unsqueeze(5)).squeeze(5)
    row_id = query_frames.unsqueeze(-1) * n_patches + torch.arange(n_patches, device=query.device)
    column_id = support_frames.gather(4, slot.flatten(4)).view_as(slot) * n_patches + column
    best = best.flatten(4)
    if row_weights is not None:
        best = best * row_weights
    kept = best.topk(min(n_keep, best.shape[-1]), dim=-1).indices  # (B, Q, S, R, keep)
    rows, columns = (x.flatten(4).gather(4, kept).flatten(3) for x in (row_id, column_id))
    return count(rows, n_frames * n_patches), count(columns, n_frames * n_patches)


def meet_frames(query: Tensor, support: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each patch of a query frame, its best similarity in a support frame, and where.

    For patches (B, Q, T, P, d), (B, S, T, P, d) and pairs of frames (B, Q, S, X) as query frame * T + support frame:
    values and columns, (B, Q, S, X, P). Equal pairs are computed once.
    """
    n_episodes, n_query, n_support, _ = pairs.shape
    n_frames, n_patches, width = query.shape[2:]
    wanted = pairs.new_zeros(n_episodes, n_query, n_support, n_frames**2).scatter_(3, pairs, 1)
    place = wanted.flatten().cumsum(0).view_as(wanted) - 1
    episode, row, column, frames = wanted.nonzero(as_tuple=True)
    query_at = (episode * n_query + row) * n_frames + frames // n_frames
    support_at = (episode * n_support + column) * n_frames + frames % n_frames
    query, support = query.flatten(0, 2), support.flatten(0, 2).transpose(1, 2)  # (B*Q*T, P, d), (B*S*T, d, P)
    in_place = query.device.type == "cpu" and n_patches**2 * width >= LARGE_PRODUCT
    product = _products_in_place if in_place else _products_of_copies
    bytes_each = n_patches * query.element_size() * (n_patches if in_place else 2 * width)
    best = [
        product(query, support, query_at[part], support_at[part]).max(2)
        for part in slices(len(frames), bytes_each, query.device)
    ]
    at = place.gather(3, pairs)
    return torch.cat([b.values for b in best])[at], torch.cat([b.indices for b in best])[at]


def _products_of_copies(query: Tensor, support: Tensor, query_at: Tensor, support_at: Tensor) -> Tensor:
    """Return query[i] @ support[j] for all pairs (i, j), (X, P, P)."""
    return query.index_select(0, query_at) @ support.index_select(0, support_at)


def _products_in_place(query: Tensor, support: Tensor, query_at: Tensor, support_at: Tensor) -> Tensor:
    """Do the same without gathering first: on a CPU the copies cost as much as the products."""
    out = query.new_empty(len(query_at), query.shape[1], support.shape[2])
    queries, supports = query.unbind(0), support.unbind(0)  # once: indexing takes a tenth of a product
    for product, i, j in zip(out.unbind(0), query_at.tolist(), support_at.tolist(), strict=True):
        torch.mm(queries[i], supports[j], out=product)
    return out


def count(index: Tensor, length: int) -> Tensor:
    """Return how often each of 0..length-1 occurs in the last axis of `index`, (..., length) float32."""
    ones = torch.ones_like(index, dtype=torch.float32)
    return ones.new_zeros(*index.shape[:-1], length).scatter_add_(-1, index, ones)


def pooled_similarity(counts: tuple[Tensor, Tensor], query: Tensor, support: Tensor, metric: str = "dot") -> Tensor:
    """Return the similarity of the means of the chosen parts of both sides, (B, Q, S).

    For counts (B, Q, S, L) of the parts query (B, Q, L, d) and support (B, S, L, d); differentiable in the parts.
    """
    shares, support_shares = ((x / x.sum(-1, keepdim=True)).to(query.dtype) for x in counts)
    means = shares @ query
    support_means = (support_shares.transpose(1, 2) @ support).transpose(1, 2)
    return similarity(means, support_means, metric)


def similarity(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """Return dot products of the last axes of `x` and `y`, or minus squared distances ("euclidean")."""
    return (x * y).sum(-1) if metric == "dot" else -(x - y).square().sum(-1)


def multi_scale(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return patches (..., h*w, d) followed by their means over 2x2 (step 1) and 4x4 (step 2) neighbours.

    On a 7x7 grid: 49 + 36 + 4 = 89 patches. Grids below 4 on a side lack the coarsest scale.
    """
    image = patches.reshape(-1, *grid, patches.shape[-1]).permute(0, 3, 1, 2)
    scales = [(2, 1), (4, 2)]
    pooled = [F.avg_pool2d(image, size, step).flatten(2) for size, step in scales if min(grid) >= size]
    every = torch.cat((image.flatten(2), *pooled), 2).transpose(1, 2)
    return every.view(*patches.shape[:-2], *every.shape[1:])
