"""The options and the learned parts of HCL."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.head import TableHead
from fsar.heads.layers.frame_tuples import slot_vectors, tuple_slots
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.methods.hcl import matching
from fsar.heads.methods.hcl.encoder import SpaceTimeEncoder

TERMS = ("classification", "global", "temporal", "temporal_cycle", "spatial", "spatial_cycle")
"""The terms of the training loss."""


class Projection(nn.Module):
    """Linear, GELU, layer norm, unit length: the training-time projection of a level."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors (..., out_dim) of `x` (..., in_dim)."""
        return matching.unit(self.norm(F.gelu(self.linear(x))))


class HCLParts(TableHead):
    """What HCL is made of, without how it compares videos and what it learns from."""

    def __init__(
        self,
        *,
        dim: int = 2048,
        n_classes: int = 64,
        width: int = 1152,
        hidden: int = 2048,
        n_heads: int = 8,
        n_layers: int = 1,
        dropout: float = 0.1,
        pre_norm: bool = False,
        max_frames: int = 16,
        max_side: int = 14,
        temp_set: Sequence[int] = (2,),
        n_tuples: int = 10,
        n_ranks: int = 5,
        n_patches: int = 40,
        multi_scale: bool = False,
        semantic: bool = False,
        text_dim: int = 768,
        metric: Literal["auto", "dot", "euclidean"] = "auto",
        temperature: float = 0.07,
        loss_classification: float = 1.0,
        loss_global: float = 1.0,
        loss_temporal: float = 0.5,
        loss_temporal_cycle: float = 0.25,
        loss_spatial: float = 0.5,
        loss_spatial_cycle: float = 0.0,
        fuse_global: float = 1.0,
        fuse_temporal: float = 0.5,
        fuse_spatial: float = 0.5,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Make the head.

        Args:
            dim: channels D of the maps.
            n_classes: training classes.
            width: channels d of the encoded tokens.
            hidden: width of the encoder's feed-forward blocks.
            n_heads: attention heads of the encoder.
            n_layers: layers of the encoder.
            dropout: dropout inside the encoder.
            pre_norm: normalise before the encoder's blocks instead of after them.
            max_frames: rows of the table of frame positions; the released checkpoints have 10.
            max_side: rows of the tables of row and column positions; the released checkpoints have 10.
            temp_set: frames per tuple; levels are averaged over them.
            n_tuples: tuple matches that count in the temporal level.
            n_ranks: best tuple matches whose patches are compared at test (training takes one).
            n_patches: patch matches that count in each of these.
            multi_scale: add patches averaged over 2x2 and 4x4 neighbours.
            semantic: rank patches by the text of the support's class.
            text_dim: width of the text vectors.
            metric: similarity at test; "auto" is the dot product at one shot and minus the squared distance at more.
            temperature: of the contrastive losses.
            loss_classification: weight of the cross entropy over the training classes.
            loss_global: weight of the contrast of whole videos.
            loss_temporal: weight of the contrast of tuples.
            loss_temporal_cycle: weight of the cycle over tuples.
            loss_spatial: weight of the contrast of patches.
            loss_spatial_cycle: weight of the cycle over patches.
            fuse_global: weight of whole videos in the logits.
            fuse_temporal: weight of tuples in the logits.
            fuse_spatial: weight of patches in the logits.
            compat: "official" reproduces the released code, see above.
        """
        super().__init__()
        check_choice("metric", metric, ("auto", "dot", "euclidean"))
        check_choice("compat", compat, ("fixed", "official"))
        check_positive("n_heads", n_heads)
        if width % n_heads:
            raise InputError(f"width must be a multiple of n_heads, got {width} and {n_heads}")
        if temperature <= 0:
            raise InputError(f"temperature must be above 0, got {temperature}")
        if min(n_tuples, n_ranks, n_patches) < 1:
            raise InputError(
                f"n_tuples, n_ranks and n_patches must be 1 or more, got {n_tuples}, {n_ranks}, {n_patches}"
            )
        if not temp_set or min(temp_set) < 1 or len(set(temp_set)) < len(temp_set):
            raise InputError(f"temp_set must be different tuple sizes of 1 or more, got {list(temp_set)}")
        self.temp_set = tuple(temp_set)
        self.n_tuples, self.n_ranks, self.n_patches = n_tuples, n_ranks, n_patches
        self.multi_scale, self.metric, self.temperature = multi_scale, metric, temperature
        self.official = compat == "official"
        self.loss_weights = {
            "classification": loss_classification,
            "global": loss_global,
            "temporal": loss_temporal,
            "temporal_cycle": loss_temporal_cycle,
            "spatial": loss_spatial,
            "spatial_cycle": loss_spatial_cycle,
        }
        self.fusion_weights = {"global": fuse_global, "temporal": fuse_temporal, "spatial": fuse_spatial}
        self.encoder = SpaceTimeEncoder(
            dim=dim,
            width=width,
            ffn_dim=hidden,
            n_heads=n_heads,
            n_layers=n_layers,
            dropout=dropout,
            pre_norm=pre_norm,
            max_frames=max_frames,
            max_side=max_side,
        )
        # Released checkpoints hold the projections of pairs and triples, used or not.
        sizes = sorted({*self.temp_set, 2, 3} if self.official else self.temp_set)
        self.tuple_linears = nn.ModuleDict({str(size): nn.Linear(size * width, width) for size in sizes})
        self.temporal = Projection(width, width)
        self.spatial = Projection(width, width)
        self.semantic = Projection(text_dim, width) if semantic else None
        self.classifier = nn.Linear(width, n_classes)

    def _patch_weights(self, patches: Tensor, text: Tensor) -> Tensor:
        """Return how close patches (..., T, P, d) are to the text (..., M, D) of a class, (..., T, P) of mean one."""
        assert self.semantic is not None
        if text.shape[-1] != self.semantic.linear.in_features:
            raise InputError(
                f"hcl with text_dim={self.semantic.linear.in_features} got text vectors of width {text.shape[-1]}: "
                "make the head with the text_dim of the table"
            )
        closeness = torch.einsum("...tpd,...d->...tp", patches, self.semantic(text.mean(-2)))
        return closeness.flatten(-2).softmax(-1).view_as(closeness) * (closeness.shape[-2] * closeness.shape[-1])

    def _scales(self, patches: Tensor, maps: Tensor) -> Tensor:
        """Return patches (..., T, P, d), with those of coarser scales added if the head has several."""
        return matching.multi_scale(patches, (maps.shape[-2], maps.shape[-1])) if self.multi_scale else patches

    def _tuples(self, tokens: Tensor, size: int) -> Tensor:
        """Return projected tuples (..., G, d) of the frame means of tokens (..., T, P, d)."""
        frames = tokens.mean(-2)
        *lead, n_frames, dim = frames.shape
        linear = self.tuple_linears[str(size)]
        assert isinstance(linear, nn.Linear)
        sums = tuple_slots(n_frames, size, frames.device, frames.dtype)
        tuples = sums @ slot_vectors(frames.reshape(-1, n_frames, dim), linear.weight, linear.bias, size)
        return tuples.view(*lead, *tuples.shape[1:])
