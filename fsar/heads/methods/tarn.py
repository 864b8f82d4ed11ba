"""TARN: each segment of a query attends to a support, and a recurrent network judges the differences."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Losses, Outputs, TableHead, register_head
from fsar.heads.layers.functional import class_scores
from fsar.heads.layers.option_checks import check_choice, check_positive

COSINE_EPS = 1e-6


@register_head("tarn")
class TARN(TableHead):
    """Relate a query to each support video: attention aligns their segments, a GRU compares the aligned pairs.

    Bishay, Zoumpourlis, Patras, "TARN: Temporal Attentive Relation Network for Few-Shot and Zero-Shot Action
    Recognition", BMVC 2019, https://arxiv.org/abs/1907.09021. No official code is known: the vectors that this head is
    checked against come from an unofficial one, Seleucia/TARN. A class is scored by the mean relation to its supports,
    a probability.

    That code's attention weights sum to one over the query's segments, not over the support's, as the paper reads:
    `axis="support"` gives the paper's. It trains on pairs; here all pairs of an episode are used, positives and
    negatives averaged apart as there.
    """

    paper = (
        "Bishay et al., TARN: Temporal Attentive Relation Network for Few-Shot and Zero-Shot Action Recognition, "
        "BMVC 2019, https://arxiv.org/abs/1907.09021"
    )

    def __init__(
        self,
        *,
        dim: int,
        hidden: int = 256,
        judge_hidden: int = 256,
        compare: Literal["euclidean-cosine", "product", "difference"] = "euclidean-cosine",
        axis: Literal["query", "support"] = "query",
        loss: Literal["pairs", "episode"] = "pairs",
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            hidden: Width H of each direction of the segments' GRU.
            judge_hidden: Width of the GRU over aligned segments.
            compare: What is told of an aligned pair: cosine and distance, or the product or difference of the vectors.
            axis: Segments over which attention weights sum to one.
            loss: Binary cross entropy of all pairs, or cross entropy over the classes of the episode.
        """
        super().__init__()
        check_positive("hidden", hidden)
        self.compare = check_choice("compare", compare, ("euclidean-cosine", "product", "difference"))
        self.softmax_dim = -1 if check_choice("axis", axis, ("query", "support")) == "query" else -2
        self.per_pair = check_choice("loss", loss, ("pairs", "episode")) == "pairs"
        self.segments = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 2 * hidden)
        nn.init.ones_(self.attention.bias)
        width = 2 if compare == "euclidean-cosine" else 2 * hidden
        self.judge = nn.GRU(width, check_positive("judge_hidden", judge_hidden), batch_first=True)
        self.fc = nn.Linear(judge_hidden, 1)

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the segments in the light of the whole video, "segments" (..., T, 2H)."""
        frames = features["frames"]
        states, _ = self.segments(frames.flatten(0, -3))
        return {"segments": states.view(*frames.shape[:-1], -1)}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), probabilities, and "relation" (B, Q, S), a pair's score before the sigmoid."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        keys, segments = support["segments"], query["segments"]
        scores = torch.einsum("bsth,bquh->bqstu", self.attention(keys), segments)  # (B, Q, S, T, U)
        weights = scores.softmax(self.softmax_dim)
        aligned = torch.einsum("bqstu,bsth->bqsuh", weights, keys)  # (B, Q, S, U, 2H)
        pairs = self._compared(segments.unsqueeze(2).expand_as(aligned), aligned)
        _, last = self.judge(pairs.flatten(0, 2))
        relation = self.fc(last[0]).view(pairs.shape[:3])
        return {"logits": class_scores(relation.sigmoid(), labels, n_way), "relation": relation}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the loss of "positive" and "negative" pairs, or the cross entropy over classes."""
        if not self.per_pair:
            relation = class_scores(outputs["relation"], batch.support_labels, batch.n_way)
            total = F.cross_entropy(relation.flatten(0, 1), targets.query_labels.flatten())
            return {"classification": total, "total": total}
        same = targets.query_labels.unsqueeze(2) == batch.support_labels.unsqueeze(1)  # (B, Q, S)
        positive, negative = (
            (F.softplus(sign * outputs["relation"]) * mask).sum() / mask.sum().clamp(min=1)
            for sign, mask in ((-1, same), (1, ~same))
        )
        return {"positive": positive, "negative": negative, "total": positive + negative}

    def _compared(self, query: Tensor, aligned: Tensor) -> Tensor:
        if self.compare == "product":
            return query * aligned
        if self.compare == "difference":
            return query - aligned
        cosine = F.cosine_similarity(query, aligned, dim=-1, eps=COSINE_EPS)
        # A distance of zero has no gradient of its own: the smallest positive number stands in for it.
        distance = (query - aligned).square().sum(-1).clamp(min=torch.finfo(query.dtype).tiny).sqrt()
        return torch.stack((cosine, distance), -1)
