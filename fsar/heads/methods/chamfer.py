"""Chamfer++ and the family of matching functions that it was compared with."""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.frame_tuples import all_tuples, slot_vectors, tuple_slots
from fsar.heads.layers.functional import (
    MAX_COSINE_DISTANCE,
    class_scores,
    frame_distances,
    group_by_class,
    two_way_alignment,
)
from fsar.heads.layers.option_checks import check_choice, check_positive

Matching = Literal["chamfer", "chamfer-query", "chamfer-support", "mean", "max", "diag", "linear", "otam"]
PROJECTION_WIDTH = 1152
SMOOTHING = 0.1


class SimilarityNetwork(nn.Module):
    """ViSiL's network on a similarity map: four convolutions that see neighbouring pairs of frames.

    Kordopatis-Zilos et al., "ViSiL", ICCV 2019, https://arxiv.org/abs/1908.07410; without biases.
    """

    def __init__(self) -> None:
        """Build the network."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.conv4 = nn.Conv2d(128, 1, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (..., L // 4, M // 4) in -1..1 from maps (..., L, M)."""
        if min(maps.shape[-2:]) < 4:
            raise InputError(f"visil needs 4 frames or tuples a video, got {min(maps.shape[-2:])}")
        x = F.relu(F.max_pool2d(self.conv1(maps.flatten(0, -3).unsqueeze(1)), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = self.conv4(self.conv3(x)).squeeze(1).clamp(-1, 1)
        return x.view(*maps.shape[:-2], *x.shape[1:])


@register_head("chamfer")
class Chamfer(TableHead):
    """Score a query by a simple function of its frames' similarities to those of the supports.

    Bertrand, Kalantidis, Tolias, "Rethinking matching-based few-shot action recognition", SCIA 2023,
    https://arxiv.org/abs/2303.16084. Frames or tuples of frames are projected, compared by cosine, and the map of
    similarities becomes one number: by the nearest frames in both directions (chamfer), or by one of the functions that
    the paper compares it with. `matching=chamfer joint=true tuple_length=3 project=true` is Chamfer++.

    Differences from the official code, which `compat="official"` gives back: supports may come in any order and in
    unequal numbers; "mean" divides by all cells, not by the query's frames alone; alignment is computed by log-sum-exp
    (the official recursion overflows on long maps).
    """

    paper = (
        "Bertrand et al., Rethinking matching-based few-shot action recognition, SCIA 2023, "
        "https://arxiv.org/abs/2303.16084"
    )

    def __init__(
        self,
        *,
        dim: int,
        n_frames: int = 8,
        matching: Matching = "chamfer",
        joint: bool = True,
        tuple_length: int = 3,
        project: bool = True,
        out_dim: int = PROJECTION_WIDTH,
        visil: bool = False,
        temperature: float = 100.0,
        temperature_weight: float = 0.1,
        learn_temperature: Literal["weight", "both", "none"] = "weight",
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            n_frames: Frames T of a video; only "linear" has weights for each pair of them.
            matching: Function of the similarity map.
            joint: Put the supports of a class side by side and compare once, instead of averaging over them.
            tuple_length: Frames in a tuple, all in time order; 1 compares single frames.
            project: Learn a projection and a layer norm of the tuples (what the published training trains).
            out_dim: Width of the projection.
            visil: Run the maps through ViSiL's network first.
            temperature: Factor of the scores.
            temperature_weight: Start of another factor of the scores.
            learn_temperature: Which of the two factors are trained.
            compat: "official" leaves "mean" undivided by the support's frames, and matches the first support alone in
                joint "diag".
        """
        super().__init__()
        self.matching: Matching = matching
        check_choice("matching", matching, get_args(Matching))
        self.joint, self.official = joint, check_choice("compat", compat, ("fixed", "official")) == "official"
        self.tuple_length = check_positive("tuple_length", tuple_length)
        if matching == "linear" and (tuple_length > 1 or joint):
            raise InputError("matching=linear weighs each pair of frames: it needs tuple_length=1 joint=false")
        self.fc = nn.Linear(tuple_length * dim, check_positive("out_dim", out_dim)) if project else None
        self.layer_norm = nn.LayerNorm(out_dim) if project else nn.Identity()
        self.linear = nn.Linear(n_frames**2, 1, bias=False) if matching == "linear" else None
        self.visil = SimilarityNetwork() if visil else nn.Identity()
        learned = check_choice("learn_temperature", learn_temperature, ("weight", "both", "none"))
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learned == "both")
        self.temperature_weight = nn.Parameter(torch.tensor([temperature_weight]), requires_grad=learned != "none")

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the projected tuples, "tuples" (..., L, P)."""
        frames = features["frames"]
        if self.fc is None:
            return {"tuples": plain_tuples(frames, self.tuple_length)}
        flat = frames.flatten(0, -3)
        slots = slot_vectors(flat, self.fc.weight, self.fc.bias, self.tuple_length)
        choose = tuple_slots(frames.shape[-2], self.tuple_length, frames.device, frames.dtype)
        tuples = self.layer_norm(choose @ slots)
        return {"tuples": tuples.view(*frames.shape[:-2], *tuples.shape[1:])}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the frames' cosines "similarity" (B, Q, S, L, L)."""
        support, query = episodes.support, episodes.query
        labels, n_way = episodes.support_labels, episodes.n_way
        similarity = 1 - frame_distances(query["tuples"], support["tuples"])
        if self.joint:
            scores = self._joint(similarity, episodes)
        else:
            scores = class_scores(self._score(similarity), labels, n_way)
        return {"logits": scores * self.temperature_weight * self.temperature, "similarity": similarity}

    def _joint(self, similarity: Tensor, episodes: EpisodeBatch) -> Tensor:
        """Return scores (B, Q, N) of queries against the supports of a class side by side."""
        labels = episodes.support_labels
        index, _ = group_by_class(labels, episodes.n_way, episodes.n_shot)  # (B, N, K)
        if episodes.n_way * episodes.n_shot == labels.shape[1]:
            return self._score(side_by_side(similarity, index))
        # Unequal shots: each class has a map of a width of its own.
        columns = []
        for episode, shots in enumerate(episodes.shots):
            one = similarity[episode : episode + 1]
            rows = [row[:n].view(1, 1, -1) for row, n in zip(index[episode], shots, strict=True)]
            columns.append(torch.cat([self._score(side_by_side(one, row)) for row in rows], -1))
        return torch.cat(columns)

    def _score(self, maps: Tensor) -> Tensor:
        """Return one number for each map (..., L, M): (...)."""
        match self.matching:
            case "chamfer":
                return (self._nearest(maps) + self._nearest(maps.transpose(-1, -2))) / 2
            case "chamfer-query":
                return self._nearest(maps)
            case "chamfer-support":
                # ViSiL's network is not symmetric: as in the official code it sees the transposed map.
                return self._nearest(maps.transpose(-1, -2))
            case "mean":
                return self._mean(self._seen(maps))
            case "max":
                return self._seen(maps).amax((-1, -2))
            case "diag":
                return self._diagonal(self._seen(maps))
            case "otam":
                return -two_way_alignment(1 - self._seen(maps), SMOOTHING, MAX_COSINE_DISTANCE) / 2
            case "linear":
                return self._linear(self._seen(maps))

    def _seen(self, maps: Tensor) -> Tensor:
        return self.visil(maps)

    def _nearest(self, maps: Tensor) -> Tensor:
        """Return the mean over rows of the best column."""
        return self._seen(maps).amax(-1).mean(-1)

    def _mean(self, maps: Tensor) -> Tensor:
        return maps.sum((-1, -2)) / maps.shape[-2] if self.official else maps.mean((-1, -2))

    def _diagonal(self, maps: Tensor) -> Tensor:
        """Return the mean of the main diagonal; of those of all supports where they stand side by side."""
        length, width = maps.shape[-2:]
        if self.official or width % length:
            return maps.diagonal(dim1=-2, dim2=-1).mean(-1)
        each = maps.view(*maps.shape[:-1], width // length, length)  # (..., L, K, L)
        return each.diagonal(dim1=-3, dim2=-1).mean((-1, -2))

    def _linear(self, maps: Tensor) -> Tensor:
        assert self.linear is not None
        if maps.shape[-1] * maps.shape[-2] != self.linear.in_features:
            n_frames = math.isqrt(self.linear.in_features)
            raise InputError(f"matching=linear was built for {n_frames} frames a video, got {maps.shape[-1]}")
        return self.linear(maps.flatten(-2)).squeeze(-1)


def plain_tuples(frames: Tensor, length: int) -> Tensor:
    """Return all tuples of frames (..., T, D) in time order, side by side, (..., C(T, length), length * D)."""
    if length == 1:
        return frames
    if frames.shape[-2] < length:
        raise InputError(f"tuples of {length} frames need at least {length} frames per video, got {frames.shape[-2]}")
    return frames[..., all_tuples(frames.shape[-2], length, frames.device), :].flatten(-2)


def side_by_side(similarity: Tensor, index: Tensor) -> Tensor:
    """Return maps (B, Q, N, L, K * L) of the supports at index (B, N, K) from maps (B, Q, S, L, L)."""
    chosen = torch.stack([one[:, rows] for one, rows in zip(similarity, index, strict=True)])  # (B, Q, N, K, L, L)
    return chosen.transpose(-3, -2).flatten(-2)
