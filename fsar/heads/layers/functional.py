"""The arithmetic that several heads share, batched over leading axes. No Python loop over queries, classes or cells."""

import torch
from torch import Tensor

from fsar.heads.layers.alignment import ProductAlignment, fits_products, fused_alignment, log_alignment
from fsar.heads.layers.cosine import OffsetCosine

COSINE_OFFSET = 0.01
"""Added to the product of norms by OTAM, TSN, CLIP-FSAR, CLIP-MEI, EMP-Net and MoLo: small norms shrink."""


MAX_COSINE_DISTANCE = 2.1
"""No entry of `frame_distances` is larger, whatever the rounding of half-precision features."""


def membership(labels: Tensor, n_way: int) -> Tensor:
    """Return (B, S, N) bool, whether a video is of a class; unlike one_hot it never waits for a device."""
    return labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)


def class_means(x: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean of `x` (B, S, ...) over the supports of each class, (B, N, ...)."""
    weights = membership(labels, n_way).to(x.dtype)  # (B, S, N)
    weights = weights / weights.sum(1, keepdim=True)
    means = weights.transpose(1, 2) @ x.flatten(2)  # (B, N, ...)
    return means.view(*means.shape[:2], *x.shape[2:])


def class_scores(scores: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean over each class's supports of scores (B, Q, S) of queries with supports, (B, Q, N)."""
    weights = membership(labels, n_way).to(scores.dtype)  # (B, S, N)
    return (scores @ weights) / weights.sum(1, keepdim=True)


def offset_cosine(a: Tensor, b: Tensor, offset: float = COSINE_OFFSET) -> Tensor:
    """Return <a_i, b_j> / (|a_i| |b_j| + offset) for a (..., L, D) and b (..., M, D): (..., L, M)."""
    return OffsetCosine.apply(a, b, offset)


def frame_distances(query: Tensor, support: Tensor, offset: float = COSINE_OFFSET) -> Tensor:
    """Return 1 - cosine of every query frame to every support frame.

    For query (B, Q, T, D) and support (B, S, U, D): (B, Q, S, T, U). One matrix product per episode.
    """
    n_query, n_frames = query.shape[1:3]
    n_support, n_other = support.shape[1:3]
    cosine = offset_cosine(query.flatten(1, 2), support.flatten(1, 2), offset)
    return 1 - cosine.view(-1, n_query, n_frames, n_support, n_other).transpose(2, 3)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a_i - b_j|^2 for a (..., L, D) and b (..., M, D): (..., L, M), from the differences themselves.

    The form |a|^2 - 2ab + |b|^2 loses the digits in which close prototypes differ.
    """
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)


def soft_alignment(distance: Tensor, smoothing: float, largest: float | None = None) -> Tensor:
    """Return the soft alignment cost of OTAM (Cao et al., CVPR 2020) for matrices (..., L, M): (...).

    Rows are one video's frames, columns the other's; the path may start and end at any row. The recursion over cells is
    swept a column at a time: within a column each cell depends on the previous column only, so M vector steps (and L
    for the first column) replace L*(M+2) cells. It stays finite where the published recursion underflows (distances of
    1 at smoothing 0.1 over 16 frames). Whoever knows that no distance passes some `largest` saves a look at them all.
    """
    if (fused := fused_alignment(distance)) is not None:
        return fused.apply(distance, smoothing)
    if fits_products(distance, smoothing, largest):
        return ProductAlignment.apply(distance, smoothing)
    return log_alignment(distance, smoothing)


def two_way_alignment(distance: Tensor, smoothing: float, largest: float | None = None) -> Tensor:
    """Return `soft_alignment` of (..., T, U) plus that of its transpose, in one sweep where T = U."""
    is_square = distance.shape[-1] == distance.shape[-2]
    if is_square and (fused := fused_alignment(distance)) is not None:
        return fused.apply(distance, smoothing, True)
    if not is_square or not fits_products(distance, smoothing, largest):
        other = distance.transpose(-1, -2)
        return soft_alignment(distance, smoothing, largest) + soft_alignment(other, smoothing, largest)
    return ProductAlignment.apply(distance, smoothing, True)


def hausdorff(distance: Tensor) -> Tensor:
    """Return the bidirectional mean-free Hausdorff distance of (..., T, U): both sums of nearest distances, (...)."""
    return distance.amin(-1).sum(-1) + distance.amin(-2).sum(-1)


def group_by_class(labels: Tensor, n_way: int, n_shot: int) -> tuple[Tensor, Tensor]:
    """Return the positions of each class's supports (B, N, K), K = `n_shot` the most of any class, and which are real.

    For labels (B, S). Places beyond a class's shots repeat some other support; `mask` (B, N, K) is false there.
    """
    counts = membership(labels, n_way).sum(1)  # (B, N)
    starts = counts.cumsum(1) - counts
    place = torch.arange(n_shot, device=labels.device)
    order = labels.argsort(stable=True, dim=1)  # (B, S)
    index = (starts.unsqueeze(-1) + place).clamp(max=labels.shape[1] - 1)
    return order.gather(1, index.flatten(1)).view_as(index), place < counts.unsqueeze(-1)


def take_videos(x: Tensor, index: Tensor) -> Tensor:
    """Return the videos of x (B, S, ...) at index (B, N, K): (B, N, K, ...)."""
    if index.device.type == "cpu" and torch.equal(index.flatten(1), torch.arange(x.shape[1]).expand(len(x), -1)):
        return x.view(*index.shape, *x.shape[2:])  # sorted by class already, as episodes are drawn: nothing to copy
    starts = torch.arange(len(index), device=index.device).view(-1, 1, 1) * x.shape[1]
    # Far faster than indexing, which copies element by element and adds up gradients one at a time.
    return x.flatten(0, 1).index_select(0, (starts + index).flatten()).view(*index.shape, *x.shape[2:])
