"""Ordered temporal alignment."""

import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.explain.evidence import Explanation
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.adapters import AdapterName, make_adapter
from fsar.heads.layers.functional import MAX_COSINE_DISTANCE, class_scores, frame_distances, two_way_alignment


@register_head("otam")
class OTAM(TableHead):
    """Score a query by the cost of aligning its frames, in order, with those of each support video.

    Cao et al., "Few-Shot Video Classification via Temporal Alignment", CVPR 2020, https://arxiv.org/abs/1906.11415. The
    cost is a soft minimum over monotone paths through the matrix of frame distances (1 - cosine, 0.01 added to the
    product of norms); ends may be skipped freely. The paper's authors published no code: this is the recursion of the
    two public code bases (plain sums in the first row), taken in both directions and averaged over the videos of a
    class.

    It differs in one way: soft minima are computed by log-sum-exp. The public code overflows to infinity where
    distances pass about 10 in sum (16 orthogonal frames, or 8 frames at distance 1.4); elsewhere the results agree.
    """

    paper = (
        "Cao et al., Few-Shot Video Classification via Temporal Alignment, CVPR 2020, https://arxiv.org/abs/1906.11415"
    )

    def __init__(
        self,
        *,
        dim: int | None = None,
        smoothing: float = 0.1,
        adapter: AdapterName = "none",
        dropout: float = 0.1,
    ) -> None:
        """Build the head.

        Args:
            dim: Width of the features; only an adapter needs it.
            smoothing: The lambda of the soft minimum.
            adapter: Learned layers in front: none, linear, mlp or temporal.
            dropout: Of the adapter.
        """
        super().__init__()
        if smoothing <= 0:
            raise InputError(f"smoothing must be positive, got {smoothing}")
        self.adapter = make_adapter(adapter, dim, dropout)
        self.smoothing = smoothing

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the adapted frames, "frames" (..., T, D)."""
        return {"frames": self.adapter(features["frames"])}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        distance = frame_distances(query["frames"], support["frames"])
        cost = two_way_alignment(distance, self.smoothing, MAX_COSINE_DISTANCE)  # (B, Q, S)
        return {"logits": -class_scores(cost, labels, n_way)}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the share of the alignment paths that pass each pair of a query's and a support's frames."""
        query, support = (self.embed(side)["frames"] for side in (batch.query, batch.support))
        paths = align(
            "ordered frame alignment",
            frame_distances(query, support),
            batch.support_labels,
            batch.n_way,
            lambda distance: two_way_alignment(distance, self.smoothing, MAX_COSINE_DISTANCE),
            exact=False,
        )
        return Explanation(self(batch), (paths,))
