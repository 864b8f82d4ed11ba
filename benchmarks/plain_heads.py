"""The published per-episode algorithms of several heads in plain words, for `heads.py` to compare with.

Each computes one episode the way the official code goes about it: a loop over alignment cells; tuples materialised and
a loop over classes and queries; frame and token concatenated for every query before the linear map. Weights are our
heads' own, so that results must agree.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.layers.attention import sinusoid_table, steep_sinusoid_table
from fsar.heads.layers.tuple_attention import TupleAttention
from fsar.heads.methods.chamfer import Chamfer
from fsar.heads.methods.cmn import CMN
from fsar.heads.methods.hyrsm import HyRSM
from fsar.heads.methods.tarn import TARN
from fsar.heads.methods.team import TEAM
from fsar.heads.methods.trx import TRX


def plain_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return cosines with 0.01 added to the product of norms."""
    norms = a.norm(dim=-1).unsqueeze(-1) @ b.norm(dim=-1).unsqueeze(-2)
    return a @ b.transpose(-1, -2) / (norms + 0.01)


def plain_alignment(distance: Tensor, smoothing: float) -> Tensor:
    """Fill the table of costs cell by cell."""
    padded = F.pad(distance, (1, 1))
    table = torch.zeros_like(padded)
    n_rows, n_columns = padded.shape[-2:]
    for m in range(1, n_columns):
        table[..., 0, m] = padded[..., 0, m] + table[..., 0, m - 1]
    for row in range(1, n_rows):
        for m in range(1, n_columns):
            before = [table[..., row - 1, m - 1], table[..., row, m - 1]]
            if m in (1, n_columns - 1):
                before.append(table[..., row - 1, m])
            total = sum(torch.exp(-cost / smoothing) for cost in before)
            table[..., row, m] = padded[..., row, m] - smoothing * torch.log(total)
    return table[..., -1, -1]


def plain_otam(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N) for supports (S, T, D), labels (S,) and queries (Q, T, D)."""
    cosine = plain_cosine(query.flatten(0, 1), support.flatten(0, 1))
    distance = 1 - cosine.view(len(query), query.shape[1], len(support), -1).transpose(1, 2)
    cost = plain_alignment(distance, 0.1) + plain_alignment(distance.transpose(-1, -2), 0.1)
    return torch.stack([-cost[:, labels == label].mean(1) for label in range(n_way)], 1)


def plain_trx(head: TRX, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N)."""
    parts = [module for module in head.transformers if isinstance(module, TupleAttention)]
    return torch.stack([_plain_cardinality(part, support, labels, query, n_way) for part in parts]).mean(0)


def _plain_cardinality(part: TupleAttention, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    def project(frames: Tensor) -> tuple[Tensor, Tensor]:
        x = part.dropout(frames + 0.1 * sinusoid_table(*frames.shape[1:]).to(frames))
        chosen = [torch.tensor(c, device=x.device) for c in itertools.combinations(range(x.shape[1]), part.size)]
        tuples = torch.stack([x.index_select(1, c).flatten(1) for c in chosen], 1)  # (V, P, w*D)
        return part.norm_k(part.k_linear(tuples)), part.v_linear(tuples)

    (keys, values), (asked, wanted) = project(support), project(query)
    columns = []
    for label in range(n_way):
        chosen = (labels == label).nonzero().flatten()
        class_keys, class_values = (x.index_select(0, chosen).flatten(0, 1) for x in (keys, values))
        scores = asked @ class_keys.T / math.sqrt(keys.shape[-1])  # (Q, P, K*P)
        attention = torch.stack([F.softmax(one, -1) for one in scores])
        difference = wanted - attention @ class_values
        columns.append(-(difference.norm(dim=(-2, -1)) ** 2) / keys.shape[1])
    return torch.stack(columns, 1)


def plain_hyrsm(head: HyRSM, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N), the class means being what queries are related to."""

    def encode(frames: Tensor) -> Tensor:
        n_frames, dim = frames.shape[1:]
        x = math.sqrt(dim / 10) * frames + steep_sinusoid_table(n_frames, dim).to(frames)
        block = head.temporal_atte_before
        heads = block.to_qkv(block.norm(x)).chunk(3, -1)
        q, k, v = (part.view(*part.shape[:2], block.heads, -1).transpose(1, 2) for part in heads)
        attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return (x + block.to_out((attention @ v).transpose(1, 2).flatten(2))).relu()

    support, query = encode(support), encode(query)
    prototypes = torch.stack([support[labels == label].mean(0) for label in range(n_way)])
    n_query, n_frames = query.shape[:2]
    means = prototypes.mean(1).unsqueeze(0).expand(n_query, -1, -1)
    tokens = torch.cat((means, query.mean(1, keepdim=True)), 1)  # (Q, N+1, D)
    related = _plain_relation(head, tokens).unsqueeze(2).expand(-1, -1, n_frames, -1)
    frames = torch.cat((prototypes.unsqueeze(0).expand(n_query, -1, -1, -1), query.unsqueeze(1)), 1)
    expressed = head.layer2(torch.cat((frames, related), -1))  # (Q, N+1, T, D)
    unit = F.normalize(expressed, dim=-1)
    distance = 1 - unit[:, :-1] @ unit[:, -1:].transpose(-1, -2)
    return -(distance.amin(-1).sum(-1) + distance.amin(-2).sum(-1))


def _plain_relation(head: HyRSM, tokens: Tensor) -> Tensor:
    relation = head.temporal_atte
    projected = (relation.w_qs(tokens), relation.w_ks(tokens), relation.w_vs(tokens))
    q, k, v = (x.view(*x.shape[:2], relation.heads, -1).transpose(1, 2) for x in projected)
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    joined = relation.fc((attention @ v).transpose(1, 2).flatten(2))
    return relation.layer_norm(joined + tokens).relu()


def plain_chamfer(head: Chamfer, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N): triples of frames side by side, a map of cosines for each query and class."""
    assert head.fc is not None
    chosen = torch.tensor(list(itertools.combinations(range(query.shape[1]), head.tuple_length)), device=query.device)
    asked, known = (head.layer_norm(head.fc(frames[:, chosen].flatten(2))) for frames in (query, support))
    rows = []
    for one in asked:
        maps = [plain_cosine(one, known[labels == c].flatten(0, 1)) for c in range(n_way)]
        rows.append(torch.stack([(m.amax(1).mean() + m.amax(0).mean()) / 2 for m in maps]))
    return torch.stack(rows) * head.temperature_weight * head.temperature


def plain_cmn(head: CMN, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N): the difference of every frame from every hidden vector, written out."""

    def embed(frames: Tensor) -> Tensor:
        spread = (frames @ head.hidden.T / math.sqrt(frames.shape[-1])).softmax(-1)  # (V, T, J)
        rest = frames.unsqueeze(2) - head.hidden  # (V, T, J, D)
        return head.fc(F.normalize((spread.unsqueeze(-1) * rest).sum(1), dim=-1).flatten(1))

    known, asked = embed(support), embed(query)
    means = torch.stack([known[labels == c].mean(0) for c in range(n_way)])
    return torch.stack([-(one - means).square().sum(-1) for one in asked])


def plain_team(head: TEAM, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N): patterns of classes adapted class by class, distances token by token."""

    def look(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = head.norm(frames + 0.1 * sinusoid_table(*frames.shape[1:]).to(frames))
        attention = head.norm(head.tokens) @ x.transpose(1, 2) / math.sqrt(frames.shape[-1] // 8)
        found = attention.softmax(-1) @ x  # (V, A, D)
        return found, refine(head.tokens + found), refine(head.tokens - found)

    def refine(tokens: Tensor) -> Tensor:
        return F.relu(tokens + head.outer(F.relu(head.inner(tokens))))

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(a.unsqueeze(1), b.unsqueeze(0), dim=-1)).sum(-1)  # (Q, N)

    found, instance, exclusive = look(torch.stack([support[labels == c].mean(0) for c in range(n_way)]))
    adapted, adapted_exclusive = [], []
    for c in range(n_way):
        others = [e for e in range(n_way) if e != c]
        alike = F.cosine_similarity(instance[c].unsqueeze(0), instance[others], dim=-1).unsqueeze(-1)
        unlike = F.cosine_similarity(exclusive[c].unsqueeze(0), exclusive[others], dim=-1).unsqueeze(-1)
        away = found[others] - found[c]
        adapted.append(refine(head.tokens + found[c] - alike * away).mean(0))
        adapted_exclusive.append(refine(head.tokens - found[c] + unlike * away).mean(0))
    _, asked, asked_exclusive = look(query)
    mine, missed = apart(asked, torch.stack(adapted)), apart(asked_exclusive, torch.stack(adapted))
    strange = apart(asked, torch.stack(adapted_exclusive))
    columns = []
    for c in range(n_way):
        others = [e for e in range(n_way) if e != c]
        columns.append(-mine[:, c] - (missed[:, others].amax(1) + strange[:, others].amax(1)) / 2)
    return torch.stack(columns, 1)


def plain_tarn(head: TARN, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return logits (Q, N): a query's segments aligned with one support's after the other's."""
    known, asked = head.segments(support)[0], head.segments(query)[0]  # (V, T, 2H)
    columns = []
    for one in known:
        weights = (head.attention(one) @ asked.transpose(1, 2)).softmax(-1)  # (Q, T of support, T of query)
        aligned = weights.transpose(1, 2) @ one
        cosine = F.cosine_similarity(asked, aligned, dim=-1, eps=1e-6)
        judged = head.judge(torch.stack((cosine, (asked - aligned).norm(dim=-1)), -1))[0][:, -1]
        columns.append(head.fc(judged).sigmoid().squeeze(1))
    relation = torch.stack(columns, 1)
    return torch.stack([relation[:, labels == c].mean(1) for c in range(n_way)], 1)
