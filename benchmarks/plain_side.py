"""Heads on feature maps and on levels of tokens in plain words, one episode at a time; see `plain_heads.py`."""

import math

import torch
import torch.nn.functional as F
from plain_heads import plain_cosine
from torch import Tensor, nn

from fsar.heads import EpisodeBatch
from fsar.heads.layers.attention import steep_sinusoid_table
from fsar.heads.methods.molo import EncoderLayer, MoLo
from fsar.heads.methods.second_order import PlaceAttention, Relation, SecondOrder
from fsar.heads.methods.ts_fsar.head import TSFSAR
from fsar.heads.methods.ts_fsar.side import Attention, SideBlock


def plain_attention(x: Tensor, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return what tokens x (V, L, D) attend to, the weights written out."""
    query, key, value = (part.view(*x.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def means_of_classes(x: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean of each class, class by class."""
    return torch.stack([x[labels == label].mean(0) for label in range(n_way)])


# ---- second-order: ARN's pooling, attention and relation network


def plain_second_order(head: SecondOrder, batch: EpisodeBatch) -> Tensor:
    """Return scores (Q, N): a matrix for one video after the other, all pairs side by side through the network."""
    labels, n_way = batch.support_labels[0], batch.n_way
    support, query = (_matrices(head, part["map"][0]) for part in (batch.support, batch.query))
    classes = means_of_classes(support, labels, n_way)
    assert head.relation is not None
    rows = [_judged(head.relation, torch.stack((classes, one.expand_as(classes)), 1)) for one in query]
    return torch.stack(rows)


def _matrices(head: SecondOrder, maps: Tensor) -> Tensor:
    channels = maps.transpose(1, 2)  # (V, C, T, h, w)
    if head.attention is not None:
        channels = channels * (1 + _weighed(head.attention, channels))
    matrices = []
    for video in channels.flatten(2):
        products = video @ video.T / video.shape[1]
        matrices.append(2 * torch.sigmoid(head.steepness * products / products.trace()) - 1)
    return torch.stack(matrices)


def _weighed(attention: PlaceAttention, x: Tensor) -> Tensor:
    for convolution, norm in ((attention.first, attention.norm1), (attention.second, attention.norm2)):
        x = F.max_pool3d(norm(convolution(x)).relu(), (2, 1, 1))
    return torch.sigmoid(attention.last(x))


def _judged(relation: Relation, x: Tensor) -> Tensor:
    for place, (convolution, norm) in enumerate(zip(relation.convolutions, relation.norms, strict=True)):
        changed = norm(convolution(x)).relu()
        x = F.max_pool2d(x + changed if place else changed, 2)
    return torch.sigmoid(relation.fc2(relation.fc1(x.flatten(1)).relu())).squeeze(1)


# ---- MoLo


def plain_molo(head: MoLo, batch: EpisodeBatch) -> Tensor:
    """Return logits (Q, N) of both streams."""
    labels, n_way = batch.support_labels[0], batch.n_way
    support, query = (_streams(head, part["map"][0]) for part in (batch.support, batch.query))
    costs = [
        _nearest(asked, means_of_classes(known, labels, n_way)) for known, asked in zip(support, query, strict=True)
    ]
    return -(costs[0] + head.motion_weight * costs[1])


def _streams(head: MoLo, maps: Tensor) -> tuple[Tensor, Tensor]:
    reduced = head.motion_reduce(maps.transpose(1, 2)).transpose(1, 2)  # (V, T, D / 8, h, w)
    ahead = torch.stack([head.motion_conv(video[1:]) for video in reduced])
    change = ahead - reduced[:, :-1]
    moving = torch.stack([head.motion_up(video).relu().mean((-2, -1)) for video in change])
    return (
        _encoded(head, maps.mean((-2, -1)), head.class_token, head.temporal_atte_before),
        _encoded(head, moving, head.class_token_motion, head.temporal_atte_before_motion),
    )


def _encoded(head: MoLo, x: Tensor, token: Tensor, layers: nn.ModuleList) -> Tensor:
    x = torch.cat((token.expand(len(x), -1, -1), x), 1)
    shrink, weight = head.position
    x = math.sqrt(x.shape[-1] / shrink) * x + weight * steep_sinusoid_table(*x.shape[1:]).to(x)
    for layer in layers:
        assert isinstance(layer, EncoderLayer)
        own = layer.attention
        x = x + own.to_out(plain_attention(x, *own.to_qkv(own.norm(x)).chunk(3, -1), own.heads))
        x = x + layer.feed_forward(x)
    return x.relu()


def _nearest(query: Tensor, prototypes: Tensor) -> Tensor:
    """Return (Q, N): sums of the nearest distances both ways, class tokens left out."""
    known, asked = prototypes[:, 1:], query[:, 1:]
    cosine = plain_cosine(asked.flatten(0, 1), known.flatten(0, 1))
    distance = 1 - cosine.view(*asked.shape[:2], len(known), -1).transpose(1, 2)  # (Q, N, T, T)
    return distance.amin(3).sum(2) + distance.amin(2).sum(2)


# ---- TS-FSAR


def plain_ts_fsar(head: TSFSAR, batch: EpisodeBatch) -> Tensor:
    """Return logits (Q, N): every video through the side network, then a matrix for each query."""
    assert batch.class_text is not None
    labels, n_way = batch.support_labels[0], batch.n_way
    support, query = (_seen(head, {role: x[0] for role, x in part.items()}) for part in (batch.support, batch.query))
    prototypes, tokens = means_of_classes(support[0], labels, n_way), support[1].mean((0, 1))
    n_frames = prototypes.shape[1]
    rows = []
    for frames, token in zip(query[0], query[1], strict=True):
        matrix = head.generator(tokens + token.mean(0)).view(n_frames, n_frames)
        rows.append(torch.stack([(plain_cosine(frames, known) * matrix).sum() for known in prototypes]))
    score = torch.stack(rows)
    text = F.normalize(F.normalize(batch.class_text[0], dim=-1).mean(1), dim=-1)
    of_clip, of_side = head.clip_scale * query[2] @ text.T, head.side_scale * query[3] @ text.T
    powers = [
        own.softmax(-1) ** head.fuse[name] for name, own in (("vision", score), ("clip", of_clip), ("side", of_side))
    ]
    return (powers[0] * powers[1] * powers[2]).log()


def _seen(head: TSFSAR, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the frames' correlations, the class tokens, and both mean vectors to compare with text."""
    network = head.network
    levels = [
        reduction(norm(features[item.role]))
        for norm, reduction, item in zip(network.norms, network.reductions, head.inputs[:-1], strict=True)
    ]
    x = levels[0]
    for block, gate, level in zip(network.blocks, network.gates, levels[1:], strict=True):
        assert isinstance(block, SideBlock)
        share = torch.sigmoid(gate / 0.1)
        x = share * _block(block, x) + (1 - share) * level
    token, clip = x[:, :, 0], features["clip"]
    mixed = (2 - head.adapter_share) * clip + head.adapter_share * _attended(head.clip_attention, head.clip_norm(clip))
    side = head.up(head.up_norm(token))
    return (
        _correlations(token, x[:, :, 1:], head.exponent),
        token,
        F.normalize(mixed.mean(1), dim=-1),
        F.normalize(side.mean(1), dim=-1),
    )


def _attended(attention: Attention, x: Tensor) -> Tensor:
    return attention.out(plain_attention(x, attention.query(x), attention.key(x), attention.value(x), attention.heads))


def _block(block: SideBlock, x: Tensor) -> Tensor:
    tokens = x.transpose(1, 2) if block.over_time else x  # (V, T, L, d), or places first
    attended = _attended(block.attention, block.norm1(tokens).flatten(0, 1)).view(tokens.shape)
    x = x + (attended.transpose(1, 2) if block.over_time else attended)
    return x + block.fc2(F.gelu(block.fc1(block.norm2(x))))


def _correlations(token: Tensor, patches: Tensor, exponent: float) -> Tensor:
    """Return the upper triangles (V, T, d (d + 1) / 2) of the centred distances between channels."""
    weights = F.cosine_similarity(token.unsqueeze(2), patches, dim=-1).unsqueeze(-1)
    products = (weights * patches).transpose(2, 3) @ (weights * patches) / (2 * patches.shape[2])
    own = products.diagonal(dim1=2, dim2=3)
    squared = (own.unsqueeze(3) + own.unsqueeze(2) - 2 * products).clamp(min=0)
    distance = (squared + 1e-5) ** exponent
    centred = distance - distance.mean(2, keepdim=True) - distance.mean(3, keepdim=True)
    centred = centred + distance.mean((2, 3), keepdim=True)
    row, column = torch.triu_indices(patches.shape[-1], patches.shape[-1])
    return centred[:, :, row, column]
