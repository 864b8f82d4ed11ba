"""Second-order pooling: a video as how its channels occur together, from ARN, and its relation network."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Input, Losses, Outputs, TableHead, register_head
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_choice, check_positive

RELATION_WIDTH = 64
RELATION_HIDDEN = 8
ATTENTION_WIDTH = 16
PAIRS_AT_ONCE = {"cpu": 8}
"""Pairs of matrices that the relation network sees in one go by device: on a CPU they stay in its cache."""
MANY_PAIRS = 512
"""The same for all other devices: bounds the memory, a MB a pair and layer."""


@register_head("second-order")
class SecondOrder(TableHead):
    """Pool the places of all frames into a matrix of how often channels are strong together, and compare matrices.

    The pooling and the relation network of Zhang et al., "Few-shot Action Recognition with Permutation-invariant
    Attention" (ARN), ECCV 2020, https://arxiv.org/abs/2001.03905. The matrix of products of channels, over its trace,
    goes through a steep sigmoid, which evens out bursts. It knows no order of frames. Classes are means of matrices; a
    query is compared by cosine with a learned scale, or as ARN does, by a network that judges both matrices as one
    picture and learns from squared errors (`compare=relation`), after an attention over places (`attention=true`).

    ARN trains its own encoder from pixels, with self-supervision; here a learned linear map of stored features comes in
    front, so that numbers of the paper are not to be expected. With more than 7 frames the official attention fails;
    here its planes in time are averaged. HF-AR, named beside ARN in tables, has no public code and no head here.

    `compat="official"` keeps the running statistics of the last training batch alone, as the released normalisations
    (momentum 1) do; the default averages them over batches.
    """

    inputs = (Input("map", ("map",), "(D, h, w)"),)
    paper = (
        "Zhang et al., Few-shot Action Recognition with Permutation-invariant Attention, ECCV 2020, "
        "https://arxiv.org/abs/2001.03905"
    )

    def __init__(
        self,
        *,
        dim: int,
        channels: int = 64,
        compare: Literal["cosine", "relation"] = "cosine",
        attention: bool = False,
        steepness: float = 100.0,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head.

        Args:
            dim: Channels D of the feature maps.
            channels: Channels C after the linear map in front; no map if they are as many as D. A multiple of 16 for
                the relation network.
            compare: By "cosine", or by ARN's "relation" network.
            attention: Weigh places by a small network over space and time first.
            steepness: Of the sigmoid that entries go through.
            compat: "official" keeps statistics of the last batch in normalisations.
        """
        super().__init__()
        check_positive("channels", channels)
        momentum = 1.0 if check_choice("compat", compat, ("fixed", "official")) == "official" else 0.1
        self.reduction = nn.Identity() if dim == channels else nn.Linear(dim, channels, bias=False)
        self.attention = PlaceAttention(channels, momentum) if attention else None
        self.steepness = steepness
        self.relation, self.log_scale = None, None
        if check_choice("compare", compare, ("cosine", "relation")) == "relation":
            self.relation = Relation(channels, momentum)
        else:
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the "matrix" (..., C, C) of each video."""
        maps = features["map"]
        lead = maps.shape[:-4]
        channels = self.reduction(maps.flatten(0, -5).movedim(2, -1)).movedim(-1, 1)  # (V, C, T, h, w)
        if self.attention is not None:
            channels = channels * (1 + self.attention(channels))
        matrix = second_order(channels.flatten(2), self.steepness)
        return {"matrix": matrix.view(*lead, *matrix.shape[1:])}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N): scaled cosines, or relation scores between 0 and 1."""
        prototypes = class_means(episodes.support["matrix"], episodes.support_labels, episodes.n_way)  # (B, N, C, C)
        query = episodes.query["matrix"]
        if self.relation is not None:
            return {"logits": self.relation(prototypes, query)}
        assert self.log_scale is not None
        unit_query, unit_classes = (F.normalize(x.flatten(2), dim=-1) for x in (query, prototypes))
        return {"logits": self.log_scale.exp() * unit_query @ unit_classes.transpose(1, 2)}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the cross entropy, or of relation scores the mean squared error to one for the class and zero."""
        if self.relation is None:
            return super().loss(batch, outputs, targets)
        columns = torch.arange(batch.n_way, device=targets.query_labels.device)
        wanted = (targets.query_labels[..., None] == columns).to(outputs["logits"].dtype)  # one_hot would wait for them
        error = F.mse_loss(outputs["logits"], wanted)
        return {"squared error": error, "total": error}


def second_order(channels: Tensor, steepness: float) -> Tensor:
    """Return 2 sigmoid(steepness G / trace(G)) - 1 (V, C, C), G the products of channels (V, C, M) over M places."""
    products = channels @ channels.transpose(1, 2) / channels.shape[2]
    trace = products.diagonal(dim1=1, dim2=2).sum(-1).clamp_min(torch.finfo(products.dtype).tiny)
    return 2 * torch.sigmoid(steepness * (products / trace[:, None, None])) - 1


class Relation(nn.Module):
    """A network that sees a class's and a query's matrix as the two channels of a picture, and scores the pair."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        if channels % 16:
            raise InputError(f"channels must be a multiple of 16 for the relation network, got {channels}")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(2 if layer == 0 else RELATION_WIDTH, RELATION_WIDTH, 3, padding=1) for layer in range(4)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(RELATION_WIDTH, momentum=momentum) for _ in range(4))
        self.fc1 = nn.Linear(RELATION_WIDTH * (channels // 16) ** 2, RELATION_HIDDEN)
        self.fc2 = nn.Linear(RELATION_HIDDEN, 1)
        start_convolutions(self)
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.ones_(layer.bias)

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Return scores (B, Q, N) between 0 and 1 for classes (B, N, C, C) and queries (B, Q, C, C)."""
        n_query, n_way = query.shape[1], classes.shape[1]
        pairs = torch.stack(
            (classes.unsqueeze(1).expand(-1, n_query, -1, -1, -1), query.unsqueeze(2).expand(-1, -1, n_way, -1, -1)), 3
        ).flatten(0, 2)
        if self.training:  # statistics of all pairs, and by the sums that the official code makes
            return self._scores(pairs).view(-1, n_query, n_way)
        n_at_once = PAIRS_AT_ONCE.get(pairs.device.type, MANY_PAIRS)
        pairs = pairs.contiguous(memory_format=torch.channels_last)  # pooled ten times faster on a CPU
        return torch.cat([self._scores(part) for part in torch.split(pairs, n_at_once)]).view(-1, n_query, n_way)

    def _scores(self, pairs: Tensor) -> Tensor:
        """Return the scores (V, 1) of pictures (V, 2, C, C)."""
        x = pairs
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            changed = norm(convolution(x)).relu_()
            x = F.max_pool2d(changed if place == 0 else x + changed, 2)
        return torch.sigmoid(self.fc2(self.fc1(x.flatten(1)).relu()))


class PlaceAttention(nn.Module):
    """Weights of the places (V, 1, 1, h, w) of videos (V, C, T, h, w), by convolutions over space and time."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, ATTENTION_WIDTH, 3, padding=1)
        self.second = nn.Conv3d(ATTENTION_WIDTH, ATTENTION_WIDTH, 3, padding=1)
        self.norm1, self.norm2 = (nn.BatchNorm3d(ATTENTION_WIDTH, momentum=momentum) for _ in range(2))
        self.last = nn.Conv3d(ATTENTION_WIDTH, 1, 1)
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return weights between 0 and 1."""
        x = halved(self.norm1(self.first(x)).relu())
        x = halved(self.norm2(self.second(x)).relu())
        return torch.sigmoid(self.last(x)).mean(2, keepdim=True)


def halved(x: Tensor) -> Tensor:
    """Return the larger of each two planes in time of (V, C, T, h, w); a single plane as it is."""
    return F.max_pool3d(x, (min(2, x.shape[2]), 1, 1))


def start_convolutions(module: nn.Module) -> None:
    """Draw the weights of convolutions as the official code does; biases start at zero."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            rows, columns = child.kernel_size[:2]
            nn.init.normal_(child.weight, std=math.sqrt(2 / (rows * columns * child.out_channels)))
            assert child.bias is not None
            nn.init.zeros_(child.bias)
