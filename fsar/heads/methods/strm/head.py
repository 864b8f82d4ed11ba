"""STRM: patches enrich frames, frames enrich videos, and tuples of frames are matched at both depths."""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation, TupleMatch, frame_tuples
from fsar.heads.explain.sensitivity import fade_patches
from fsar.heads.explain.tuples import explain_tuples
from fsar.heads.head import Input, Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.frame_tuples import slot_vectors, tuple_slots
from fsar.heads.layers.functional import group_by_class, membership, take_videos
from fsar.heads.layers.option_checks import check_choice
from fsar.heads.layers.tuple_attention import TupleAttention, key_width, sub_tables
from fsar.heads.methods.strm.enrich import FrameEnrichment, PatchEnrichment

GRID = 4
"""Side of the grid of patches: maps are max-pooled to 4x4."""
STREAMS: tuple[str, ...] = ("matching", "similarity")
SMALLEST_SQUARE = 1e-12
"""Squared distances are kept above this, where the slope of the root is still finite."""


class TupleSimilarity(nn.Module):
    """Distance of a query's tuples to the nearest tuple of each class, after one layer (query-class similarity)."""

    def __init__(self, dim: int, *, size: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(size * dim, dim // 2)
        self.dropout = Dropout(dropout)

    def embed(self, frames: Tensor, *, always_drop: bool = False) -> Tensor:
        """Return tuples (..., G, D/2) of frames (..., T, D)."""
        *lead, n_frames, dim = frames.shape
        x = F.dropout(frames, self.dropout.p, self.training or always_drop).reshape(-1, n_frames, dim)
        slots = slot_vectors(x, self.linear.weight, self.linear.bias, self.size)
        tuples = F.relu(tuple_slots(n_frames, self.size, slots.device, slots.dtype) @ slots)
        return tuples.view(*lead, *tuples.shape[1:])

    @staticmethod
    def match(support: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        """Return minus the mean distance to the nearest tuple of each class, (B, Q, N).

        For tuples of the supports (B, N, K, G, E), real where `mask` (B, N, K) is true, and of queries (B, Q, G, E).
        """
        n_batch, n_way, n_shot, n_tuples, _ = support.shape
        support, query = support.float(), query.float()  # the distances cancel
        keys, rows = support.flatten(1, 3), query.flatten(1, 2)
        # |q - s|^2 = |q|^2 + |s|^2 - 2 q.s; |q|^2 is the same for all candidates.
        cost = keys.square().sum(-1).view(n_batch, n_way, n_shot, n_tuples)
        cost = cost.masked_fill(~mask.unsqueeze(-1), float("inf")).view(n_batch, 1, -1)
        nearest = (cost - 2 * rows @ keys.transpose(1, 2)).view(n_batch, rows.shape[1], n_way, -1).amin(-1)
        square = nearest + rows.square().sum(-1, keepdim=True)
        distance = square.clamp(min=SMALLEST_SQUARE).sqrt()
        return -distance.view(n_batch, -1, n_tuples, n_way).mean(2)

    def explain(self, support: Tensor, query: Tensor, labels: Tensor, n_way: int, weight: float) -> TupleMatch:
        """Return what `match` gives, tuple by tuple, for supports (B, S, G, E) and queries (B, Q, G, E)."""
        n_batch, n_query, n_tuples, _ = query.shape
        rows, keys = query.float().flatten(1, 2), support.float().flatten(1, 2)
        distance = torch.cdist(rows, keys).view(n_batch, n_query, n_tuples, -1, n_tuples)  # (B, Q, G, S, G)
        other = ~membership(labels, n_way)[:, None, None, :, None]  # (B, 1, 1, S, 1, N)
        of_class = distance.unsqueeze(-1).masked_fill(other, torch.inf).flatten(3, 4)  # (B, Q, G, S*G, N)
        nearest, place = of_class.min(3)
        chosen = torch.zeros_like(distance).flatten(3).scatter_(3, place, 1.0)
        n_frames = next(n for n in itertools.count(self.size) if math.comb(n, self.size) == n_tuples)
        parts = -nearest.clamp(min=SMALLEST_SQUARE**0.5).transpose(2, 3) / n_tuples
        return TupleMatch(
            name=f"nearest tuples of {self.size} frames",
            score=parts.sum(-1),
            weight=weight,
            parts=parts,
            attention=chosen.view_as(distance),
            tuples=frame_tuples(n_frames, self.size),
            n_frames=n_frames,
            labels=labels,
        )


@register_head("strm")
class STRMHead(TableHead):
    """Spatio-temporal relation modelling (Thatipelli et al., CVPR 2022, https://arxiv.org/abs/2112.05132).

    Patches of each frame attend to each other, which enriches the frame; frames are mixed over time and channels; then
    queries are matched by tuples of frames as in TRX. A second stream compares tuples of the patch-enriched frames by
    their distance to the nearest tuple of a class. Its share of the logits and of the loss is `similarity_weight`.

    Features are max-pooled 4x4 maps, (..., T, 16, D), or whole maps, (..., T, D, h, w), which are pooled here.

    `compat="official"` reproduces the released code: the layer of the second stream is a fixed random one, never
    trained (there it is missing from the parameters and from the checkpoints), and its dropout is on at test, too. By
    default it is trained and saved like the rest, and its dropout ends with training.
    """

    inputs = (Input("patches", ("map4max", "map"), "(P, D) or (D, h, w)"),)
    paper: ClassVar[str] = (
        "Thatipelli et al., Spatio-temporal Relation Modeling for Few-shot Action Recognition, CVPR 2022, "
        "arXiv:2112.05132"
    )

    def __init__(
        self,
        *,
        dim: int,
        n_frames: int = 8,
        temp_set: Sequence[int] = (2,),
        out_dim: int | None = None,
        dropout: float = 0.1,
        similarity_weight: float = 0.1,
        reduction: Literal["sum", "mean"] = "sum",
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Make the head.

        Args:
            dim: channels D of the patches, even.
            n_frames: frames T per video; the mixing over time has weights for exactly this number.
            temp_set: tuple sizes (cardinalities).
            out_dim: width of the keys and values of the tuple matching; None for 1152, or 3 D where that is less.
            dropout: of features with their position code, drawn at each place where they enter.
            similarity_weight: of the second stream, in the logits and in the loss.
            reduction: of the cross entropies over queries; the released code sums.
            compat: "official" keeps the layer of the second stream fixed and its dropout on, as released.

        Raises:
            InputError: an odd `dim`, or tuple sizes that are not different numbers of at most `n_frames`.
        """
        super().__init__()
        if not temp_set or min(temp_set) < 1 or max(temp_set) > n_frames or len(set(temp_set)) < len(temp_set):
            raise InputError(f"temp_set must be different tuple sizes of 1 to {n_frames} frames, got {list(temp_set)}")
        if dim % 2:
            raise InputError(f"dim must be even for the position code, got {dim}")
        check_choice("reduction", reduction, ("sum", "mean"))
        check_choice("compat", compat, ("fixed", "official"))
        self.dim, self.similarity_weight, self.official = dim, similarity_weight, compat == "official"
        self.reduction: Literal["sum", "mean"] = reduction
        out_dim = key_width(dim) if out_dim is None else out_dim
        self.patch_enrichment = PatchEnrichment(dim, dropout)
        self.frame_enrichment = FrameEnrichment(dim, n_frames, dropout)
        self.transformers = nn.ModuleList(
            TupleAttention(dim, size=size, out_dim=out_dim, dropout=dropout) for size in temp_set
        )
        self.similarities = nn.ModuleList(TupleSimilarity(dim, size=size, dropout=dropout) for size in temp_set)
        self.similarities.requires_grad_(not self.official)

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the tables of each tuple size: those of TRX ("0.keys", ...) and "0.similarity" (..., G, D/2)."""
        frames = self.enriched_frames(features)
        mixed = self.frame_enrichment(frames)
        tables: Features = {}
        for number, (transformer, similarity) in enumerate(zip(self.transformers, self.similarities, strict=True)):
            assert isinstance(transformer, TupleAttention)
            assert isinstance(similarity, TupleSimilarity)
            tables |= {f"{number}.{name}": table for name, table in transformer.embed(mixed).items()}
            if self.similarity_weight:
                tables[f"{number}.similarity"] = similarity.embed(frames, always_drop=self.official)
        return tables

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Embed supports and queries in one go, so that matrices are folded once, and match."""
        sides = batch.support["patches"], batch.query["patches"]
        tables = self.embed({"patches": torch.cat(sides, 1)})
        n_support = sides[0].shape[1]
        support = {name: table[:, :n_support] for name, table in tables.items()}
        query = {name: table[:, n_support:] for name, table in tables.items()}
        return self.match(batch.embedded(support, query))

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the streams they are added from, "matching" and "similarity" (B, Q, N).

        "matching_per_cardinality", "similarity_per_cardinality" (B, Q, N, number of tuple sizes) are what these
        are means of.
        """
        support, query = episodes.support, episodes.query
        index, mask = group_by_class(episodes.support_labels, episodes.n_way, episodes.n_shot)
        grouped = {name: take_videos(table, index) for name, table in support.items()}  # (B, N, K, ...)
        per_size: dict[str, list[Tensor]] = {}
        for number, transformer in enumerate(self.transformers):
            assert isinstance(transformer, TupleAttention)
            tables, query_tables = sub_tables(grouped, number), sub_tables(query, number)
            if self.similarity_weight:
                nearest = TupleSimilarity.match(tables.pop("similarity"), query_tables.pop("similarity"), mask)
                per_size.setdefault("similarity", []).append(nearest)
            per_size.setdefault("matching", []).append(transformer.match(tables, query_tables, mask))
        stacked = {f"{name}_per_cardinality": torch.stack(scores, -1) for name, scores in per_size.items()}
        streams = {name: stacked[f"{name}_per_cardinality"].mean(-1) for name in per_size}
        return {"logits": self._weighted_sum(streams), **streams, **stacked}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the tuples of both streams that met, and the slope of the logits along the patches of the queries."""
        support, query = self.embed(batch.support), self.embed(batch.query)
        labels, n_way, share = batch.support_labels, batch.n_way, 1 / len(self.transformers)
        found = []
        for number, (transformer, similarity) in enumerate(zip(self.transformers, self.similarities, strict=True)):
            assert isinstance(transformer, TupleAttention)
            assert isinstance(similarity, TupleSimilarity)
            of_support, of_query = sub_tables(support, number), sub_tables(query, number)
            nearest = [tables.pop("similarity", None) for tables in (of_support, of_query)]
            found.append(explain_tuples(transformer, of_support, of_query, labels, n_way, share))
            if nearest[0] is not None and nearest[1] is not None:
                weight = self.similarity_weight * share
                found.append(similarity.explain(nearest[0], nearest[1], labels, n_way, weight))
        patches = fade_patches("patches", self, batch, {"patches": self._as_maps})
        return Explanation(self(batch), (*found, patches))

    def _as_maps(self, x: Tensor) -> Tensor:
        """Return patches (..., P, D) as maps (..., D, h, w); maps stay as they are."""
        if x.shape[-1] == self.dim and x.shape[-2] == GRID**2:
            return x.transpose(-1, -2).reshape(*x.shape[:-2], self.dim, GRID, GRID)
        return x

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the cross entropies of both streams, "matching" and "similarity", and their weighted sum.

        Two separate softmaxes, as published: not the cross entropy of the added logits.
        """
        terms = {
            name: cross_entropy(outputs[name], targets.query_labels, reduction=self.reduction)
            for name in STREAMS
            if name in outputs
        }
        return {**terms, "total": self._weighted_sum(terms)}

    def _weighted_sum(self, streams: dict[str, Tensor]) -> Tensor:
        total = streams["matching"]
        return total + self.similarity_weight * streams["similarity"] if "similarity" in streams else total

    def enriched_frames(self, features: Features) -> Tensor:
        """Return the frames (..., T, D) that their patches make."""
        return self.patch_enrichment(self._patches(features["patches"]))

    def _patches(self, x: Tensor) -> Tensor:
        """Return patches (..., T, P, D) of pooled maps, which are taken as they are, or of maps (..., T, D, h, w)."""
        if x.shape[-1] == self.dim and x.shape[-2] == GRID**2:
            return x
        if x.ndim < 4 or x.shape[-3] != self.dim:
            raise InputError(
                f"strm with dim={self.dim} needs maps (T, {self.dim}, h, w) or pooled maps (T, {GRID**2}, {self.dim}), "
                f"got features of shape {tuple(x.shape)}"
            )
        pooled = F.adaptive_max_pool2d(x.flatten(0, -4), GRID)
        return pooled.flatten(2).transpose(1, 2).reshape(*x.shape[:-3], GRID**2, self.dim)
