"""Prototypical networks on mean-pooled videos."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.adapters import AdapterName, make_adapter
from fsar.heads.layers.functional import class_means, squared_distances
from fsar.heads.layers.option_checks import check_choice
from fsar.heads.layers.running_mean import RunningMean


@register_head("proto")
class Proto(TableHead):
    """Score a query by its closeness to the mean of each class.

    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", NIPS 2017, https://arxiv.org/abs/1703.05175.
    A video is the mean of its frames, a class the mean of its videos. The scale of the logits is learned, which the
    paper does not have: features come from a frozen backbone, so nothing else could set the temperature.

    `centre=train normalise=true` is CL2N of Wang et al., "SimpleShot", 2019, https://arxiv.org/abs/1911.04623: the
    mean of the training videos is taken from every video, and what is left is scaled to unit length.
    """

    paper = "Snell et al., Prototypical Networks for Few-shot Learning, NIPS 2017, https://arxiv.org/abs/1703.05175"

    def __init__(
        self,
        *,
        dim: int | None = None,
        metric: Literal["cosine", "euclidean"] = "cosine",
        adapter: AdapterName = "none",
        dropout: float = 0.1,
        centre: Literal["none", "train"] = "none",
        normalise: bool = False,
    ) -> None:
        """Build the head.

        Args:
            dim: Width of the features; only an adapter and a centre need it.
            metric: "cosine", or "euclidean" for minus the squared distance per channel.
            adapter: Learned layers in front: none, linear, mlp or temporal.
            dropout: Of the adapter.
            centre: "train" takes the mean of the videos seen in training from every video.
            normalise: Scale every video to unit length before classes are averaged.
        """
        super().__init__()
        if check_choice("centre", centre, ("none", "train")) == "train" and dim is None:
            raise InputError("centre=train needs dim, the width of the features")
        self.centre = RunningMean(dim) if centre == "train" and dim is not None else nn.Identity()
        self.normalise = normalise
        self.adapter = make_adapter(adapter, dim, dropout)
        self.metric = check_choice("metric", metric, ("cosine", "euclidean"))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the mean frame, "video" (..., D)."""
        video = self.centre(self.adapter(features["frames"]).mean(-2))
        return {"video": F.normalize(video, dim=-1) if self.normalise else video}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        prototypes = class_means(support["video"], labels, n_way)
        if self.metric == "cosine":
            closeness = F.normalize(query["video"], dim=-1) @ F.normalize(prototypes, dim=-1).transpose(-1, -2)
        else:
            closeness = -squared_distances(query["video"], prototypes) / prototypes.shape[-1]
        return {"logits": self.log_scale.exp() * closeness}
