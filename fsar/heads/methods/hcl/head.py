"""HCL: hierarchical matching of videos, frames and patches, trained by contrast instead of episodes."""

from collections.abc import Collection
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, PairBatch
from fsar.heads.explain.evidence import Evidence, Explanation
from fsar.heads.head import Input, Losses, Outputs, register_head
from fsar.heads.layers.functional import class_means, class_scores
from fsar.heads.methods.hcl import evidence, matching
from fsar.heads.methods.hcl.losses import MatchedVideos, contrast
from fsar.heads.methods.hcl.parts import TERMS, HCLParts
from fsar.heads.methods.hcl.quirks import mix_episode, mix_frames, released_row_weights

MISSING_TEXT = (
    "hcl with semantic needs text vectors of the classes: add a table to the store with `fsar-prep text STORE "
    "--encoder bert --templates hcl` and name it with --text"
)


@register_head("hcl")
class HCL(HCLParts):
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

    inputs = (Input("map", ("map",), "(D, h, w)"),)
    text: ClassVar[Literal["none", "optional", "required"]] = "optional"
    training_unit: ClassVar[Literal["episodes", "pairs"]] = "pairs"
    paper: ClassVar[str] = (
        "Zheng, Chen, Jin: Few-Shot Action Recognition with Hierarchical Matching and Contrastive Learning, ECCV 2022, "
        "https://doi.org/10.1007/978-3-031-19772-7_18"
    )

    old_options = MappingProxyType({"ffn_dim": "hidden"})

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return per video: "tuples.t" (..., G, d) and "patches" (..., T, P, d) unit vectors, "mean" (..., d).

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

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" and the levels they are fused from: "global", "temporal", "spatial", all (B, Q, N)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        several_shots = labels.shape[1] > n_way
        metric = self._metric(several_shots)
        if self.official and self.multi_scale and "patches" in query:
            support, query = mix_episode(support, query)
        prototypes = class_means(support["mean"], labels, n_way)
        levels = {"global": matching.similarity(query["mean"].unsqueeze(2), prototypes.unsqueeze(1), metric)}
        if "tuples" in {role.partition(".")[0] for role in query}:
            scramble = self.official and several_shots
            per_size = [self._video_scores(support, query, size, metric, scramble) for size in self.temp_set]
            for level in per_size[0]:  # (B, Q, S): the mean over tuple sizes, then over a class's videos
                videos = torch.stack([scores[level] for scores in per_size]).mean(0)
                levels[level] = class_scores(videos, labels, n_way)
        weighted = [self.fusion_weights[level] * score for level, score in levels.items()]
        return {"logits": torch.stack(weighted).sum(0), **levels}

    def _metric(self, several_shots: bool) -> str:
        return self.metric if self.metric != "auto" else "euclidean" if several_shots else "dot"

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return what patches and tuples of frames add to the scores of the levels.

        `compat="official"` mixes up frames and tuples of several videos: there, frames are left out one by one.
        """
        if self.official:
            return super().explain(batch)
        support, query = self.embed(batch.support, batch.support_text), self.embed(batch.query)
        maps = batch.query["map"]
        found = [self._global_evidence(batch, support, maps)]
        for size in self.temp_set:
            found += self._size_evidence(batch, support, query, size)
        return Explanation(self(batch), tuple(found))

    def _global_evidence(self, batch: EpisodeBatch, support: Features, maps: Tensor) -> Evidence:
        labels, n_way = batch.support_labels, batch.n_way
        metric = self._metric(labels.shape[1] > n_way)
        patches = self._scales(matching.unit(self.encoder(maps)), maps).flatten(2, 3)  # (B, Q, T*P, d)
        n_parts = patches.shape[2]
        prototypes = class_means(support["mean"], labels, n_way).unsqueeze(1).expand(-1, patches.shape[1], -1, -1)
        shares = patches.new_full((*prototypes.shape[:3], n_parts), 1 / n_parts)
        parts = evidence.mean_parts(shares, patches, prototypes, metric)
        return evidence.patch_evidence(
            "whole videos", self.fusion_weights["global"], parts, maps.shape[2], (maps.shape[-2], maps.shape[-1])
        )

    def _size_evidence(self, batch: EpisodeBatch, support: Features, query: Features, size: int) -> list[Evidence]:
        """Return the evidence of the temporal and the spatial level for one tuple size, those of weight above zero."""
        if f"tuples.{size}" not in query:
            return []
        labels, n_way, maps = batch.support_labels, batch.n_way, batch.query["map"]
        metric, n_frames = self._metric(labels.shape[1] > n_way), maps.shape[2]
        own_tuples, other_tuples = query[f"tuples.{size}"], support[f"tuples.{size}"]
        pairs = own, other = matching.rank_tuples(own_tuples, other_tuples, self.n_tuples)
        found: list[Evidence] = []
        if self.fusion_weights["temporal"]:
            n_tuples = own_tuples.shape[2]
            counts = matching.count(own, n_tuples), matching.count(other, n_tuples)
            parts = evidence.of_classes(evidence.counted_parts(counts, own_tuples, other_tuples, metric), labels, n_way)
            weight = self.fusion_weights["temporal"] / len(self.temp_set)
            found.append(evidence.tuple_evidence(weight, parts, pairs, n_frames, size, labels))
        if self.fusion_weights["spatial"]:
            counts = self._patch_counts(support, query, pairs, size)
            parts = evidence.counted_parts(
                counts, query["patches"].flatten(2, 3), support["patches"].flatten(2, 3), metric
            )
            weight = self.fusion_weights["spatial"] / len(self.temp_set)
            parts = evidence.of_classes(parts, labels, n_way)
            grid = (maps.shape[-2], maps.shape[-1])
            found.append(evidence.patch_evidence(f"patches of tuples of {size}", weight, parts, n_frames, grid))
        return found

    def _patch_counts(
        self, support: Features, query: Features, pairs: tuple[Tensor, Tensor], size: int
    ) -> tuple[Tensor, Tensor]:
        """Return how often each patch of queries and supports is chosen, both (B, Q, S, T*P)."""
        patches, others = query["patches"], support["patches"]
        frames = matching.frame_tuples(patches.shape[2], size, patches.device)
        ranked = [frames[side[..., : self.n_ranks]] for side in pairs]
        if self.semantic is not None and not self.official and "patch_weights" not in support:
            raise InputError(MISSING_TEXT)
        weights = self._released_weights(patches, ranked[0])
        weighted = others * support["patch_weights"].unsqueeze(-1) if "patch_weights" in support else others
        return matching.choose_patches(patches, weighted, ranked[0], ranked[1], self.n_patches, weights)

    def _video_scores(
        self, support: Features, query: Features, size: int, metric: str, scramble: bool
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
            counts = self._patch_counts(support, query, (own, other), size)
            patches, others = query["patches"].flatten(2, 3), support["patches"].flatten(2, 3)
            scores["spatial"] = matching.pooled_similarity(counts, patches, others, metric)
        return scores

    def _released_weights(self, patches: Tensor, frames: Tensor) -> Tensor | None:
        if self.semantic is None or not self.official:
            return None
        return released_row_weights(patches, frames, self.semantic(self.leaked_text()))

    def leaked_text(self) -> Tensor:
        """Return the texts (B, S+Q, D) of supports and queries, which the released code reads with `semantic`."""
        raise InputError(
            "hcl with semantic and compat='official' reads the texts of the query videos, which give away their "
            "classes: use compat='fixed' (a checkpoint: import it with --compat fixed)"
        )

    def pair_loss(self, batch: PairBatch) -> Losses:
        """Return the terms of weight above zero, unweighted, and their weighted sum "total"."""
        self._check_classes(batch.class_ids)
        terms = self.pair_terms(batch, [term for term, weight in self.loss_weights.items() if weight])
        total = torch.stack([self.loss_weights[term] * value for term, value in terms.items()]).sum()
        return {**terms, "total": total}

    def _check_classes(self, class_ids: Tensor) -> None:
        """Raise InputError for a class that the classifier lacks; on a GPU torch says so itself, without waiting."""
        n_classes = self.classifier.out_features
        if class_ids.device.type == "cpu" and (largest := int(class_ids.numpy().max())) >= n_classes:
            raise InputError(
                f"class id {largest} is outside the head's {n_classes} classes: "
                "make the head with n_classes= the number of training classes"
            )

    def pair_terms(self, batch: PairBatch, wanted: Collection[str] = TERMS) -> Losses:
        """Return the `wanted` terms without their weights; levels are means over the cardinalities."""
        tokens = self.encoder(batch.features["map"])
        logits = self.classifier(tokens.mean((1, 2)))
        # In a fixed order: that of a set changes from process to process, and with it the last bit of the gradients.
        levels = [term for term in TERMS if term in wanted and term not in ("classification", "global")]
        terms: dict[str, list[Tensor]] = {"classification": [F.cross_entropy(logits, batch.class_ids)]}
        for index, size in enumerate(self.temp_set):
            projected = self.spatial(tokens)
            patches = self._scales(projected, batch.features["map"])
            if self.official and self.multi_scale:
                patches = mix_frames(patches[None])[0]
            # Of the last size alone, as published.
            terms["global"] = [self._contrast(patches.mean((1, 2)) @ patches.mean((1, 2)).T)]
            if levels:
                tuples = self.temporal(self._tuples(tokens, size))
                matched = MatchedVideos.match(tuples, patches, size, self.n_tuples)
                weights = self._pair_weights(matched, batch, index)
                for term in levels:
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

    def anchor_tuples(self, matched: MatchedVideos, index: int) -> Tensor:
        """Return the tuple (V,) of each video, of the tuple size at `index`, that best meets the first video.

        The first video against itself is a tie that rounding decides, in the released code too.
        """
        return matched.own[:, 0, 0]

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
        anchors = matched.anchor_patches(self.anchor_tuples(matched, index))
        text = self.semantic(batch.video_text.mean(1))
        return (anchors @ text.unsqueeze(2)).squeeze(2).softmax(1), None
