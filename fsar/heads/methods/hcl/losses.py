"""The contrastive losses of HCL over a batch in which rows 2i and 2i+1 show the same class."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.methods.hcl import matching


def partners(n_videos: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the row of each video's partner, (V,): 1, 0, 3, 2, ..."""
    return torch.arange(n_videos, device=device) ^ 1


def contrast(scores: Tensor, temperature: float, *, count_self: bool = False) -> Tensor:
    """Return the contrastive loss of each video, (V,), from scores (V, V): its partner against all others.

    A video's score with itself is left out; with `count_self` it is zeroed instead, as in the released code, so that
    exp(0) = 1 stays in the denominator.
    """
    on_diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = (scores / temperature).masked_fill(on_diagonal, 0.0 if count_self else -torch.inf)
    return F.cross_entropy(scores, partners(len(scores), scores.device), reduction="none")


def cycle(parts: Tensor, partner_parts: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return the cycle loss of each video, (V,): going to the partner's parts and back must end where it began.

    Each part (V, L, d) is rebuilt from the partner's parts (V, M, d), weighted by the softmax of its scores (V, L, M),
    and must then be nearest to itself among the video's own parts.
    """
    rebuilt = scores.softmax(-1) @ partner_parts
    back = rebuilt @ parts.transpose(1, 2) / temperature  # (V, L, L)
    here = torch.arange(parts.shape[1], device=parts.device).expand(len(parts), -1)
    return F.cross_entropy(back.transpose(1, 2), here, reduction="none").mean(1)


@dataclass(frozen=True, slots=True)
class MatchedVideos:
    """V videos, each matched with each: their parts at the temporal and the spatial level, and which tuples met."""

    tuples: Tensor
    """(V, G, d) unit vectors."""
    patches: Tensor
    """(V, T, P, d) unit vectors."""
    frames: Tensor
    """(G, t) frames of each tuple."""
    own: Tensor
    """(V, V, R) tuples of video i, best first, when it is matched with video j."""
    other: Tensor
    """(V, V, R) their partners among the tuples of video j."""

    @classmethod
    def match(cls, tuples: Tensor, patches: Tensor, cardinality: int, n_tuples: int) -> "MatchedVideos":
        """Match the tuples (V, G, d) of all videos and keep the `n_tuples` best of each pair."""
        own, other = matching.rank_tuples(tuples[None], tuples[None], n_tuples)
        return cls(
            tuples, patches, matching.frame_tuples(patches.shape[1], cardinality, patches.device), own[0], other[0]
        )

    def temporal_scores(self) -> Tensor:
        """Return (V, V): dot products of the means of the matched tuples."""
        n_tuples = self.tuples.shape[1]
        counts = matching.count(self.own[None], n_tuples), matching.count(self.other[None], n_tuples)
        return matching.pooled_similarity(counts, self.tuples[None], self.tuples[None])[0]

    def temporal_cycle(self, temperature: float) -> Tensor:
        """Return the cycle loss over tuples of each video and its partner, (V,)."""
        theirs = self.tuples[partners(len(self.tuples), self.tuples.device)]
        return cycle(self.tuples, theirs, self.tuples @ theirs.transpose(1, 2), temperature)

    def spatial_scores(self, n_keep: int, row_weights: Tensor | None, patch_weights: Tensor | None) -> Tensor:
        """Return (V, V): dot products of the means of the matched patches inside the best pair of tuples."""
        weighted = self.patches if patch_weights is None else self.patches * patch_weights.unsqueeze(-1)
        counts = matching.choose_patches(
            self.patches[None],
            weighted[None],
            self.frames[self.own[None, :, :, :1]],
            self.frames[self.other[None, :, :, :1]],
            n_keep,
            None if row_weights is None else row_weights[None, :, None, None],
        )
        parts = self.patches.flatten(1, 2)[None]
        return matching.pooled_similarity(counts, parts, parts)[0]

    def spatial_cycle(self, temperature: float, row_weights: Tensor | None, patch_weights: Tensor | None) -> Tensor:
        """Return the cycle loss over the patches of the best tuples of each video and its partner, (V,)."""
        theirs = partners(len(self.tuples), self.tuples.device)
        here = torch.arange(len(theirs), device=theirs.device)
        own_frames, other_frames = (self.frames[best[here, theirs, 0]] for best in (self.own, self.other))
        mine = take_frames(self.patches, own_frames)
        partner = take_frames(self.patches[theirs], other_frames)
        scores = mine @ partner.transpose(1, 2)
        if row_weights is not None:
            scores = scores * row_weights.unsqueeze(2)
        if patch_weights is not None:
            scores = scores * take_frames(patch_weights[theirs], other_frames).unsqueeze(1)
        return cycle(mine, partner, scores, temperature)

    def anchor_patches(self, anchors: Tensor) -> Tensor:
        """Return the patches (V, t*P, d) in one tuple (V,) of each video."""
        return take_frames(self.patches, self.frames[anchors])


def take_frames(x: Tensor, frames: Tensor) -> Tensor:
    """Return the patches of some frames: x (V, T, P, ...) at frames (V, t) -> (V, t*P, ...)."""
    rows = torch.arange(len(x), device=x.device).unsqueeze(1)
    return x[rows, frames].flatten(1, 2)
