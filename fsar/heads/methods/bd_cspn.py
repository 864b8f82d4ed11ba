"""BD-CSPN: prototypes made again with the queries, which are moved to where the supports are."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.functional import class_means


@register_head("bd-cspn")
class BDCSPN(TableHead):
    """Take queries for members of the class that they are nearest to, and average them into its prototype.

    Liu, Song, Qin, "Prototype Rectification for Few-Shot Learning", ECCV 2020, https://arxiv.org/abs/1911.10713, on
    mean frames. Queries are moved by the difference of the means of supports and queries; every video counts with the
    exponential of its cosine to the first prototype. The answer is the cosine of the unmoved query to the new
    prototype, as in easyfsl. A single query stays where it is, unlike there: the difference of means would put it into
    the middle of the supports, whatever it shows.

    Transductive: the answer for one query depends on the others, on how many there are and on how the classes are
    mixed among them. Say the number of queries beside any number.
    """

    inductive = False
    paper = "Liu et al., Prototype Rectification for Few-Shot Learning, ECCV 2020, https://arxiv.org/abs/1911.10713"

    def __init__(self, *, normalise: bool = True) -> None:
        """Build the head.

        Args:
            normalise: Scale mean frames to unit length first.
        """
        super().__init__()
        self.normalise = normalise

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the mean frame, "video" (..., D)."""
        video = features["frames"].mean(-2)
        return {"video": F.normalize(video, dim=-1) if self.normalise else video}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), cosines, and the new "prototypes" (B, N, D)."""
        prototypes = self.rectified(episodes)
        return {"logits": cosines(episodes.query["video"], prototypes), "prototypes": prototypes}

    def rectified(self, episodes: EpisodeBatch) -> Tensor:
        """Return the prototypes (B, N, D) that the queries have taken part in."""
        known, asked = episodes.support["video"], episodes.query["video"]
        labels, n_way = episodes.support_labels, episodes.n_way
        prototypes = class_means(known, labels, n_way)
        alone = asked.shape[1] == 1
        moved = asked if alone else asked + known.mean(1, keepdim=True) - asked.mean(1, keepdim=True)
        closeness = cosines(moved, prototypes)
        members = torch.cat((labels, closeness.argmax(-1)), 1)  # (B, S + Q)
        videos = torch.cat((known, moved), 1)
        shares = torch.cat((cosines(known, prototypes), closeness), 1).exp()
        shares = shares * F.one_hot(members, n_way).to(shares.dtype)  # (B, S + Q, N)
        return (shares / shares.sum(1, keepdim=True)).transpose(1, 2) @ videos


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of every pair of a (B, L, D) and b (B, M, D), (B, L, M)."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)
