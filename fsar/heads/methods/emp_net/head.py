"""EMP-Net: class tokens, frames and patches of three depths of a frozen CLIP, matched by text and by alignment."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Evidence, Explanation, FrameScores, PatchScores, prototype_labels
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Input, Losses, Outputs, TextTableHead, cross_entropy, register_head
from fsar.heads.layers.functional import (
    MAX_COSINE_DISTANCE,
    class_means,
    frame_distances,
    membership,
    two_way_alignment,
)
from fsar.heads.layers.option_checks import check_choice
from fsar.heads.layers.text_checks import mean_text
from fsar.heads.methods.emp_net.encoder import DEPTHS, LEVELS, Encoder, Levels, score, score_parts, text_cosines

SMOOTHING = 0.5
Encode = Callable[[Features, Tensor | None, Tensor | None], tuple[Tensor, ...]]
"""From the tokens of V videos, their own text (V, D) and the texts to score (V, C, D) to tensors (V, ...)."""


@register_head("emp-net")
class EmpNetHead(TextTableHead):
    """Mean of six probabilities per class: three levels (class token, frame, patch), by text and by alignment.

    Three stages take up the tokens of an early, a middle and the late layer of CLIP one after the other; a block per
    level refines the result. Each level is compared with the texts of the episode's classes, and, after the supports
    have been fused with the text of their class, aligned with class prototypes. The backbone is frozen in the published
    method too, so a store reproduces all of it. The stored tokens have been through CLIP's final norm and projection.

    Differences from the official code: any way instead of 5, and the texts of a class are found from all supports. The
    official code looks at the first `way` supports of the episode only and gives a class that it misses there the text
    of class 0 of the data set. `compat="official"` refuses such episodes, since they do not hold the text of class 0;
    with one shot there are none. (Parity tests override `overlooked_text`.)

    Args:
        dim: width D of tokens and text vectors, a multiple of 8.
        merge_before: average the supports of a class before they are fused with text (official 5-shot configs).
        attention_dropout: after the attentions' output projections.
        dropout: inside the feed-forward blocks.
        chunk_videos: videos encoded at a time: bounds the memory of evaluation, keeps activations near the processor.
        recompute: keep no activations of the encoder in training and compute them again in the backward pass: a
            fraction of the memory (6 GB for 30 videos otherwise) for a third more time.
        compat: "official" reproduces the text lookup described above.
    """

    inputs = tuple(Input(f"tokens_{depth}", ("tokens.",), "(1+P, D)") for depth in DEPTHS)
    text = "required"
    text_space = "image"
    class_roles = ("scores",)
    paper = (
        "Wu et al., Efficient Few-Shot Action Recognition via Multi-Level Post-Reasoning, ECCV 2024, "
        "https://github.com/cong-wu/EMP-Net"
    )

    def __init__(
        self,
        *,
        dim: int = 512,
        merge_before: bool = False,
        attention_dropout: float = 0.2,
        dropout: float = 0.05,
        chunk_videos: int = 4,
        recompute: bool = False,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        super().__init__()
        if dim % 8:
            raise InputError(f"the width of the tokens must be a multiple of 8, got {dim}")
        if chunk_videos < 1:
            raise InputError(f"chunk_videos must be at least 1, got {chunk_videos}")
        self.dim, self.merge_before = dim, merge_before
        self.chunk_videos, self.recompute = chunk_videos, recompute
        self.compat = check_choice("compat", compat, ("fixed", "official"))
        self.encoder = Encoder(dim, attention_dropout=attention_dropout, dropout=dropout)

    def embeds_alone(self, n_shot: int) -> bool:
        """Tell whether supports meet no other before `match`: not if texts depend on the order of several shots."""
        return n_shot == 1 or self.compat == "fixed"

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" and, per level, probabilities "<level>_logits" and "<level>_class_logits" (B, S+Q, N)."""
        scored, labels, support = self._episode(batch)
        query = self._encode(batch.query, None, scored)
        outputs = self._compare(support["levels"], labels, query["levels"], query["scores"], batch.n_way)
        scores = torch.cat((support["scores"], query["scores"]), 1).softmax(-1)  # (B, S+Q, 3, N)
        return {**outputs, **{f"{level}_class_logits": scores[:, :, i] for i, level in enumerate(LEVELS)}}

    def _episode(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor, Features]:
        """Return the texts (B, N, D) to score, and the labels and the fusions of supports or of their class means."""
        text = mean_text(batch.class_text, "emp-net", self.dim)  # (B, N, D)
        labels, n_way = batch.support_labels, batch.n_way
        scored = self._scored_text(text, labels)
        if self.merge_before and labels.shape[1] > n_way:
            support = self._merged(batch, text, scored)
            labels = torch.arange(n_way, device=labels.device).expand(len(labels), -1)
        else:
            own = text.gather(1, labels.unsqueeze(-1).expand(-1, -1, self.dim))  # (B, S, D)
            support = self._encode(batch.support, own, scored)
        return scored, labels, support

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the six terms of the logits: per level the alignment of frames, and what in the query meets the text.

        Of the patches, one position counts in all frames or in none.
        """
        scored, labels, support = self._episode(batch)
        prototypes = class_means(support["levels"], labels, batch.n_way)
        query = self._encode(batch.query, None, None)["levels"]
        evidence = [*self._text_evidence(batch, scored)]
        for i, level in enumerate(LEVELS):
            distance = frame_distances(query[:, :, i], prototypes[:, :, i])
            rows = prototype_labels(labels, batch.n_way)
            name = f"alignment of {level}s"
            evidence.append(
                align(name, distance, rows, batch.n_way, _aligned, weight=1 / 6, link="softmax", exact=False)
            )
        return Explanation(self(batch), tuple(evidence))

    def _text_evidence(self, batch: EpisodeBatch, scored: Tensor) -> list[Evidence]:
        def parts_of(tokens: Features, own: Tensor | None, text: Tensor | None) -> tuple[Tensor, ...]:
            assert text is not None
            return score_parts(*text_cosines(self.encoder.describe(tokens), text))

        token, frame, patch = self._in_chunks(parts_of, batch.query, None, scored)  # (B, Q, T, [P,] N)
        token, frame = token.transpose(-1, -2), frame.transpose(-1, -2)
        patch = patch.movedim(-1, 2)  # (B, Q, N, T, P)
        side = math.isqrt(patch.shape[-1])
        grid = (side, side) if side**2 == patch.shape[-1] else (1, patch.shape[-1])
        share = 1 / (2 * len(LEVELS))
        return [
            FrameScores(
                name="text by class tokens",
                score=token.sum(-1),
                weight=share,
                link="softmax",
                parts=token,
                method="text",
            ),
            FrameScores(
                name="text by frames", score=frame.sum(-1), weight=share, link="softmax", parts=frame, method="text"
            ),
            PatchScores(
                name="text by patches",
                score=patch.sum((-2, -1)),
                weight=share,
                link="softmax",
                parts=patch.reshape(*patch.shape[:-1], *grid),
            ),
        ]

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return "levels" (..., 3, T, D): class tokens, frames and patch means, of supports after fusion with text."""
        return self._encode(features, None if class_text is None else mean_text(class_text, "emp-net", self.dim), None)

    def overlooked_text(self) -> Tensor:
        """Return the text (D,) that the released code gives to a class that it overlooks."""
        raise InputError(
            "compat='official' gives a class that the first supports do not show the text of class 0 of the data set, "
            "which is not at hand here: use compat='fixed' (a checkpoint: import it with --compat fixed)"
        )

    def embed_tables(
        self, features: Features, class_text: Tensor, all_class_text: Tensor, n_shot: int = 1
    ) -> tuple[Features, Features]:
        """Return "levels", and of queries their "scores" (..., 3, C); all but the fusion with text is computed once.

        Where several shots are merged before that fusion, supports have their "token", "frame" and "patch".
        """
        merges = self.merge_before and n_shot > 1

        def encode(tokens: Features, own: Tensor | None, text: Tensor | None) -> tuple[Tensor, ...]:
            levels = self.encoder.describe(tokens)
            assert text is not None
            support = levels.parts if merges else (self.encoder.fuse(levels, own),)
            return self.encoder.fuse(levels, None), score(levels, text), *support

        own, text = (mean_text(each, "emp-net", self.dim) for each in (class_text, all_class_text))
        query, scores, *support = self._in_chunks(encode, features, own, text)
        return dict(zip(LEVELS if merges else ("levels",), support, strict=True)), {"levels": query, "scores": scores}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and "<level>_logits" from embedded videos and the "scores" of the queries."""
        support, query = episodes.support, episodes.query
        if "levels" not in support:
            text = mean_text(episodes.class_text, "emp-net", self.dim)
            parts = [support[level] for level in LEVELS]
            episodes = episodes.with_prototypes({"levels": self._fused_means(parts, episodes, text)})
        levels, labels = episodes.support["levels"], episodes.support_labels
        return self._compare(levels, labels, query["levels"], query["scores"], episodes.n_way)

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return one cross entropy per level and kind, and their sum as "total".

        As published, probabilities go through a softmax a second time: a 5-way total lies between 5.43 and 11.43.
        """
        both = torch.cat((batch.support_labels, targets.query_labels), 1)
        losses = {level: cross_entropy(outputs[f"{level}_logits"], targets.query_labels) for level in LEVELS}
        losses |= {f"{level}_class": cross_entropy(outputs[f"{level}_class_logits"], both) for level in LEVELS}
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def _encode(self, features: Features, own_text: Tensor | None, scored_text: Tensor | None) -> Features:
        """Return "levels" (..., 3, T, D) and, against `scored_text` (C, D) or (B, C, D), "scores" (..., 3, C).

        Texts of their own, `own_text` (..., D), make supports of the videos.
        """
        parts = self._in_chunks(self._encode_chunk, features, own_text, scored_text)
        return dict(zip(("levels", "scores"), parts, strict=False))

    def _encode_chunk(self, tokens: Features, own: Tensor | None, text: Tensor | None) -> tuple[Tensor, ...]:
        """Return the fused levels of a few videos and, against `text`, their scores; `own` text makes them supports."""
        levels = self.encoder.describe(tokens)
        fused = self.encoder.fuse(levels, own)
        return (fused,) if text is None else (fused, score(levels, text))

    def _merged(self, batch: EpisodeBatch, text: Tensor, scored_text: Tensor) -> Features:
        """Return what `_encode` does for the means of the classes: "levels" (B, N, ...); "scores" of every support."""

        def encode(tokens: Features, own: Tensor | None, text: Tensor | None) -> tuple[Tensor, ...]:
            levels = self.encoder.describe(tokens)
            assert text is not None
            return *levels.parts, score(levels, text)

        *parts, scores = self._in_chunks(encode, batch.support, None, scored_text)
        return {"levels": self._fused_means(parts, batch, text), "scores": scores}

    def _fused_means(self, parts: Sequence[Tensor], batch: EpisodeBatch, text: Tensor) -> Tensor:
        """Return the levels (B, N, 3, T, D) of class means, fused with the text (B, N, D) of the classes.

        `parts` are those of `Levels` for every support, (B, S, ...).
        """
        means = (class_means(part, batch.support_labels, batch.n_way).flatten(0, 1) for part in parts)
        fused = self.encoder.fuse(Levels(*means), text.flatten(0, 1))
        return fused.view(-1, batch.n_way, *fused.shape[1:])

    def _in_chunks(self, encode: Encode, features: Features, own: Tensor | None, scored: Tensor | None) -> list[Tensor]:
        """Run `encode` on a few videos at a time; return its results with the leading axes (...) of the features."""
        lead = features["tokens_late"].shape[:-3]
        tokens = {role.role: features[role.role].flatten(0, -4) for role in self.inputs}
        n_videos = len(tokens["tokens_late"])
        if own is not None:
            own = own.reshape(n_videos, self.dim)
        if scored is not None and scored.ndim == 3:  # the texts of an episode go with each of its videos
            scored = scored.unsqueeze(1).expand(*lead, -1, -1).flatten(0, -3)
        elif scored is not None:
            scored = scored.expand(n_videos, -1, -1)
        dtype = self.encoder.early.spatial.norm.weight.dtype
        chunks = []
        for start in range(0, n_videos, self.chunk_videos):
            rows = slice(start, start + self.chunk_videos)
            arguments = (
                {role: x[rows].to(dtype) for role, x in tokens.items()},
                None if own is None else own[rows],
                None if scored is None else scored[rows],
            )
            if self.recompute and torch.is_grad_enabled():
                chunks.append(checkpoint(encode, *arguments, use_reentrant=False))
            else:
                chunks.append(encode(*arguments))
        joined = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return [part.view(*lead, *part.shape[1:]) for part in joined]

    @staticmethod
    def _compare(support: Tensor, labels: Tensor, query: Tensor, scores: Tensor, n_way: int) -> Outputs:
        """Return the outputs for levels (B, S, 3, T, D) and (B, Q, 3, T, D) and text scores (B, Q, 3, N)."""
        prototypes = class_means(support, labels, n_way)
        # The levels join the episodes, so that one sweep aligns all of them.
        query, prototypes = (x.transpose(1, 2).flatten(0, 1) for x in (query, prototypes))
        cost = _aligned(frame_distances(query, prototypes))
        cost = cost.view(-1, len(LEVELS), *cost.shape[1:])  # (B, 3, Q, N)
        aligned = (-cost).softmax(-1)
        outputs = {"logits": (aligned.sum(1) + scores.softmax(-1).sum(2)) / (2 * len(LEVELS))}
        for i, level in enumerate(LEVELS):
            outputs[f"{level}_logits"], outputs[f"{level}_cost"] = aligned[:, i], cost[:, i]
        return outputs

    def _scored_text(self, text: Tensor, labels: Tensor) -> Tensor:
        """Return the texts (B, N, D) that videos are scored against."""
        if self.compat == "fixed":
            return text
        overlooked = _overlooked(labels, text.shape[1])
        return torch.where(overlooked.unsqueeze(-1), self.overlooked_text(), text) if bool(overlooked.any()) else text


def _aligned(distance: Tensor) -> Tensor:
    """Return the alignment cost of distances (..., T, T): (...)."""
    return two_way_alignment(distance, SMOOTHING, MAX_COSINE_DISTANCE)


def _overlooked(labels: Tensor, n_way: int) -> Tensor:
    """Return which classes (B, N) the first `n_way` of the supports with labels (B, S) do not show."""
    return ~membership(labels[:, :n_way], n_way).any(1)
