"""CLIP-FSAR: class text as an extra token of the support videos, soft alignment of frames."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation, FrameScores, Link, mean_cosine_frames, prototype_labels
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Losses, Outputs, TableHead, register_head
from fsar.heads.layers.attention import CrossBlock
from fsar.heads.layers.functional import (
    MAX_COSINE_DISTANCE,
    class_means,
    frame_distances,
    offset_cosine,
    soft_alignment,
    two_way_alignment,
)
from fsar.heads.layers.grouped import run_together
from fsar.heads.layers.option_checks import check_choice, check_positive, check_share
from fsar.heads.layers.text_checks import mean_text

SMOOTHING = 0.5
"""Smoothing of the alignment (the OTAM of the same code base uses 0.1)."""
OFFICIAL_FRAMES = 8
"""The official code divides alignment costs by 8 whatever the number of frames."""


@register_head("clip-fsar")
class ClipFsarHead(TableHead):
    """Align queries with prototypes whose frames have attended to their class text.

    A transformer shared by all videos lets the frames of one video attend to each other; a support video gets its class
    text as one more token, which is dropped again. Prototypes are class means, the score is minus the two-way soft
    alignment cost. In training an auxiliary loss classifies every video among all training classes by its cosine to
    their texts. There is no position encoding: temporal order enters through the alignment alone.

    Args:
        dim: width D of frame features and text vectors.
        depth: transformer layers (official TRANSFORMER_DEPTH).
        n_heads: attention heads of D / n_heads channels.
        hidden: width of the feed-forward blocks.
        merge_before: average the supports of a class before the transformer (official 5-shot configs) instead of after.
        single_direction: align queries to prototypes only, not back (official SINGLE_DIRECT).
        scoring: what evaluation ranks by: "visual" alignment (all released configs), class "text" alone, or
            "combined": the product p_text^text_exponent * p_visual^(1 - text_exponent).
        text_exponent: weight of text in "combined", 0 to 1.
        text_loss_weight: weight of the auxiliary loss; 0 leaves it out. Released: SSv2 3, Kinetics and UCF101 1.5,
            HMDB51 1.2.
        attention_dropout: after the attention's output projection.
        dropout: inside the feed-forward blocks.
        compat: "official" returns probabilities for "text" and "combined" and divides costs by 8 frames there; "fixed"
            returns their logarithms, so that a cross entropy of them means something, and divides by the number of
            frames. Both rank alike at 8 frames.
    """

    text = "required"
    text_space = "image"
    paper = (
        "Wang et al., CLIP-guided Prototype Modulating for Few-shot Action Recognition, IJCV 2023, "
        "https://arxiv.org/abs/2303.02982"
    )

    def __init__(
        self,
        *,
        dim: int = 512,
        depth: int = 1,
        n_heads: int = 8,
        hidden: int = 2048,
        merge_before: bool = False,
        single_direction: bool = False,
        scoring: Literal["visual", "text", "combined"] = "visual",
        text_exponent: float = 0.9,
        text_loss_weight: float = 3.0,
        attention_dropout: float = 0.2,
        dropout: float = 0.05,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        super().__init__()
        self.dim, self.merge_before, self.single_direction = dim, merge_before, single_direction
        self.scoring = check_choice("scoring", scoring, ("visual", "text", "combined"))
        self.compat = check_choice("compat", compat, ("fixed", "official"))
        self.text_exponent, self.text_loss_weight = check_share("text_exponent", text_exponent), text_loss_weight
        self.scale = nn.Parameter(torch.ones(1))
        self.context = nn.ModuleList(
            CrossBlock(dim, heads=n_heads, hidden=hidden, attention_dropout=attention_dropout, dropout=dropout)
            for _ in range(check_positive("depth", depth))
        )

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the alignment "cost" (B, Q, N)."""
        text = mean_text(batch.class_text, "clip-fsar", self.dim)  # (B, N, D)
        return self._compare(*self._episode_in_context(batch, text), batch.n_way, text)

    def _episode_in_context(self, batch: EpisodeBatch, text: Tensor) -> tuple[Features, Tensor, Features]:
        """Return supports (or class means) in context, their labels, and the queries."""
        support, labels, raw_query = batch.support["frames"], batch.support_labels, batch.query["frames"]
        if self._merges(labels, batch.n_way):
            support = class_means(support, labels, batch.n_way)
            labels = torch.arange(batch.n_way, device=labels.device).expand(len(labels), -1)
        own_text = text.gather(1, labels.unsqueeze(-1).expand(-1, -1, self.dim))
        query, support = self._in_context([raw_query, _with_text(support, own_text)])
        return {"frames": support[..., :-1, :]}, labels, {"frames": query, "raw": raw_query}

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return "frames" (..., T, D) in context, and the "raw" frames where matching needs them."""
        frames = features["frames"]
        if class_text is None:
            (in_context,) = self._in_context([frames])
        else:
            (tokens,) = self._in_context([_with_text(frames, mean_text(class_text, "clip-fsar", self.dim))])
            in_context = tokens[..., :-1, :]
        needs_raw = self.merge_before or self.scoring != "visual"
        return {"frames": in_context, "raw": frames} if needs_raw else {"frames": in_context}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the alignment "cost" (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        text = mean_text(episodes.class_text, "clip-fsar", self.dim)  # (B, N, D)
        if self._merges(labels, n_way):
            (tokens,) = self._in_context([_with_text(class_means(support["raw"], labels, n_way), text)])
            support = {"frames": tokens[..., :-1, :]}
            labels = torch.arange(n_way, device=labels.device).expand(len(labels), -1)
        return self._compare(support, labels, query, n_way, text)

    def _compare(self, support: Features, labels: Tensor, query: Features, n_way: int, text: Tensor) -> Outputs:
        prototypes = class_means(support["frames"], labels, n_way)  # (B, N, T, D)
        cost = self._cost(frame_distances(query["frames"], prototypes))
        if self.training or self.scoring == "visual":
            return {"logits": -cost, "cost": cost}
        return {"logits": self._text_scores(query["raw"], text, cost), "cost": cost}

    def _cost(self, distance: Tensor) -> Tensor:
        """Return the alignment cost of distances (..., T, U): (...)."""
        aligned = soft_alignment if self.single_direction else two_way_alignment
        return aligned(distance, SMOOTHING, MAX_COSINE_DISTANCE)

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the alignment of queries with prototypes, and how close each frame is to the class texts.

        With visual scoring, as released, class text acts through the prototypes alone: its scores only illustrate.
        """
        text = mean_text(batch.class_text, "clip-fsar", self.dim)
        support, labels, query = self._episode_in_context(batch, text)
        prototypes = class_means(support["frames"], labels, batch.n_way)
        by_text = {"visual": 0.0, "text": 1.0, "combined": self.text_exponent}[self.scoring]
        link: Link = "linear" if self.scoring == "visual" else "log_softmax"
        divisor = 1 if self.scoring == "visual" else self._n_frames(query["raw"])
        paths = align(
            "frame alignment",
            frame_distances(query["frames"], prototypes),
            prototype_labels(prototypes, batch.n_way),
            batch.n_way,
            lambda distance: self._cost(distance) / divisor,
            weight=1 - by_text,
            link=link,
            exact=False,
        )
        parts = mean_cosine_frames(query["raw"], text, scale=self.scale)
        words = FrameScores(
            name="class text", score=parts.sum(-1), weight=by_text, link=link, parts=parts, method="text"
        )
        return Explanation(
            self(batch), (paths, words), exponential=self.compat == "official" and self.scoring != "visual"
        )

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification" over the episode's classes, "text" over all training classes, and "total"."""
        losses = super().loss(batch, outputs, targets)
        if not self.text_loss_weight:
            return losses
        logits, class_ids = self.class_logits(batch, targets)
        losses["text"] = F.cross_entropy(logits.flatten(0, 1), class_ids.flatten())
        return {**losses, "total": losses["classification"] + self.text_loss_weight * losses["text"]}

    def class_logits(self, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the scaled cosines of every video, supports first, to all C training texts, and their class ids.

        (B, S+Q, C) and (B, S+Q). The videos are means of raw frames: the transformer is not part of this.
        """
        text = mean_text(targets.all_class_text, "clip-fsar", self.dim)  # (C, D)
        assert targets.support_class_ids is not None
        assert targets.query_class_ids is not None
        videos = torch.cat([features["frames"].mean(2) for features in (batch.support, batch.query)], 1)  # (B, S+Q, D)
        class_ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)
        return self.scale * offset_cosine(videos, text), class_ids

    def _in_context(self, groups: list[Tensor]) -> list[Tensor]:
        """Return tokens (..., L, D) after attending to those of the same video, for each group of videos."""
        for block in self.context:
            groups = run_together(cast(CrossBlock, block), groups)
        return groups

    def _merges(self, labels: Tensor, n_way: int) -> bool:
        return self.merge_before and labels.shape[1] > n_way  # with one shot, before and after are the same

    def _text_scores(self, raw: Tensor, text: Tensor, cost: Tensor) -> Tensor:
        videos = F.normalize(raw.mean(2), dim=-1)  # (B, Q, D)
        by_text = self.scale * videos @ F.normalize(text, dim=-1).transpose(1, 2)
        log_text, log_visual = by_text.log_softmax(-1), (-cost / self._n_frames(raw)).log_softmax(-1)
        weight = 1.0 if self.scoring == "text" else self.text_exponent
        scores = weight * log_text + (1 - weight) * log_visual
        return scores.exp() if self.compat == "official" else scores

    def _n_frames(self, raw: Tensor) -> int:
        """Return what alignment costs are divided by before they are compared with text."""
        return OFFICIAL_FRAMES if self.compat == "official" else raw.shape[2]


def _with_text(frames: Tensor, text: Tensor) -> Tensor:
    """Return frames (..., T, D) with the text (..., D) as one more token at the end."""
    return torch.cat((frames, text.unsqueeze(-2)), -2)
