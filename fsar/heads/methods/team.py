"""TEAM: videos summed up by a few learned pattern tokens, compared without aligning their frames."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.attention import position_code, sinusoid_table
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_choice, check_positive

POSITION_SCALE = 0.1
COSINE_EPS = 1e-8


@register_head("team")
class TEAM(TableHead):
    """Compare what pattern tokens find in a query, and what they do not find, with the patterns of each class.

    Lee et al., "Temporal Alignment-Free Video Matching for Few-shot Action Recognition", CVPR 2025,
    https://arxiv.org/abs/2504.05956. A learned tokens attend to the frames of a video; added to what they find they
    are its instance pattern, taken from it its exclusive pattern. A class's patterns are changed, token by token, by
    how alike it is to each other class of the episode. A query's score is minus its distance to the class's instance
    pattern, and minus how near it comes to the nearest other class.

    The frames of a class are averaged over its supports before tokens attend to them, whatever their number, which the
    official code asks to be equal. Nothing else differs.
    """

    paper = (
        "Lee et al., Temporal Alignment-Free Video Matching for Few-shot Action Recognition, CVPR 2025, "
        "https://arxiv.org/abs/2504.05956"
    )

    def __init__(
        self,
        *,
        dim: int,
        n_tokens: int = 60,
        adapt: Literal["similarity", "plain", "none"] = "similarity",
        score: Literal["both", "positive", "negative"] = "both",
        dropout: float = 0.1,
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features; even, 8 or more.
            n_tokens: Pattern tokens A. Published: 50 to 80, see the recipes.
            adapt: How class patterns see the other classes: weighed by token-wise similarity (the paper), with weight
                one ("plain"), or not at all.
            score: Which distances rank the classes in evaluation; the loss uses both, but for "positive" that alone.
            dropout: On frames, attention weights and attended tokens.
        """
        super().__init__()
        if dim % 2 or dim < 8:
            raise InputError(f"dim must be even and 8 or more for team, got {dim}")
        self.tokens = nn.Parameter(torch.randn(check_positive("n_tokens", n_tokens), dim))
        self.norm = nn.LayerNorm(dim)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.scale = 1 / math.sqrt(dim // 8)
        self.adapt = check_choice("adapt", adapt, ("similarity", "plain", "none"))
        self.score = check_choice("score", score, ("both", "positive", "negative"))

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return "found" (..., A, D), what the tokens attend to, its "inner" image, and "instance" and "exclusive".

        `inner`, the first map of the patterns, is linear, and every pattern of an episode starts from a sum of such
        parts: it is done once for each of them.
        """
        frames = features["frames"]
        frames = self.norm(self.dropout(frames + POSITION_SCALE * position_code(sinusoid_table, frames)))
        weights = (self.scale * self.norm(self.tokens) @ frames.transpose(-1, -2)).softmax(-1)  # (..., A, T)
        found = self.dropout(self.dropout(weights) @ frames)
        start, inner = self.inner(self.tokens), F.linear(found, self.inner.weight)
        return {
            "found": found,
            "inner": inner,
            "instance": self._refine(self.tokens + found, start + inner),
            "exclusive": self._refine(self.tokens - found, start - inner),
        }

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Average each class frame by frame, embed classes and queries, match."""
        classes = class_means(batch.support["frames"], batch.support_labels, batch.n_way)
        averaged = batch.with_prototypes({"frames": classes})
        return self.match(averaged.embedded(self.embed(averaged.support), self.embed(batch.query)))

    def embeds_alone(self, n_shot: int) -> bool:
        """Tell whether supports can be embedded one by one: classes of several are averaged first."""
        return n_shot == 1

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits", and their parts "positive" and "negative", (B, Q, N); one support a class.

        Also the class patterns "class_instance" and "class_exclusive" (B, N, A, D).
        """
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        if n_way < 2:
            raise InputError("team compares each class with the others: an episode needs 2 classes or more")
        order = labels.argsort(1)[..., None, None]
        classes = {role: x.gather(1, order.expand_as(x)) for role, x in support.items()}
        instance, exclusive = self._adapted(classes, n_way)
        positive = distances(query["instance"], instance)
        missed = nearest_other(distances(query["exclusive"], instance))
        negative = (missed + nearest_other(distances(query["instance"], exclusive))) / 2
        parts = {"positive": -positive, "negative": -negative}
        logits = -positive - negative if self.score == "both" else parts[self.score]
        return {"logits": logits, **parts, "class_instance": instance, "class_exclusive": exclusive}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the cross entropies of both parts, each with a softmax of its own, and their sum."""
        used = ("positive",) if self.score == "positive" else ("positive", "negative")
        terms = {name: cross_entropy(outputs[name], targets.query_labels) for name in used}
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _refine(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Return the patterns of tokens (..., A, D) whose images under `inner` are `hidden`."""
        return F.relu(tokens + self.outer(F.relu(hidden)))

    def _adapted(self, classes: Features, n_way: int) -> tuple[Tensor, Tensor]:
        """Return the instance and exclusive patterns of classes (B, N, A, D) in the light of the other classes."""
        if self.adapt == "none":
            return classes["instance"], classes["exclusive"]
        others = other_classes(n_way, classes["found"].device)  # (N, N - 1)
        alike, unlike = (self._similarity(classes[role], others) for role in ("instance", "exclusive"))
        return self._mean_pattern(classes, 1, -alike, others), self._mean_pattern(classes, -1, unlike, others)

    def _similarity(self, patterns: Tensor, others: Tensor) -> Tensor:
        if self.adapt == "plain":
            return patterns.new_ones(())
        unit = F.normalize(patterns, dim=-1, eps=COSINE_EPS)
        return (unit.unsqueeze(2) * unit[:, others]).sum(-1, keepdim=True)  # (B, N, N - 1, A, 1)

    def _mean_pattern(self, classes: Features, sign: int, weight: Tensor, others: Tensor) -> Tensor:
        """Return the mean over the others of the patterns of tokens + sign * found + weight * (their found - found).

        (B, N, A, D).
        """
        tokens, hidden = (
            (start + sign * x).unsqueeze(2) + weight * (x[:, others] - x.unsqueeze(2))
            for start, x in ((self.tokens, classes["found"]), (self.inner(self.tokens), classes["inner"]))
        )
        return self._refine(tokens, hidden).mean(2)


def other_classes(n_way: int, device: torch.device) -> Tensor:
    """Return for each class the indices of the others, ascending, (N, N - 1)."""
    index = torch.arange(n_way - 1, device=device).expand(n_way, -1)
    return index + (index >= torch.arange(n_way, device=device).unsqueeze(1))


def distances(query: Tensor, classes: Tensor) -> Tensor:
    """Return the sum over tokens of 1 - cosine, for query (B, Q, A, D) and classes (B, N, A, D): (B, Q, N)."""
    unit_query, unit_classes = (F.normalize(x, dim=-1, eps=COSINE_EPS).flatten(2) for x in (query, classes))
    return query.shape[2] - unit_query @ unit_classes.transpose(1, 2)


def nearest_other(distance: Tensor) -> Tensor:
    """Return for each class the largest distance (B, Q, N) to any other class, which marks the query as its own."""
    others = other_classes(distance.shape[-1], distance.device)
    return distance[..., others].amax(-1)
