"""HCL: hierarchical matching of videos, frames and patches, trained by contrast instead of episodes."""

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads import hcl_matching as matching
from fsar.heads.batch import Features, PairBatch
from fsar.heads.functional import class_means
from fsar.heads.hcl_encoder import SpaceTimeEncoder
from fsar.heads.hcl_losses import MatchedVideos, contrast
from fsar.heads.hcl_quirks import mix_episode, mix_frames, released_row_weights
from fsar.heads.head import Input, Losses, Outputs, TableHead, register_head
from fsar.heads.presets import Preset, register_preset
from fsar.heads.schedules import MultiStep
from fsar.heads.text_input import check_choice
from fsar.heads.tuples import slot_vectors, tuple_slots

TERMS = ("classification", "global", "temporal", "temporal_cycle", "spatial", "spatial_cycle")
"""The terms of the training loss."""
MISSING_TEXT = (
    "hcl with semantic needs text vectors of the classes: add a table to the store with `fsar-prep text STORE "
    "--encoder bert --templates hcl` and name it with --text"
)


class Projection(nn.Module):
    """Linear, GELU, layer norm, unit length: the training-time projection of a level."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.LayerNorm(out_dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Return unit vectors (..., out_dim) of `x` (..., in_dim)."""
        return matching.unit(self.norm(F.gelu(self.linear(x))))


@register_head("hcl")
class HCL(TableHead):
    """Compare videos as wholes, by their best tuples of frames, and by the best patches inside those tuples.

    A transformer encodes each video's map; positions reach its attention weights only. Training takes two videos of
    each of B classes and pulls partners together at the three levels, with cycle consistency, beside a classifier of
    the training classes; its projections are left behind at test, where similarities of the encoded parts are fused.
    `fuse_*` weigh the levels at test and `loss_*` the terms in training (one set of numbers in the released code).
    Terms and levels of weight zero are not computed.

    `compat="official"` reproduces the released code for its checkpoints. By default these differ:
    - several shots: the scores of (support video, tuple) are not read as (tuple, support video);
    - multi-scale: the frames of a video stay with their video;
    - text weighs the patches of the support by the support's class; the released code reads the texts of the queries,
      which give away their classes, and weighs all patches by those matched with an unrelated video;
    - several cardinalities: each starts from the encoded tokens, not from what the one before left;
    - a video's score with itself is left out of the contrast, not set to zero.
    """

    inputs: ClassVar[tuple[Input, ...]] = (Input("map", ("map",), "(C, h, w)"),)
    text: ClassVar[Literal["none", "optional", "required"]] = "optional"
    training_unit: ClassVar[Literal["episodes", "pairs"]] = "pairs"
    paper: ClassVar[str] = (
        "Zheng, Chen, Jin: Few-Shot Action Recognition with Hierarchical Matching and Contrastive Learning, ECCV 2022, "
        "https://doi.org/10.1007/978-3-031-19772-7_18"
    )

    def __init__(
        self,
        *,
        dim: int = 2048,
        n_classes: int = 64,
        width: int = 1152,
        ffn_dim: int = 2048,
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
            dim: channels C of the maps.
            n_classes: training classes.
            width: channels d of the encoded tokens.
            ffn_dim: hidden channels of the encoder's feed-forward blocks.
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
        losses = (
            loss_classification,
            loss_global,
            loss_temporal,
            loss_temporal_cycle,
            loss_spatial,
            loss_spatial_cycle,
        )
        self.loss_weights = dict(zip(TERMS, losses, strict=True))
        self.fusion_weights = {"global": fuse_global, "temporal": fuse_temporal, "spatial": fuse_spatial}
        self.encoder = SpaceTimeEncoder(
            dim=dim,
            width=width,
            ffn_dim=ffn_dim,
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

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return per video: "tuples.t" (..., N, d) and "patches" (..., T, P, d) unit vectors, "mean" (..., d).

        With `semantic`, supports (whose `class_text` (..., M, D) is given) have "patch_weights" (..., T, P) too.
        """
        tokens = self.encoder(features["map"])
        units = matching.unit(tokens)
        patches = self._scales(units, features["map"])
        table = {"mean": patches.mean((-3, -2))}
        if self.fusion_weights["temporal"] or self.fusion_weights["spatial"]:
            for size in self.temp_set:
                table[f"tuples.{size}"] = matching.unit(self._tuples(tokens, size))
                tokens = units if self.official else tokens
        if self.fusion_weights["spatial"]:
            table["patches"] = patches
            if self.semantic is not None and class_text is not None and not self.official:
                table["patch_weights"] = self._patch_weights(patches, class_text)
        return table

    def match(
        self,
        support: Features,
        labels: Tensor,
        query: Features,
        n_way: int,
        class_text: Tensor | None,
        *,
        video_text: Tensor | None = None,
    ) -> Outputs:
        """Return "logits" and the levels they are fused from: "global", "temporal", "spatial", all (B, Q, N).

        `video_text` (B, S+Q, D), the texts of the supports and then of the queries, is what `compat="official"` with
        `semantic` reads; it serves to check parity with the released code, and nothing else passes it.
        """
        several_shots = labels.shape[1] > n_way
        metric = self.metric if self.metric != "auto" else "euclidean" if several_shots else "dot"
        if self.official and self.multi_scale and "patches" in query:
            support, query = mix_episode(support, query)
        prototypes = class_means(support["mean"], labels, n_way)
        levels = {"global": matching.similarity(query["mean"].unsqueeze(2), prototypes.unsqueeze(1), metric)}
        if "tuples" in {role.partition(".")[0] for role in query}:
            scramble = self.official and several_shots
            per_size = [
                self._video_scores(support, query, size, metric, scramble, video_text) for size in self.temp_set
            ]
            for level in per_size[0]:  # (B, Q, S): the mean over tuple sizes, then over a class's videos
                videos = torch.stack([scores[level] for scores in per_size]).mean(0)
                levels[level] = class_means(videos.transpose(1, 2), labels, n_way).transpose(1, 2)
        weighted = [self.fusion_weights[level] * score for level, score in levels.items()]
        return {"logits": torch.stack(weighted).sum(0), **levels}

    def _video_scores(
        self, support: Features, query: Features, size: int, metric: str, scramble: bool, video_text: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the temporal and the spatial scores (B, Q, S) of one tuple size, those of weight above zero."""
        own_tuples, other_tuples = query[f"tuples.{size}"], support[f"tuples.{size}"]
        own, other = matching.rank_tuples(own_tuples, other_tuples, self.n_tuples, scramble=scramble)
        scores = {}
        if self.fusion_weights["temporal"]:
            n_tuples = own_tuples.shape[2]
            counts = matching.count(own, n_tuples), matching.count(other, n_tuples)
            scores["temporal"] = matching.pooled_similarity(counts, own_tuples, other_tuples, metric)
        if self.fusion_weights["spatial"]:
            patches, others = query["patches"], support["patches"]
            frames = matching.frame_tuples(patches.shape[2], size, own.device)
            ranked = frames[own[..., : self.n_ranks]], frames[other[..., : self.n_ranks]]
            if self.semantic is not None and not self.official and "patch_weights" not in support:
                raise InputError(MISSING_TEXT)
            weights = self._released_weights(patches, ranked[0], video_text)
            weighted = others * support["patch_weights"].unsqueeze(-1) if "patch_weights" in support else others
            counts = matching.choose_patches(patches, weighted, *ranked, self.n_patches, weights)
            scores["spatial"] = matching.pooled_similarity(counts, patches.flatten(2, 3), others.flatten(2, 3), metric)
        return scores

    def _released_weights(self, patches: Tensor, frames: Tensor, video_text: Tensor | None) -> Tensor | None:
        if self.semantic is None or not self.official:
            return None
        if video_text is None:
            raise InputError(
                "hcl with semantic and compat='official' reads the texts of the query videos, which give away their "
                "classes: use compat='fixed'"
            )
        return released_row_weights(patches, frames, self.semantic(video_text))

    def pair_loss(self, batch: PairBatch) -> Losses:
        """Return the terms of weight above zero, unweighted, and their weighted sum "total".

        With `compat="official"` and `semantic` the released code depends on how rounding ranks the tuples of the first
        video against itself; `batch.extras["self_tuple"]` (one index per size) repeats a recorded outcome.
        """
        if int(batch.class_ids.max()) >= self.classifier.out_features:
            raise InputError(
                f"class id {int(batch.class_ids.max())} is outside the head's {self.classifier.out_features} classes: "
                "make the head with n_classes= the number of training classes"
            )
        terms = self.pair_terms(batch, [term for term, weight in self.loss_weights.items() if weight])
        total = torch.stack([self.loss_weights[term] * value for term, value in terms.items()]).sum()
        return {**terms, "total": total}

    def pair_terms(self, batch: PairBatch, wanted: Collection[str] = TERMS) -> Losses:
        """Return the `wanted` terms without their weights; levels are means over the cardinalities."""
        tokens = self.encoder(batch.features["map"])
        logits = self.classifier(tokens.mean((1, 2)))
        terms: dict[str, list[Tensor]] = {"classification": [F.cross_entropy(logits, batch.class_ids)]}
        for index, size in enumerate(self.temp_set):
            projected = self.spatial(tokens)
            patches = self._scales(projected, batch.features["map"])
            if self.official and self.multi_scale:
                patches = mix_frames(patches[None])[0]
            terms["global"] = [self._contrast(patches.mean((1, 2)) @ patches.mean((1, 2)).T)]
            if set(wanted) - {"classification", "global"}:
                tuples = self.temporal(self._tuples(tokens, size))
                matched = MatchedVideos.match(tuples, patches, size, self.n_tuples)
                weights = self._pair_weights(matched, batch, index)
                for term in set(wanted) - {"classification", "global"}:
                    terms.setdefault(term, []).append(self._level(term, matched, *weights))
            tokens = projected if self.official else tokens
        return {term: torch.stack(terms[term]).mean() for term in wanted}

    def _level(
        self, term: str, matched: MatchedVideos, row_weights: Tensor | None, patch_weights: Tensor | None
    ) -> Tensor:
        """Return one term of the temporal or the spatial level, a scalar."""
        if term == "temporal":
            return self._contrast(matched.temporal_scores())
        if term == "spatial":
            return self._contrast(matched.spatial_scores(self.n_patches, row_weights, patch_weights))
        if term == "temporal_cycle":
            return matched.temporal_cycle(self.temperature).mean()
        return matched.spatial_cycle(self.temperature, row_weights, patch_weights).mean()

    def _contrast(self, scores: Tensor) -> Tensor:
        return contrast(scores, self.temperature, count_self=self.official).mean()

    def _pair_weights(
        self, matched: MatchedVideos, batch: PairBatch, index: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the weights that texts give: to rows (V, t*P) in the released code, else to patches (V, T, P)."""
        if self.semantic is None:
            return None, None
        if batch.video_text is None:
            raise InputError(MISSING_TEXT)
        if not self.official:
            return None, self._patch_weights(matched.patches, batch.video_text)
        recorded = batch.extras.get("self_tuple")
        anchors = matched.anchor_patches(None if recorded is None else recorded[index])
        text = self.semantic(batch.video_text.mean(1))
        return (anchors @ text.unsqueeze(2)).squeeze(2).softmax(1), None

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
        """Return projected tuples (..., N, d) of the frame means of tokens (..., T, P, d)."""
        frames = tokens.mean(-2)
        *lead, n_frames, dim = frames.shape
        linear = self.tuple_linears[str(size)]
        assert isinstance(linear, nn.Linear)
        sums = tuple_slots(n_frames, size, frames.device, frames.dtype)
        tuples = sums @ slot_vectors(frames.reshape(-1, n_frames, dim), linear.weight, linear.bias, size)
        return tuples.view(*lead, *tuples.shape[1:])


register_preset(
    Preset(
        name="hcl",
        heads=("hcl",),
        source="scripts/train.sh of github.com/zhengsipeng/HCL-FSAR",
        note="the backbone stays frozen; all classes are drawn (officially never the first) and validation classes are "
        "not trained on; the released loop stops after one iteration per epoch, this one does all 1000 of 15 epochs",
        optimizer="adamw",
        lr=1e-4,
        weight_decay=1e-4,
        schedule=MultiStep((10_000,), 0.1),
        n_episodes=15_000,
        classes_per_batch=24,
        clip_norm=0.1,
    )
)
