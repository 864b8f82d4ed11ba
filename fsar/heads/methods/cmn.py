"""CMN without its memory: a video as one vector, by the distances of its frames to hidden vectors."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.functional import class_means, squared_distances
from fsar.heads.layers.option_checks import check_choice, check_positive

OFFICIAL_START = 1e-8


@register_head("cmn")
class CMN(TableHead):
    """Embed a video by multi-saliency: what its frames differ in from a few hidden vectors; nearest class mean wins.

    The embedding of Zhu and Yang, "Compound Memory Networks for Few-shot Video Classification", ECCV 2018, as
    re-implemented for Zhu et al., "A Closer Look at Few-Shot Video Classification", BMVC 2021,
    https://arxiv.org/abs/2110.12358. The key-value memory of the 2018 paper is not part of it, here or there.

    The released start, all hidden vectors equal, gives every hidden vector the same gradient for ever, so that as
    released the method trains a linear map of the mean frame. Here they start at random; `compat="official"` keeps the
    constant.
    """

    embeds_in_one_go = True
    paper = (
        "Zhu and Yang, Compound Memory Networks for Few-shot Video Classification, ECCV 2018; without the memory, "
        "after Zhu et al., BMVC 2021, https://arxiv.org/abs/2110.12358"
    )

    def __init__(self, *, dim: int, n_hidden: int = 8, compat: Literal["fixed", "official"] = "fixed") -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            n_hidden: Hidden vectors J.
            compat: "official" starts all hidden vectors alike.
        """
        super().__init__()
        check_positive("n_hidden", n_hidden)
        alike = check_choice("compat", compat, ("fixed", "official")) == "official"
        start = torch.full((n_hidden, dim), OFFICIAL_START) if alike else torch.randn(n_hidden, dim) / math.sqrt(dim)
        self.hidden = nn.Parameter(start)
        self.fc = nn.Linear(n_hidden * dim, dim)
        nn.init.zeros_(self.fc.bias)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(dim).repeat(1, n_hidden))

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return one vector a video, "video" (..., D)."""
        frames = features["frames"]
        spread = (frames @ self.hidden.t() / math.sqrt(frames.shape[-1])).softmax(-1)  # (..., T, J)
        rest = spread.transpose(-1, -2) @ frames - spread.sum(-2).unsqueeze(-1) * self.hidden  # (..., J, D)
        return {"video": self.fc(F.normalize(rest, dim=-1).flatten(-2))}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N): minus the squared distance to the mean of each class."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        prototypes = class_means(support["video"], labels, n_way)
        return {"logits": -squared_distances(query["video"], prototypes)}
