"""MoLo: long-short contrast between whole videos and frames, for appearance and for motion."""

from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Alignment, Explanation, prototype_labels
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Input, Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.attention import (
    FEED_FORWARD_WIDTH,
    FeedForward,
    SelfAttention,
    position_code,
    steep_sinusoid_table,
)
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.functional import class_means, frame_distances
from fsar.heads.layers.option_checks import check_position

REDUCTION = 8
"""Motion maps have D/8 channels."""


class EncoderLayer(nn.Module):
    """Self attention, then y + FF(y)."""

    def __init__(self, dim: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads=heads)
        self.feed_forward = FeedForward(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (..., L, D)."""
        y: Tensor = self.attention(x)
        update: Tensor = self.feed_forward(y)
        return y + update


class UpStage(nn.Module):
    """Bilinear upsampling, 3x3 convolution, batch norm, relu."""

    def __init__(self, n_in: int, n_out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (V, n_out, f*h, f*w)."""
        large = F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=True)
        activation: Tensor = self.norm(self.conv(large))
        return activation.relu()


class FrameDecoder(nn.Module):
    """From motion maps (V, C, h, w) to differences of neighbouring frames (V, 3, 32h, 32w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up1 = UpStage(channels, 128, 2)
        self.up2 = UpStage(128, 32, 4)
        self.up3 = UpStage(32, 16, 4)
        self.out = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the decoded differences."""
        return self.out(self.up3(self.up2(self.up1(x))))


@register_head("molo")
class MoLo(TableHead):
    """Motion-augmented long-short contrastive learning.

    Wang et al., "MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action Recognition", CVPR 2023,
    https://arxiv.org/abs/2304.00946. A class token sums up a video, and training asks it to agree with every frame of
    other videos of its class (long against short). A second stream does the same on differences of neighbouring feature
    maps, which a decoder must be able to turn into differences of pixels. Streams are compared as sets of frames.

    Differences from the official code: the reconstruction loss is computed only in training and only if the batch holds
    pixels (role "pixels", normalised frames (B, S, T, 3, 32h, 32w)); cached features have none, and the decoder takes
    no part in predictions. Its weight here counts as all others: the official one is not divided by the number of
    episodes of a step (4), so 0.4 here is 0.1 there. Maps may have any size and clips any number of frames (officially
    7x7 and 19).
    """

    paper = (
        "Wang et al., MoLo: Motion-augmented Long-short Contrastive Learning for Few-shot Action Recognition, "
        "CVPR 2023, https://arxiv.org/abs/2304.00946"
    )
    inputs = (Input("map", ("map",), "(D, h, w)"),)

    old_options = MappingProxyType({"heads": "n_heads"})

    def __init__(
        self,
        *,
        dim: int,
        n_heads: int = 8,
        hidden: int = FEED_FORWARD_WIDTH,
        position: tuple[float, float] = (10.0, 1.0),
        dropout: float = 0.1,
        single_direction: bool = False,
        motion_weight: float = 0.3,
        contrast_weight: float = 0.05,
        motion_contrast: bool = True,
        temperature: float | None = None,
        n_classes: int | None = None,
        class_weight: float = 0.8,
        reconstruction_weight: float = 0.0,
    ) -> None:
        """Build the head.

        Args:
            dim: Channels D of the feature maps, a multiple of 8.
            n_heads: Attention heads of both encoders.
            hidden: Width of their feed-forward blocks.
            position: (A, B): tokens enter as sqrt(D / A) times the token plus B times the position code.
            dropout: Of the tokens with their position code.
            single_direction: Only query frames look for their nearest support frame.
            motion_weight: Of the motion stream in the logits.
            contrast_weight: Of the four long-short losses; 0 for none.
            motion_contrast: Whether the two long-short losses of the motion stream count.
            temperature: Scale of the long-short logits; None for two learned ones.
            n_classes: Number of training classes; None for no class loss.
            class_weight: Of the class loss (published: 0.1 to 0.8, by data set).
            reconstruction_weight: Of the pixel loss (published: 0.2 or 0.4 in our count); 0 builds no decoder.
        """
        super().__init__()
        if dim % REDUCTION:
            raise InputError(f"dim must be a multiple of {REDUCTION}, got {dim}")
        narrow = dim // REDUCTION
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.class_token_motion = nn.Parameter(torch.randn(1, 1, dim))
        self.temporal_atte_before = nn.ModuleList([EncoderLayer(dim, heads=n_heads, hidden=hidden)])
        self.temporal_atte_before_motion = nn.ModuleList([EncoderLayer(dim, heads=n_heads, hidden=hidden)])
        self.motion_reduce = nn.Conv3d(dim, narrow, 3, padding=1)
        self.motion_conv = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.motion_up = nn.Conv2d(narrow, dim, 1)
        self.position, self.position_dropout = check_position(position), Dropout(dropout)
        learned = contrast_weight > 0 and temperature is None
        self.scale = nn.Parameter(torch.ones(1)) if learned else None
        self.scale_motion = nn.Parameter(torch.ones(1)) if learned else None
        self.temperature = 1.0 if temperature is None else temperature
        self.classification_layer = None if n_classes is None else nn.Linear(dim, n_classes)
        self.decoder = FrameDecoder(narrow) if reconstruction_weight > 0 else None
        self.single_direction, self.motion_weight = single_direction, motion_weight
        self.contrast_weight, self.motion_contrast = contrast_weight, motion_contrast
        self.class_weight, self.reconstruction_weight = class_weight, reconstruction_weight

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return tokens "appearance" (..., 1+T, D) and "motion" (..., T, D), the class token first."""
        return self.tokens(features["map"], self.motion_maps(features["map"]))

    def motion_maps(self, maps: Tensor) -> Tensor:
        """Return the changes (V, T-1, D/8, h, w) between neighbouring frames of maps (..., T, D, h, w) of V videos."""
        videos = maps.flatten(0, -5)  # (V, T, D, h, w)
        reduced = self.motion_reduce(videos.transpose(1, 2)).transpose(1, 2)
        ahead = self.motion_conv(reduced[:, 1:].flatten(0, 1))
        return ahead.view_as(reduced[:, 1:]) - reduced[:, :-1]

    def tokens(self, maps: Tensor, motion: Tensor) -> Features:
        """Return the encoded tokens of both streams."""
        lead = maps.shape[:-4]
        appearance = maps.mean((-2, -1)).flatten(0, -3)  # (V, T, D)
        raised: Tensor = self.motion_up(motion.flatten(0, 1))
        moving = raised.relu().mean((-2, -1)).view(len(appearance), -1, appearance.shape[-1])
        both = {
            "appearance": self._encode(appearance, self.class_token, self.temporal_atte_before),
            "motion": self._encode(moving, self.class_token_motion, self.temporal_atte_before_motion),
        }
        return {role: x.view(*lead, *x.shape[1:]) for role, x in both.items()}

    def _encode(self, x: Tensor, class_token: Tensor, layers: nn.ModuleList) -> Tensor:
        x = torch.cat((class_token.expand(len(x), -1, -1), x), 1)
        shrink, weight = self.position
        code = position_code(steep_sinusoid_table, x)
        x = self.position_dropout((x.shape[-1] / shrink) ** 0.5 * x + weight * code)
        for layer in layers:
            x = layer(x)
        return x.relu()

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" and the long-short logits "s2q", "q2s", "s2q_motion", "q2s_motion", each (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        prototypes = {role: class_means(x, labels, n_way) for role, x in support.items()}
        appearance = self._stream(prototypes["appearance"], query["appearance"], self.scale)
        motion = self._stream(prototypes["motion"], query["motion"], self.scale_motion)
        return {
            "logits": -(appearance["cost"] + self.motion_weight * motion["cost"]),
            "s2q": appearance["s2q"],
            "q2s": appearance["q2s"],
            "s2q_motion": motion["s2q"],
            "q2s_motion": motion["q2s"],
        }

    def _stream(self, prototypes: Tensor, query: Tensor, scale: Tensor | None) -> Outputs:
        distance = frame_distances(query, prototypes)  # (B, Q, N, tokens, tokens), class tokens first
        cost = self._cost(distance[..., 1:, 1:])
        factor: Any = self.temperature if scale is None else scale
        return {
            "cost": cost,
            "s2q": -factor * distance[..., 0, 1:].sum(-1),
            "q2s": -factor * distance[..., 1:, 0].sum(-1),
        }

    def _cost(self, distance: Tensor) -> Tensor:
        """Return the sum of the nearest distances in (..., T, U), from both sides unless told otherwise."""
        cost = distance.amin(-1).sum(-1)
        return cost if self.single_direction else cost + distance.amin(-2).sum(-1)

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return which frames, and which changes between frames, of a query and of the prototypes are nearest."""
        support, query = self.embed(batch.support), self.embed(batch.query)

        def nearest(role: str, name: str, weight: float) -> Alignment:
            prototypes = class_means(support[role], batch.support_labels, batch.n_way)
            distance = frame_distances(query[role], prototypes)[..., 1:, 1:]
            labels, between = prototype_labels(prototypes, batch.n_way), role == "motion"
            return align(
                name, distance, labels, batch.n_way, self._cost, weight=weight, exact=True, between_frames=between
            )

        streams = nearest("appearance", "nearest frames", 1.0), nearest("motion", "nearest motion", self.motion_weight)
        return Explanation(self(batch), streams)

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return what `match` does, "class_logits" (B, S+Q, C) and, in training with pixels, "reconstruction"."""
        maps = [batch.support["map"], batch.query["map"]]
        motion = [self.motion_maps(part) for part in maps]
        support, query = (self.tokens(*pair) for pair in zip(maps, motion, strict=True))
        outputs = self.match(batch.embedded(support, query))
        if self.classification_layer is not None:
            means = (torch.cat((support[role].mean(2), query[role].mean(2)), 1) for role in ("appearance", "motion"))
            outputs["class_logits"] = self.classification_layer(sum(means))
        if self.training and self.decoder is not None and "pixels" in batch.support:
            outputs["reconstruction"] = self._reconstruction(batch, *motion)
        return outputs

    def _reconstruction(self, batch: EpisodeBatch, support: Tensor, query: Tensor) -> Tensor:
        """Return the mean squared error of the decoded frame differences. Batch norm sees supports and queries."""
        assert self.decoder is not None
        decoded = self.decoder(torch.cat((support, query)).flatten(0, 1))
        pixels = torch.cat((batch.support["pixels"].flatten(0, 1), batch.query["pixels"].flatten(0, 1)))
        return F.mse_loss(decoded, pixels.diff(dim=1).flatten(0, 1))

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification", "contrast", "classes", "reconstruction" as far as the head has them, and "total"."""
        labels = targets.query_labels
        losses = {"classification": cross_entropy(outputs["logits"], labels)}
        weights = {"classification": 1.0}
        if self.contrast_weight:
            names = ["s2q", "q2s", *(["s2q_motion", "q2s_motion"] if self.motion_contrast else [])]
            losses["contrast"] = torch.stack([cross_entropy(outputs[name], labels) for name in names]).sum()
            weights["contrast"] = self.contrast_weight
        if "class_logits" in outputs and self.class_weight:
            losses["classes"] = class_loss(outputs["class_logits"], targets)
            weights["classes"] = self.class_weight
        if "reconstruction" in outputs:
            losses["reconstruction"] = outputs["reconstruction"]
            weights["reconstruction"] = self.reconstruction_weight
        total = torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
        return losses | {"total": total}


def class_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Return the mean cross entropy of class logits per video (B, S+Q, C), supports first."""
    assert targets.support_class_ids is not None
    assert targets.query_class_ids is not None
    ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten())
