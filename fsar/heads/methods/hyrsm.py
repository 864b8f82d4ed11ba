"""HyRSM: videos re-expressed in the light of the episode, then compared as sets of frames."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation, prototype_labels
from fsar.heads.explain.sensitivity import align, leave_frames_out
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.attention import SelfAttention, position_code, steep_sinusoid_table
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.functional import class_means, class_scores, hausdorff
from fsar.heads.layers.images import map_by_head
from fsar.heads.layers.option_checks import check_choice, check_position
from fsar.heads.layers.split_linear import block_linear


@dataclass(frozen=True, slots=True)
class Relation:
    """Supports and queries of an episode, each frame plus the token of its video in the relation of one query.

    The official code concatenates frame and token and applies one linear map; by linearity that is a sum of a part per
    frame and a part per token, and only these parts are kept: no tensor has Q x N x T frames of width D.
    """

    support_frames: Tensor
    """(B, N, T, D)"""
    support_tokens: Tensor
    """(B, Q, N, D): the tokens of the supports depend on the query they are related to."""
    query_frames: Tensor
    """(B, Q, T, D)"""
    query_tokens: Tensor
    """(B, Q, D)"""

    def distances(self) -> Tensor:
        """Return 1 - cosine of every support frame to every query frame, (B, Q, N, T, T)."""
        inner = paired_products(self.support_frames, self.query_frames)
        inner = inner + (self.support_tokens @ self.query_frames.transpose(-1, -2)).unsqueeze(-2)
        support_query = self.support_frames.flatten(1, 2) @ self.query_tokens.transpose(-1, -2)  # (B, N*T, Q)
        inner = inner + support_query.transpose(1, 2).view(*inner.shape[:-1], 1)
        inner = inner + (self.support_tokens * self.query_tokens.unsqueeze(2)).sum(-1)[..., None, None]
        mixed = self.support_tokens.transpose(1, 2) @ self.support_frames.transpose(-1, -2)  # (B, N, Q, T)
        own = self.support_frames.square().sum(-1).unsqueeze(1), self.support_tokens.square().sum(-1, keepdim=True)
        support_norms = own[0] + 2 * mixed.transpose(1, 2) + own[1]  # (B, Q, N, T)
        query_norms = (self.query_frames + self.query_tokens.unsqueeze(2)).square().sum(-1)  # (B, Q, T)
        scale = inverse_norm(support_norms).unsqueeze(-1) * inverse_norm(query_norms)[:, :, None, None]
        return 1 - inner * scale

    def support_gram(self) -> Tensor:
        """Return the inner products between the frames of each support, (B, Q, N, T, T)."""
        return self_products(self.support_frames.unsqueeze(1), self.support_tokens)

    def query_gram(self) -> Tensor:
        """Return the inner products between the frames of each query, (B, Q, T, T)."""
        return self_products(self.query_frames, self.query_tokens)


class EpisodeRelation(nn.Module):
    """Post-norm multi-head attention among the mean frames of the supports and ONE query, for every query at once."""

    def __init__(self, dim: int, *, heads: int, attention_dropout: float = 0.1, dropout: float = 0.05) -> None:
        super().__init__()
        self.heads = heads
        self.w_qs = nn.Linear(dim, dim, bias=False)
        self.w_ks = nn.Linear(dim, dim, bias=False)
        self.w_vs = nn.Linear(dim, dim, bias=False)
        self.fc = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim)
        self.attention_dropout = Dropout(attention_dropout)
        self.dropout = Dropout(dropout)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """Return tokens (B, Q, N+1, D), the query's last, for supports (B, N, D) and queries (B, Q, D).

        Supports are projected once for all queries, not once per query, and so is every value through its head's part
        of the last linear map: a token is then a weighted sum of N+1 mapped values per head.
        """
        return self.relate(self.project(torch.cat((support, query), 1)), support.shape[1])

    def project(self, rows: Tensor) -> Features:
        """Return what each video brings to the relation, linear in its mean frame (B, V, D): D wide, or (heads, D)."""
        mapped = map_by_head(self.w_vs(rows), self.fc.weight, self.heads)
        return {"mean": rows, "asked": self.w_qs(rows), "keys": self.w_ks(rows), "mapped": mapped}

    def relate(self, projected: Features, n_support: int) -> Tensor:
        """Return the tokens of projected supports and queries (B, N+Q, ...), supports first."""
        asked, keys = (self._split_heads(with_queries(projected[role], n_support)) for role in ("asked", "keys"))
        scores = asked @ keys.transpose(-1, -2) * asked.shape[-1] ** -0.5
        weights = self.attention_dropout(scores.softmax(-1))  # (B, Q, heads, N+1, N+1)
        joined = self._mixed(weights, projected["mapped"], n_support) + self.fc.bias
        related: Tensor = self.layer_norm(self.dropout(joined) + with_queries(projected["mean"], n_support))
        return related.relu()

    def _mixed(self, weights: Tensor, mapped: Tensor, n_support: int) -> Tensor:
        """Return mapped values summed over heads and tokens by weights (B, Q, heads, N+1, N+1): (B, Q, N+1, D)."""
        weights = weights.permute(0, 1, 3, 4, 2)  # (B, Q, N+1 asking, N+1 asked, heads)
        of_support = weights[..., :-1, :].flatten(3).flatten(1, 2) @ mapped[:, :n_support].flatten(1, 2)
        of_query = weights[..., -1, :] @ mapped[:, n_support:]
        return of_support.view_as(of_query) + of_query

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1).transpose(2, 3)


@register_head("hyrsm")
class HyRSM(TableHead):
    """Hybrid relation guided set matching.

    Wang et al., "Hybrid Relation Guided Set Matching for Few-shot Action Recognition", CVPR 2022,
    https://arxiv.org/abs/2204.13423. Frames attend to each other within a video; then the videos of the episode attend
    to each other, and what each learns about the others is mixed into its frames. Support and query are compared as
    sets of frames, each frame with its nearest in the other video (bidirectional mean Hausdorff metric, as sums).

    Any number of frames works (officially at most 20), and the class loss is per episode as all losses here.
    """

    paper = (
        "Wang et al., Hybrid Relation Guided Set Matching for Few-shot Action Recognition, CVPR 2022, "
        "https://arxiv.org/abs/2204.13423"
    )

    old_options = MappingProxyType({"heads": "n_heads"})

    def __init__(
        self,
        *,
        dim: int,
        n_heads: int = 8,
        relate: Literal["prototypes", "videos"] = "prototypes",
        position: tuple[float, float] | None = (10.0, 1.0),
        dropout: float = 0.1,
        n_classes: int | None = None,
        class_weight: float = 0.6,
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            n_heads: Attention heads of both attentions.
            relate: What stands for a class in the relation: the mean of its encoded videos (every released many-shot
                config), or each video, with distances averaged (the official 1-shot class). Equal at one shot.
            position: (A, B): frames enter as sqrt(D / A) times the feature plus B times the position code; None for
                the feature alone.
            dropout: Of the frames with their position code.
            n_classes: Number of training classes; None for no class loss.
            class_weight: Of the class loss per frame (published: 0.05 to 0.6, by data set).
        """
        super().__init__()
        self.temporal_atte_before = SelfAttention(dim, heads=n_heads)
        self.temporal_atte = EpisodeRelation(dim, heads=n_heads)
        self.layer2 = nn.Linear(2 * dim, dim)
        self.classification_layer = None if n_classes is None else nn.Linear(dim, n_classes)
        self.relate_videos = check_choice("relate", relate, ("prototypes", "videos")) == "videos"
        self.position = None if position is None else check_position(position)
        self.position_dropout = Dropout(dropout)
        self.class_weight = class_weight

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and, with a class loss, "class_logits" (B, S+Q, T, C), supports first."""
        support, query = self.encode_episode(batch)
        relation, labels = self.relate(batch, support, query)
        logits = -class_scores(hausdorff(relation.distances()), labels, batch.n_way)
        return {"logits": logits} | self.class_outputs(support, query)

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return all that a video brings to any episode: its frames through `layer2`, (..., T, D), and its projections.

        All of it is linear in the encoded frames, so means over a class may be taken afterwards.
        """
        encoded = self.encode(features["frames"])
        frames = F.linear(encoded, self.layer2.weight.chunk(2, 1)[0])
        return {"frames": frames} | self.temporal_atte.project(encoded.mean(-2))

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N) of embedded videos; a training, which has losses besides, goes through `outputs`."""
        support, labels = dict(episodes.support), episodes.support_labels
        if not self.relate_videos:
            support = {role: class_means(x, labels, episodes.n_way) for role, x in support.items()}
            labels = prototype_labels(support["frames"], episodes.n_way)
        rows = {
            role: torch.cat((support[role], episodes.query[role]), 1) for role in ("mean", "asked", "keys", "mapped")
        }
        tokens = self.temporal_atte.relate(rows, labels.shape[1])
        tokens = F.linear(tokens, self.layer2.weight.chunk(2, 1)[1], self.layer2.bias)
        relation = Relation(support["frames"], tokens[:, :, :-1], episodes.query["frames"], tokens[:, :, -1])
        return {"logits": -class_scores(hausdorff(relation.distances()), labels, episodes.n_way)}

    def relate(self, batch: EpisodeBatch, support: Tensor, query: Tensor) -> tuple[Relation, Tensor]:
        """Return the relation of encoded queries with supports, or with class means, and the labels (B, R) of those."""
        if self.relate_videos:
            return self.relation(support, query), batch.support_labels
        prototypes = class_means(support, batch.support_labels, batch.n_way)
        return self.relation(prototypes, query), prototype_labels(prototypes, batch.n_way)

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return which frames of a query and of the supports, or prototypes, are nearest to each other.

        Every frame carries the relation of its whole video to the others by then: which frame of the query mattered is
        told by leaving frames out.
        """
        relation, labels = self.relate(batch, *self.encode_episode(batch))
        distance = relation.distances().transpose(-1, -2)  # query frames first
        nearest = align("nearest frames", distance, labels, batch.n_way, hausdorff, exact=True)
        return Explanation(self(batch), (nearest,), frames=leave_frames_out(self, batch, weight=0.0))

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification", the per-frame "classes" loss if the head has it, and "total"."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        if self.classification_layer is None or not self.class_weight:
            return {"classification": classification, "total": classification}
        classes = frame_class_loss(outputs["class_logits"], targets)
        total = classification + self.class_weight * classes
        return {"classification": classification, "classes": classes, "total": total}

    def encode(self, frames: Tensor) -> Tensor:
        """Return frames (..., T, D) after attending to each other."""
        if self.position is not None:
            shrink, weight = self.position
            code = position_code(steep_sinusoid_table, frames)
            frames = self.position_dropout((frames.shape[-1] / shrink) ** 0.5 * frames + weight * code)
        encoded: Tensor = self.temporal_atte_before(frames)
        return encoded.relu()

    def encode_episode(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return encoded supports (B, S, T, D) and queries (B, Q, T, D), in one go: large weights, one gradient."""
        encoded = self.encode(torch.cat((batch.support["frames"], batch.query["frames"]), 1))
        n_support = batch.support_labels.shape[1]
        return encoded[:, :n_support], encoded[:, n_support:]

    def relation(self, support: Tensor, query: Tensor) -> Relation:
        """Return the re-expressed supports (B, N, T, D) and queries (B, Q, T, D)."""
        tokens = self.temporal_atte(support.mean(2), query.mean(2))  # (B, Q, N+1, D)
        frames, n_support = torch.cat((support, query), 1), support.shape[1]
        parts = block_linear(self.layer2.weight, frames.flatten(0, -2), tokens.flatten(0, -2))
        frames, tokens = parts[0].view(frames.shape), (parts[1] + self.layer2.bias).view(tokens.shape)
        return Relation(frames[:, :n_support], tokens[:, :, :-1], frames[:, n_support:], tokens[:, :, -1])

    def class_outputs(self, support: Tensor, query: Tensor) -> Outputs:
        """Return the class logits of encoded frames, or nothing without a class loss."""
        if self.classification_layer is None:
            return {}
        return {"class_logits": self.classification_layer(torch.cat((support, query), 1))}


def with_queries(rows: Tensor, n_support: int) -> Tensor:
    """Return (B, Q, N+1, D): each query behind all supports, from rows (B, N+Q, D) that hold supports first."""
    query = rows[:, n_support:].unsqueeze(2)
    support = rows[:, :n_support].unsqueeze(1).expand(-1, query.shape[1], -1, -1)
    return torch.cat((support, query), 2)


def paired_products(a: Tensor, b: Tensor) -> Tensor:
    """Return <a_nt, b_qu> for a (B, N, T, D) and b (B, Q, U, D): (B, Q, N, T, U)."""
    product = b.flatten(1, 2) @ a.flatten(1, 2).transpose(1, 2)  # (B, Q*U, N*T)
    return product.view(len(a), *b.shape[1:3], *a.shape[1:3]).permute(0, 1, 3, 4, 2)


def self_products(frames: Tensor, tokens: Tensor) -> Tensor:
    """Return <f_i + t, f_j + t> for frames (..., T, D) and tokens (..., D): (..., T, T)."""
    inner = frames @ frames.transpose(-1, -2)
    mixed = (frames @ tokens.unsqueeze(-1)).squeeze(-1)  # (..., T)
    own = tokens.square().sum(-1)[..., None, None]
    return inner + mixed.unsqueeze(-1) + mixed.unsqueeze(-2) + own


def inverse_norm(squared: Tensor) -> Tensor:
    """Return 1 / max(norm, 1e-12) from squared norms, which rounding may have made negative."""
    return squared.clamp(min=1e-24).rsqrt()


def frame_class_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Return the mean cross entropy of class logits per frame (B, S+Q, T, C)."""
    assert targets.support_class_ids is not None
    assert targets.query_class_ids is not None
    ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)  # (B, S+Q)
    return F.cross_entropy(logits.flatten(0, 2), ids.unsqueeze(-1).expand(logits.shape[:3]).flatten())
