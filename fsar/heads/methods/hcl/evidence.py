"""HCL's three levels taken apart: every score is a similarity of means, and so a sum over what the means are of."""

import torch
from torch import Tensor

from fsar.heads.explain.evidence import Evidence, FrameScores, PatchScores, TupleMatch, frame_tuples
from fsar.heads.layers.functional import class_scores


def mean_parts(shares: Tensor, query: Tensor, other: Tensor, metric: str) -> Tensor:
    """Return (B, Q, R, L): what each of L parts adds to the similarity of the query's mean and another vector.

    For shares (B, Q, R, L) that sum to 1 over L, parts query (B, Q, L, d) and vectors other (B, Q, R, d). Dot products
    are linear in the mean; a squared distance |x - y|^2 is the mean of <part - y, x - y>.
    """
    if metric == "dot":
        return shares * torch.einsum("bqld,bqrd->bqrl", query, other)
    apart = shares @ query - other  # (B, Q, R, d)
    own = torch.einsum("bqld,bqrd->bqrl", query, apart)
    return -shares * (own - (other * apart).sum(-1, keepdim=True))


def counted_parts(counts: tuple[Tensor, Tensor], query: Tensor, support: Tensor, metric: str) -> Tensor:
    """Return `mean_parts` for counts (B, Q, S, L) of chosen parts of queries (B, Q, L, d) and supports (B, S, L, d)."""
    shares, others = (x / x.sum(-1, keepdim=True) for x in counts)
    means = torch.einsum("bqsl,bsld->bqsd", others, support)
    return mean_parts(shares, query, means, metric)


def of_classes(parts: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return (B, Q, N, L), the mean over each class's supports of (B, Q, S, L)."""
    flat = class_scores(parts.transpose(2, 3).flatten(1, 2), labels, n_way)  # (B, Q*L, N)
    return flat.view(*parts.shape[:2], parts.shape[3], n_way).transpose(2, 3)


def patch_evidence(name: str, weight: float, parts: Tensor, n_frames: int, grid: tuple[int, int]) -> Evidence:
    """Return the evidence of patches (B, Q, N, T*P); by frames where the patches are of several scales."""
    of_frames = parts.view(*parts.shape[:-1], n_frames, -1)
    score = parts.sum(-1)
    if of_frames.shape[-1] != grid[0] * grid[1]:
        return FrameScores(name=name, score=score, weight=weight, parts=of_frames.sum(-1))
    return PatchScores(name=name, score=score, weight=weight, parts=of_frames.view(*of_frames.shape[:-1], *grid))


def tuple_evidence(
    weight: float, parts: Tensor, pairs: tuple[Tensor, Tensor], n_frames: int, size: int, labels: Tensor
) -> TupleMatch:
    """Return the evidence of tuples: parts (B, Q, N, G), and the matched pairs, indices (B, Q, S, R) on both sides."""
    own, other = pairs
    n_batch, n_query, n_support, _ = own.shape
    n_tuples = parts.shape[-1]
    met = parts.new_zeros(n_batch, n_query, n_support, n_tuples**2)
    met.scatter_(3, own * n_tuples + other, 1.0)
    return TupleMatch(
        name=f"best tuples of {size} frames",
        score=parts.sum(-1),
        weight=weight,
        parts=parts,
        attention=met.view(*met.shape[:-1], n_tuples, n_tuples).transpose(2, 3),
        tuples=frame_tuples(n_frames, size),
        n_frames=n_frames,
        labels=labels,
    )
