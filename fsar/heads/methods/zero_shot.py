"""Baselines without parameters on CLIP features: class text alone, and class text times visual prototypes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.explain.evidence import Explanation, FrameScores, mean_cosine_frames
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_share
from fsar.heads.layers.text_checks import mean_text

CLIP_SCALE = 100.0
"""The inverse temperature that CLIP's training ends with."""


def cosine(videos: Tensor, classes: Tensor) -> Tensor:
    """Return the cosines of videos (B, Q, D) and classes (B, N, D): (B, Q, N)."""
    return F.normalize(videos, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2)


@register_head("clip-zero-shot")
class ClipZeroShotHead(TableHead):
    """Cosine of the mean frame and the class text, as CLIP classifies images; supports are not looked at.

    What a few-shot head has to beat before its supports can be said to help. Nothing to train.

    Args:
        scale: inverse temperature; changes losses and probabilities, not the ranking.
    """

    text = "required"
    text_space = "image"
    paper = (
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, "
        "https://arxiv.org/abs/2103.00020"
    )

    def __init__(self, *, scale: float = CLIP_SCALE) -> None:
        super().__init__()
        self.scale = scale

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return "frames" (..., 1, D), the mean frame."""
        return {"frames": features["frames"].mean(-2, keepdim=True)}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N)."""
        videos = episodes.query["frames"].squeeze(2)
        text = mean_text(episodes.class_text, "clip-zero-shot", videos.shape[-1])
        return {"logits": self.scale * cosine(videos, text)}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the part of each frame in the cosine of a query and the class texts."""
        return Explanation(self(batch), (self._text_scores(batch, 1.0),))

    def _text_scores(self, batch: EpisodeBatch, weight: float) -> FrameScores:
        frames = batch.query["frames"]
        text = mean_text(batch.class_text, "clip-zero-shot", frames.shape[-1])
        parts = mean_cosine_frames(frames, text, scale=self.scale)
        return FrameScores(name="class text", score=parts.sum(-1), weight=weight, parts=parts, method="text")


@register_head("clip-proto-text")
class ClipProtoTextHead(ClipZeroShotHead):
    """Product of two softmaxes: cosine to the class text and cosine to the class mean of the supports' mean frames.

    Logits are the logarithm of p_text^text_weight * p_visual^(1 - text_weight), up to a constant per query. Nothing to
    train. This is what the baseline "STEN" of the CLIP-MEI repository comes down to.

    Args:
        text_weight: 1 is text alone, 0 the prototypes alone.
        scale: inverse temperature of both.
    """

    def __init__(self, *, text_weight: float = 0.5, scale: float = CLIP_SCALE) -> None:
        super().__init__(scale=scale)
        self.text_weight = check_share("text_weight", text_weight)

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), "text" and "visual", the two sets of cosines."""
        videos, supports = (side["frames"].squeeze(2) for side in (episodes.query, episodes.support))
        text = cosine(videos, mean_text(episodes.class_text, "clip-proto-text", videos.shape[-1]))
        visual = cosine(videos, class_means(supports, episodes.support_labels, episodes.n_way))
        logits = self.scale * (self.text_weight * text + (1 - self.text_weight) * visual)
        return {"logits": logits, "text": text, "visual": visual}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the part of each frame in the cosines of a query with the class texts and with the prototypes."""
        support = batch.support["frames"].mean(2)
        prototypes = class_means(support, batch.support_labels, batch.n_way)
        parts = mean_cosine_frames(batch.query["frames"], prototypes, scale=self.scale)
        visual = FrameScores(name="class prototype", score=parts.sum(-1), weight=1 - self.text_weight, parts=parts)
        return Explanation(self(batch), (self._text_scores(batch, self.text_weight), visual))
