"""The simple heads in plain words, one episode at a time: classifiers tuned on the supports, prototypes, baselines.

As in `plain_heads.py`, weights and first weights are our heads' own. Supports (S, T, D), labels (S,), queries
(Q, T, D) -> logits (Q, N); what is tuned on supports is tuned by torch's optimisers and torch's gradients.
"""

import torch
import torch.nn.functional as F
from plain_heads import plain_cosine
from torch import Tensor, nn

from fsar.heads import EpisodeBatch
from fsar.heads.methods.bd_cspn import BDCSPN
from fsar.heads.methods.bi_mhm import TINY
from fsar.heads.methods.crosstransformer import CrossTransformer
from fsar.heads.methods.laplacian_shot import LaplacianShot
from fsar.heads.methods.pal import PAL
from fsar.heads.methods.proto import Proto
from fsar.heads.methods.tsn import TSN
from fsar.heads.methods.tuned_classifiers import TSL, Baseline
from fsar.heads.methods.tuned_prototypes import TIM, TunedPrototypes


def means_of_classes(x: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the mean of each class, class by class."""
    return torch.stack([x[labels == label].mean(0) for label in range(n_way)])


def plain_tsn(head: TSN, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Mean cosine of mean frames to the supports of each class."""
    cosine = plain_cosine(query.mean(1), support.mean(1))
    return head.scale * torch.stack([cosine[:, labels == label].mean(1) for label in range(n_way)], 1)


def plain_proto(head: Proto, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Cosine of mean frames to class means, times the learned scale."""
    prototypes = means_of_classes(support.mean(1), labels, n_way)
    cosine = F.cosine_similarity(query.mean(1).unsqueeze(1), prototypes.unsqueeze(0), dim=-1)
    return head.log_scale.exp() * cosine


def plain_bi_mhm(head: nn.Module, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Nearest frames both ways, of a query and the mean video of each class."""
    means = means_of_classes(support, labels, n_way)
    known, asked = (x.flatten(0, 1) / (x.flatten(0, 1).norm(dim=-1, keepdim=True) + TINY) for x in (means, query))
    distance = (1 - asked @ known.T).view(len(query), query.shape[1], n_way, -1).transpose(1, 2)  # (Q, N, T, T)
    return -(distance.amin(3).sum(2) + distance.amin(2).sum(2))


def plain_pal(head: PAL, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Supports attend to each other, queries to what became of the supports."""
    support, query = support.mean(1), query.mean(1)
    support = support + head.mha(support, support, support)[0]
    query = query + head.mha(query, support, support)[0]
    return plain_cosine(query, means_of_classes(support, labels, n_way))


def plain_crosstransformer(
    head: CrossTransformer, support: Tensor, labels: Tensor, query: Tensor, n_way: int
) -> Tensor:
    """A prototype for each query frame and class, class by class."""
    asked, wanted = head.key_head(query), head.value_head(query)  # (Q, T, E)
    columns = []
    for label in range(n_way):
        own = support[labels == label].flatten(0, 1)
        keys, values = head.key_head(own), head.value_head(own)
        attention = (asked @ keys.T / keys.shape[-1] ** 0.5).softmax(-1)
        columns.append(F.cosine_similarity(attention @ values, wanted, dim=-1).sum(1) / query.shape[1])
    return torch.stack(columns, 1)


def plain_baseline(head: Baseline, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """A linear layer, SGD, 100 rounds of small batches; "baseline-plus" prepares its inputs."""
    batch = EpisodeBatch({"frames": support[None]}, labels[None], {"frames": query[None]}, n_way)
    support, query = support.mean(1).float(), query.mean(1).float()
    generator = torch.Generator().manual_seed(head.seed)
    start = head.first_weights(support[None], batch, generator)[0]
    layer = nn.Linear(support.shape[1], n_way)
    layer.weight.data, layer.bias.data = start[:, :-1].clone(), start[:, -1].clone()
    place = support.mean(-1).argsort()
    inputs, wanted = head.prepared(support)[place], labels[place]
    optimizer = torch.optim.SGD(
        layer.parameters(), head.lr, momentum=head.momentum, dampening=head.dampening, weight_decay=head.weight_decay
    )
    with torch.enable_grad():
        for _ in range(head.n_rounds):
            order = torch.randperm(len(support), generator=generator)
            for rows in order.split(head.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(layer(inputs[rows]), wanted[rows]).backward()
                optimizer.step()
    return layer(head.prepared(query)).detach()


def plain_tsl(head: TSL, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """A linear layer on every frame, Adam, full batches; queries by mean probabilities."""
    support, query = support.float(), query.float()
    keys = torch.stack([support[labels == label].mean() for label in range(n_way)])
    generator = torch.Generator().manual_seed(head.seed)
    layer = nn.Linear(support.shape[-1], n_way)
    rows = 0.02 * torch.randn(n_way, support.shape[-1], generator=generator)
    layer.weight.data = rows[keys.argsort().argsort()]
    layer.bias.data.zero_()
    frames, wanted = support.flatten(0, 1), labels.repeat_interleave(support.shape[1])
    optimizer = torch.optim.Adam(layer.parameters(), head.lr, betas=head.betas)
    with torch.enable_grad():
        for _ in range(head.n_steps):
            optimizer.zero_grad()
            F.cross_entropy(layer(frames), wanted).backward()
            optimizer.step()
    return torch.stack([layer(one).softmax(-1).mean(0) for one in query]).detach().log()


def plain_tuned_prototypes(head: TunedPrototypes, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Class means tuned by Adam on the cross entropy of their cosines; "tim" asks the queries as well."""
    support, query = (F.normalize(x.mean(1).float(), dim=-1) for x in (support, query))
    prototypes = means_of_classes(support, labels, n_way).requires_grad_()
    optimizer = torch.optim.Adam([prototypes], head.lr)
    with torch.enable_grad():
        for _ in range(head.n_steps):
            optimizer.zero_grad()
            _tuning_loss(head, prototypes, support, labels, query).backward()
            optimizer.step()
    return F.cosine_similarity(query.unsqueeze(1), prototypes.detach(), dim=-1)


def _tuning_loss(head: TunedPrototypes, prototypes: Tensor, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    def scores(videos: Tensor) -> Tensor:
        return head.temperature * F.cosine_similarity(videos.unsqueeze(1), prototypes, dim=-1)

    loss = F.cross_entropy(scores(support), labels)
    if not isinstance(head, TIM):
        return loss
    shares = scores(query).softmax(-1)
    conditional = -(shares * scores(query).log_softmax(-1)).sum(-1).mean()
    marginal = -(shares.mean(0) * shares.mean(0).log()).sum()
    return head.support_weight * loss + head.conditional_weight * conditional - head.marginal_weight * marginal


def plain_bd_cspn(head: BDCSPN, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Cosines to rectified prototypes."""
    query, prototypes = _rectified(support, labels, query, n_way)
    return F.cosine_similarity(query.unsqueeze(1), prototypes, dim=-1)


def _rectified(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
    """Return the unit mean frames of the queries, and prototypes made again with the queries."""
    support, query = (F.normalize(x.mean(1), dim=-1) for x in (support, query))
    prototypes = means_of_classes(support, labels, n_way)
    moved = query + support.mean(0) - query.mean(0)
    cosine = F.cosine_similarity(moved.unsqueeze(1), prototypes, dim=-1)
    own = F.cosine_similarity(support.unsqueeze(1), prototypes, dim=-1)
    rectified = []
    for label in range(n_way):
        videos = torch.cat((support[labels == label], moved[cosine.argmax(1) == label]))
        shares = torch.cat((own[labels == label, label], cosine[cosine.argmax(1) == label, label])).exp()
        rectified.append((shares.unsqueeze(1) * videos).sum(0) / shares.sum())
    return query, torch.stack(rectified)


def plain_laplacian_shot(head: LaplacianShot, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Rounds of listening to the nearest queries, query by query."""
    query, prototypes = _rectified(support, labels, query, n_way)
    own = -torch.cdist(query, prototypes, compute_mode="donot_use_mm_for_euclid_dist").square()
    apart = torch.cdist(query, query, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    near = [row.topk(min(head.n_neighbours, len(query) - 1), largest=False).indices for row in apart]
    scores = own
    for _ in range(head.n_rounds):
        shares = scores.softmax(-1)
        scores = torch.stack([own[i] + head.weight * shares[index].sum(0) for i, index in enumerate(near)])
    return scores.log_softmax(-1)
