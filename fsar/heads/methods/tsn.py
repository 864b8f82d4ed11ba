"""The mean-pooled baseline: no order, no parameters."""

from typing import Literal

from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.adapters import AdapterName, make_adapter
from fsar.heads.layers.functional import class_means, class_scores, offset_cosine, squared_distances
from fsar.heads.layers.option_checks import check_choice


@register_head("tsn")
class TSN(TableHead):
    """Compare videos by the mean of their frames.

    Wang et al., "Temporal Segment Networks", ECCV 2016, https://arxiv.org/abs/1608.00859, as few-shot papers use it for
    a
    baseline: a query is as close to a class as its mean frame is, on average, to the mean frames of the class's videos.
    It cannot see the order of frames, which is its use: what a head gains over it, it gains by time.

    Two code bases publish the "cosine" form, one with mean squared distance to the class mean as an alternative
    ("euclidean"). Both divide cosines by the product of norms plus 0.01 and use no temperature. That makes logits lie
    in [-1, 1]; with an adapter, `scale` sharpens the softmax of the loss (the published heads have scale 1).
    """

    paper = "Wang et al., Temporal Segment Networks, ECCV 2016, https://arxiv.org/abs/1608.00859"

    def __init__(
        self,
        *,
        dim: int | None = None,
        metric: Literal["cosine", "euclidean"] = "cosine",
        adapter: AdapterName = "none",
        dropout: float = 0.1,
        scale: float | None = None,
    ) -> None:
        """Build the head.

        Args:
            dim: Width of the features; only an adapter needs it.
            metric: "cosine": mean cosine to the class's videos; "euclidean": minus squared distance to their mean.
            adapter: Learned layers in front: none, linear, mlp or temporal.
            dropout: Of the adapter.
            scale: Factor of the logits; None for 1 without and 16 with an adapter.
        """
        super().__init__()
        self.adapter = make_adapter(adapter, dim, dropout)
        self.metric = check_choice("metric", metric, ("cosine", "euclidean"))
        self.scale = scale if scale is not None else (1.0 if adapter == "none" or metric == "euclidean" else 16.0)

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the mean frame, "video" (..., D)."""
        return {"video": self.adapter(features["frames"]).mean(-2)}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        if self.metric == "cosine":
            cosine = offset_cosine(query["video"], support["video"])  # (B, Q, S)
            logits = class_scores(cosine, labels, n_way)
        else:
            prototypes = class_means(support["video"], labels, n_way)
            logits = -squared_distances(query["video"], prototypes)
        return {"logits": self.scale * logits}
