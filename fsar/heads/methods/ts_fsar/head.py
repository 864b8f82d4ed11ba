"""TS-FSAR: a side network on the levels of a frozen CLIP, matched by distance correlation under a matrix per task."""

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Input, Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.functional import class_means, offset_cosine
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.layers.text_checks import unit_text
from fsar.heads.methods.ts_fsar.correlation import channel_distances
from fsar.heads.methods.ts_fsar.side import Attention, SideBlock, SideNetwork
from fsar.heads.methods.ts_fsar.start import n_blocks, start_attention, start_block, tower_block

CLIP_HEADS = 8
OFFICIAL_EPS = 1e-8
EMBEDDED = ("frames", "token", "clip", "side")
LEVELS = Input("level", ("tokens.*.raw",), "(1+P, D)", per_level=True)


@register_head("ts-fsar")
class TSFSAR(TableHead):
    """Match frames by the distance correlation of their channels, weighed by a matrix that is made for each query.

    Long et al., "Task-Specific Distance Correlation Matching for Few-Shot Action Recognition", AAAI 2026,
    https://arxiv.org/abs/2512.11340. A narrow transformer reads the tokens of a frozen CLIP level by level: what enters
    its first block, and what each block gives. A frame is the distances between the channels of that side network over
    its patches. How much each pair of a query's and a class's frames counts says a matrix generated from the class
    tokens of the whole episode. Two more branches compare videos with the texts of the classes: CLIP's own frames after
    one attention over time, and the side network's; at test the three probabilities are multiplied, each to a power.

    The published network reads all 13 levels of a ViT-B/16, 31 MB for a video of 8 frames in half precision. Here a few
    stored levels do: `levels` says which, all that the store has by default. A side block then stands for all blocks
    between its two levels. In training every video is also told apart among all training classes, by a classifier that
    text teaches; `n_classes` comes from the training part.

    Any text table of the same CLIP serves; several vectors of a class count as their mean direction. The published
    numbers are with sentences that a language model wrote about each class: JSON files of the official repository,
    which `fsar-prep text --descriptions FILE --cut` reads as they are.

    Published, the blocks start from principal components of CLIP's weights. `fsar-train-head` does that from the
    weights of the backbone that made the store, and refuses to go on where they are not at hand; `start=random` asks
    for random weights. A head made by `create_head` is random.

    Differences from the official code: class means serve unequal shots; a fused probability that underflows stays
    comparable, where the official code adds 1e-8 and calls a tie (`compat="official"`).
    """

    inputs: tuple[Input, ...] = (LEVELS, Input("clip", ("pooled",), "(E,)"))
    text = "required"
    text_space = "image"
    embeds_text = False
    paper = (
        "Long et al., Task-Specific Distance Correlation Matching for Few-Shot Action Recognition, AAAI 2026, "
        "https://arxiv.org/abs/2512.11340"
    )

    def __init__(
        self,
        *,
        dim: int = 768,
        text_dim: int = 512,
        n_frames: int = 8,
        n_classes: int | None = None,
        levels: Sequence[int] = tuple(range(13)),
        temporal_blocks: Sequence[int] = (6, 8, 10),
        side_dim: int = 256,
        mlp_ratio: float = 4.0,
        exponent: float = 0.4,
        adapter_share: float = 1.6,
        clip_scale: float = 50.0,
        side_scale: float = 50.0,
        fuse_vision: float = 0.4,
        fuse_clip: float = 0.2,
        fuse_side: float = 0.4,
        loss_vision: float = 1.0,
        loss_classes: float = 2.0,
        loss_side: float = 0.1,
        loss_distillation: float = 0.1,
        distillation_temperature: float = 4.0,
        dropout: float = 0.7,
        start: Literal["backbone", "random"] = "backbone",
        chunk_videos: int = 4,
        recompute: bool = False,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head. Defaults are the published setting for Something-Something V2 Small, 1 shot.

        Args:
            dim: Width of the stored tokens.
            text_dim: Width of class text and of the class token behind CLIP's projection.
            n_frames: Frames T of a video; the generated matrix is T x T.
            n_classes: Training classes; None for no classifier of them, and then nothing is distilled.
            levels: Levels that are read, ascending: 0 is what the first block is given, K what block K gives.
            temporal_blocks: Blocks of CLIP (from 0) whose side block attends over time.
            side_dim: Channels d of the side network, a multiple of 64.
            mlp_ratio: Hidden width of its feed-forward parts, in d.
            exponent: Of squared distances between channels.
            adapter_share: Weight a of the attention beside CLIP's frames, which count 2 - a.
            clip_scale: Factor of the cosines of CLIP's frames with text.
            side_scale: Factor of those of the side network.
            fuse_vision: Exponent of the matching's probabilities at test.
            fuse_clip: Of those of CLIP's frames with text.
            fuse_side: Of those of the side network with text.
            loss_vision: Weight of the episode's own loss.
            loss_classes: Weight of the classifier of all training classes.
            loss_side: Weight of the side network's text loss.
            loss_distillation: Weight of the classifier's distance to CLIP's text scores, and of those scores' own loss.
            distillation_temperature: Of both in that distance.
            dropout: In front of the classifier.
            start: "backbone" starts training from principal components of its blocks, "random" does not.
            chunk_videos: Videos embedded at a time: bounds the memory of evaluation.
            recompute: Keep no activations of the side network in training and compute them again in the backward pass.
            compat: "official" adds 1e-8 to fused probabilities.
        """
        super().__init__()
        levels = tuple(levels)
        if len(levels) < 2 or list(levels) != sorted(set(levels)) or levels[0] < 0:
            raise InputError(f"levels must be two or more numbers from 0, ascending, got {levels}")
        if text_dim % CLIP_HEADS:
            raise InputError(f"text_dim must be a multiple of {CLIP_HEADS}, got {text_dim}")
        self.inputs = (*LEVELS.at(levels), *type(self).inputs[1:])
        self.levels, self.text_dim = levels, text_dim
        self.network = SideNetwork(dim, side_dim, levels, temporal_blocks=temporal_blocks, mlp_ratio=mlp_ratio)
        self.up_norm, self.up = nn.LayerNorm(side_dim), nn.Linear(side_dim, text_dim, bias=False)
        self.clip_norm, self.clip_attention = nn.LayerNorm(text_dim), Attention(text_dim, CLIP_HEADS)
        width = side_dim * (side_dim + 1) // 2
        self.classifier = None if n_classes is None else nn.Linear(width, n_classes, bias=False)
        self.dropout = Dropout(dropout)
        self.generator = nn.Linear(side_dim, check_positive("n_frames", n_frames) ** 2, bias=False)
        self.exponent, self.adapter_share = exponent, adapter_share
        self.clip_scale, self.side_scale = clip_scale, side_scale
        self.fuse = {"vision": fuse_vision, "clip": fuse_clip, "side": fuse_side}
        self.loss_weights = {
            "vision": loss_vision,
            "classes": loss_classes,
            "side": loss_side,
            "clip": loss_distillation,
            "distillation": loss_distillation,
        }
        self.temperature = distillation_temperature
        self.starts_from_backbone = check_choice("start", start, ("backbone", "random")) == "backbone"
        self.chunk_videos, self.recompute = check_positive("chunk_videos", chunk_videos), recompute
        self.official = check_choice("compat", compat, ("fixed", "official")) == "official"

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the "frames" (..., T, d (d + 1) / 2), the mean class "token" (..., d), and "clip" and "side" (..., E).

        The last two are unit vectors, to compare with text.
        """
        lead = features["clip"].shape[:-2]
        tensors = [features[item.role] for item in self.inputs]
        flat = [tensor.flatten(0, len(lead) - 1) for tensor in tensors]
        chunks = zip(*(torch.split(tensor, self.chunk_videos) for tensor in flat), strict=True)
        parts = [self._embedded(chunk) for chunk in chunks]
        joined = (torch.cat(own) for own in zip(*parts, strict=True))
        return {role: x.view(*lead, *x.shape[1:]) for role, x in zip(EMBEDDED, joined, strict=True)}

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return what `match` does, and what was embedded of the supports and the queries, for the loss."""
        support, query = self.embed(batch.support), self.embed(batch.query)
        matched = self.match(batch.embedded(support, query))
        of_support = {f"support_{role}": x for role, x in support.items()}
        return {**matched, **of_support, **{f"query_{role}": x for role, x in query.items()}}

    def start_from_backbone(self, tower: Mapping[str, Tensor]) -> None:
        """Give every side block the principal components of the last block that it stands for.

        CLIP's attention over time gets those of the last block of all.
        """
        for block, level in zip(self.network.blocks, self.levels[1:], strict=True):
            start_block(cast(SideBlock, block), tower_block(tower, level - 1))
        start_attention(self.clip_attention, tower_block(tower, n_blocks(tower) - 1))

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), the "score" of matching that they are in training, and the "matrix" (B, Q, T, T).

        In evaluation logits are logarithms of the fused probabilities.
        """
        support, query = episodes.support, episodes.query
        prototypes = class_means(support["frames"], episodes.support_labels, episodes.n_way)  # (B, N, T, X)
        n_query, n_frames = query["frames"].shape[1:3]
        alike = offset_cosine(query["frames"].flatten(1, 2), prototypes.flatten(1, 2))
        alike = alike.view(-1, n_query, n_frames, episodes.n_way, n_frames)
        task = support["token"].mean(1, keepdim=True) + query["token"]  # (B, Q, d)
        matrix = self.generator(task).unflatten(-1, (n_frames, n_frames))
        score = torch.einsum("bqtnu,bqtu->bqn", alike, matrix)
        logits = score if self.training else self._fused(score, query, episodes.class_text)
        return {"logits": logits, "score": score, "matrix": matrix}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "vision" over the classes of the episode, "classes", "side" and "clip" over all training classes.

        And "distillation", the divergence of the classifier from CLIP's text scores, which learn from it as well.
        """
        text = unit_text(targets.all_class_text, "ts-fsar", self.text_dim)  # (C, E)
        scores = {name: logits.flatten(0, 1) for name, logits in self.class_logits(outputs, text).items()}
        class_ids = _class_ids(targets)
        losses = {"vision": cross_entropy(outputs["score"], targets.query_labels)}
        losses |= {name: F.cross_entropy(logits, class_ids) for name, logits in scores.items()}
        if "classes" in scores:
            losses["distillation"] = divergence(scores["classes"], scores["clip"], self.temperature)
        total = torch.stack([self.loss_weights[name] * loss for name, loss in losses.items()]).sum()
        return {**losses, "total": total}

    def class_logits(self, outputs: Outputs, text: Tensor) -> dict[str, Tensor]:
        """Return the logits (B, S+Q, C) of every video, supports first, by "clip", "side" and, with one, "classes".

        `text` (C, E) holds the unit vectors of all classes.
        """
        clip, side = (torch.cat((outputs[f"support_{role}"], outputs[f"query_{role}"]), 1) for role in ("clip", "side"))
        found = {"clip": self.clip_scale * clip @ text.T, "side": self.side_scale * side @ text.T}
        if self.classifier is not None:
            videos = torch.cat([outputs[f"{part}_frames"].mean(2) for part in ("support", "query")], 1)
            found["classes"] = self.classifier(self.dropout(videos))
        return found

    def _embedded(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return what `embed` does for a few videos."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._embed_videos, *tensors, use_reentrant=False)
        return self._embed_videos(*tensors)

    def _embed_videos(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        *levels, clip = tensors
        tokens = self.network(levels)  # (V, T, 1+P, d)
        token, patches = tokens[:, :, 0], tokens[:, :, 1:]
        frames = channel_distances(token, patches, self.exponent)
        mixed = (2 - self.adapter_share) * clip + self.adapter_share * self.clip_attention(self.clip_norm(clip))
        side = self.up(self.up_norm(token))
        return frames, token.mean(1), F.normalize(mixed.mean(1), dim=-1), F.normalize(side.mean(1), dim=-1)

    def _fused(self, score: Tensor, query: Features, class_text: Tensor | None) -> Tensor:
        """Return the logarithms (B, Q, N) of the product of the three probabilities, each to its power."""
        text = unit_text(class_text, "ts-fsar", self.text_dim).transpose(1, 2)  # (B, E, N)
        logits = {
            "vision": score,
            "clip": self.clip_scale * query["clip"] @ text,
            "side": self.side_scale * query["side"] @ text,
        }
        fused = torch.stack([self.fuse[name] * own.log_softmax(-1) for name, own in logits.items()]).sum(0)
        return (fused.exp() + OFFICIAL_EPS).log() if self.official else fused


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return t^2 times the mean over videos of KL(teacher | student) of logits (V, C) over t; both get gradients."""
    learnt, taught = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(learnt, taught, reduction="batchmean", log_target=True)


def _class_ids(targets: Targets) -> Tensor:
    """Return the class ids of all videos, supports first, episode by episode: (B * (S+Q),)."""
    assert targets.support_class_ids is not None
    assert targets.query_class_ids is not None
    return torch.cat((targets.support_class_ids, targets.query_class_ids), 1).flatten()
